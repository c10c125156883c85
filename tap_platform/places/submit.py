"""Handing a run to a place, for the first time and again."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tap_platform.config.job import JobConfig
from tap_platform.config.profile import KubernetesProfile, Profile
from tap_platform.config.scale import ScaleConfig
from tap_platform.places.by_hand import ByHand
from tap_platform.places.code_package import pack_code
from tap_platform.places.find import place_of
from tap_platform.places.kubernetes.place import KubernetesPlace
from tap_platform.places.look import Found
from tap_platform.places.place import CodePackage, Kind, Place, Submission
from tap_platform.places.resolve import resolve_job
from tap_platform.places.submissions import Record, Submissions
from tap_platform.runs.directory import check_plain_name, new_run_name
from tap_platform.runs.files import utc_now

JOB_FILE = "job.json"
KINDS: dict[str, Kind] = {
    "concepts": "data",
    "data": "data",
    "eval": "evaluate",
    "label": "data",
}
"""What a verb of `tap` does, of those that may be submitted."""


class Wanted(NamedTuple):
    """What is to be submitted."""

    what: Sequence[str]
    """A job file and overrides of it; or `tap`, a verb and its arguments."""
    name: str | None
    """Of the run; None makes one."""
    with_code: bool
    """Whether the caller's code comes along."""


def make_submission(wanted: Wanted, place: Place, profile: Profile | None) -> Submission:
    """Everything that a place is handed.

    Raises:
        ValueError: if the name or the job is refused, its workers find no room, or there is no code
            to take.
    """
    if wanted.name is not None:
        check_plain_name("run", wanted.name)
    code = pack_code(Path.cwd()) if wanted.with_code else None
    if wanted.what[0] == "tap":
        return _command(wanted, code)
    spec, *overrides = wanted.what
    job = resolve_job(Path(spec), overrides, profile)
    if profile is not None:
        from tap_platform.estimate.nodes import nodes_for

        nodes_for(job, profile)
    run = wanted.name or new_run_name(job.name)
    return Submission(
        run=run,
        project=job.project,
        kind="train",
        command=("tap", "train", f"{place.files}/{JOB_FILE}", "--run", run),
        files={JOB_FILE: job.model_dump_json(indent=2)},
        job=job,
        code=code,
        by=_who(),
    )


def hand_over(submission: Submission, place: Place, profile: Profile | None) -> None:
    """Submit a run, and remember it; one that is refused is forgotten again.

    Raises:
        ValueError: if the place refuses it, or has a run of that name; or it goes on at the place
            that it was submitted to before, or cannot go on here.
    """
    submissions = Submissions()
    with submissions.held(submission.run):
        before = submissions.find(submission.run)
        if before is not None:
            _check_elsewhere(before, place, profile)
        _hand_over(submission, place, profile, before)


def _hand_over(
    submission: Submission, place: Place, profile: Profile | None, before: Record | None
) -> None:
    submissions = Submissions()
    submissions.write(Record.of(submission, place.name, profile))
    try:
        place.submit(submission)
    except BaseException:
        if before is None:
            submissions.forget(submission.run)
        else:
            submissions.write(before)
        raise


def submit_again(found: Found) -> None:
    """Submit a run that has ended once more: it goes on from its last checkpoint.

    Raises:
        ValueError: if it has not ended, has finished, was not submitted from here, or cannot go on
            at this place.
    """
    with Submissions().held(found.run):
        _submit_again(found)


def _submit_again(found: Found) -> None:
    run, record = found.run, found.record
    if isinstance(found.place, ByHand):
        raise ValueError(f"{run} was not submitted: go on with it by {found.state().place.again}")
    if record is None:
        raise ValueError(
            f"{run} was not submitted from here: whoever did has its job; or submit its job file"
            f" under its name, which goes on with it: tap submit SPEC --run {run} --on PLACE"
        )
    _check_elsewhere(record, found.place, found.profile)
    state = found.state()
    if state.place.state == "unknown":
        raise ValueError(
            f"whether {run} goes on is not known, for {found.place.name} does not answer"
            f" ({state.place.why}): try again when it does"
        )
    if state.state == "stopping":
        raise ValueError(f"{run} is stopping: wait for its end, or tap stop {run} --now")
    if not state.ended:
        raise ValueError(f"{run} has not ended ({state.state}): stop it first: tap stop {run}")
    if state.state == "succeeded":
        raise ValueError(f"{run} has finished: there is nothing to go on with")
    if isinstance(found.place, KubernetesPlace):
        found.place.clear(run)
    _hand_over(record.submission(), found.place, found.profile, record)


