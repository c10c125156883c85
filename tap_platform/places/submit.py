"""Handing a run to a place, for the first time and again."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tap_platform.config.profile import Profile
from tap_platform.config.scale import ScaleConfig
from tap_platform.places.code_package import pack_code
from tap_platform.places.kubernetes.place import KubernetesPlace
from tap_platform.places.look import Found
from tap_platform.places.place import CodePackage, Kind, Place, Submission
from tap_platform.places.resolve import resolve_job
from tap_platform.places.submissions import Record, Submissions
from tap_platform.runs.directory import new_run_name
from tap_platform.runs.files import utc_now

JOB_FILE = "job.json"
KINDS: dict[str, Kind] = {
    "ablate": "sweep",
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
        ValueError: if the job is refused, its workers find no room, or there is no code to take.
    """
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
        ValueError: if the place refuses it, or has a run of that name.
    """
    submissions = Submissions()
    before = submissions.find(submission.run)
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
        ValueError: if it has not ended, has finished, or was not submitted from here.
    """
    run, record = found.run, found.record
    if record is None:
        raise ValueError(
            f"{run} was not submitted from here: whoever did has its job; or submit its job file"
            f" under its name, which goes on with it: tap submit SPEC --run {run} --on PLACE"
        )
    state = found.state()
    if not state.ended:
        raise ValueError(f"{run} has not ended ({state.state}): stop it first: tap stop {run}")
    if state.state == "succeeded":
        raise ValueError(f"{run} has finished: there is nothing to go on with")
    if isinstance(found.place, KubernetesPlace):
        found.place.clear(run)
    hand_over(record.submission(), found.place, found.profile)


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
    found.place.stop(found.run, grace)
    if found.record is not None:
        Submissions().write(found.record.model_copy(update={"stopped": utc_now()}))
    if now:
        return f"{found.run} is ended without a checkpoint"
    return (
        f"{found.run} has {grace:g} s to write a checkpoint; it goes on with: tap resubmit"
        f" {found.run}"
    )


def _grace(found: Found) -> float:
    """Seconds that the run's job gives it."""
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