def _check_elsewhere(before: Record, place: Place, profile: Profile | None) -> None:
    """Refuse a second copy of a run that was submitted to another place.

    Raises:
        ValueError: if it has not ended there, or its files are not where this place looks.
    """
    run = before.run
    if (before.place, before.profile) == (place.name, profile):
        return
    there = place_of(before.place, before.profile)
    try:
        state = there.state(run)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{run} was submitted to {before.place}, which does not answer ({error}): whether it"
            " goes on there is not known; try again when it does, or choose another name"
        ) from None
    if not state.ended:
        raise ValueError(
            f"{run} has not ended at {before.place} ({state.state}): stop it there first: tap stop"
            f" {run}"
        )
    lie, look = _files_of(before.profile, before.job), _files_of(profile, before.job)
    if type(there) is not type(place) or lie != look:
        raise ValueError(
            f"{run} was submitted to {before.place}, and its files are not where {place.name} looks"
            " for them: go on there, or choose another name"
        )


def _files_of(profile: Profile | None, job: JobConfig | None) -> tuple[str | None, ...]:
    """Which storage holds the runs of a place, as far as that can be told from here."""
    storage = getattr(profile, "storage", None)
    if storage is None:
        return (job.storage if job else None,)
    if isinstance(profile, KubernetesProfile) and storage.claim is not None:
        where = profile.context, profile.namespace, storage.claim, storage.mount
        return (storage.path, *where)
    return (storage.path,)


def stop_run(found: Found, *, now: bool) -> str:
    """Ask a run to end, and tell what happens.

    Raises:
        ValueError: if it has ended, or its place does not answer.
    """
    state = found.state()
    if state.ended:
        raise ValueError(f"{found.run} has ended ({state.state}): there is nothing to stop")
    if state.state == "stopping" and not now:
        return f"{found.run} is stopping already"
    grace = 0.0 if now else _grace(found)
    try:
        found.place.stop(found.run, grace)
    except ValueError:
        # Its pods may go on for their grace where one may not end them: it is stopped all the same.
        if found.state().place.state in ("stopping", "gone"):
            _remember_stop(found)
        raise
    _remember_stop(found)
    if now:
        return f"{found.run} is ended without a checkpoint"
    again = state.place.again or f"tap resubmit {found.run}"
    return f"{found.run} has {grace:g} s to write a checkpoint; it goes on with: {again}"


def _remember_stop(found: Found) -> None:
    if found.record is not None:
        Submissions().write(found.record.model_copy(update={"stopped": utc_now()}))


def _grace(found: Found) -> float:
    """Seconds that the run's job gives it."""
    if isinstance(found.place, ByHand):
        return found.place.grace
    job = found.record.job if found.record else None
    return job.scale.grace_seconds if job else ScaleConfig().grace_seconds


def _command(wanted: Wanted, code: CodePackage | None) -> Submission:
    """A verb of `tap` that trains nothing."""
    verb = wanted.what[1] if len(wanted.what) > 1 else ""
    if verb not in KINDS:
        raise ValueError(
            f"`tap {verb}` is not submitted: a job is submitted by its file, and of the verbs"
            f" {', '.join(sorted(KINDS))}"
        )
    kind = KINDS[verb]
    return Submission(
        run=wanted.name or new_run_name(f"tap-{verb}"),
        project="tap",
        kind=kind,
        command=tuple(wanted.what),
        files={},
        job=None,
        code=code,
        by=_who(),
    )


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
