"""Finding runs, wherever they were submitted, and how they stand."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tap_platform.config.profile import Profile
from tap_platform.places.by_hand import ByHand, all_by_hand, at_path, state_by_hand
from tap_platform.places.find import find_profile, place_of
from tap_platform.places.local import LocalPlace
from tap_platform.places.local_records import recorded_runs
from tap_platform.places.place import Place, PlaceState, State, lies
from tap_platform.places.run_files import run_status, run_statuses
from tap_platform.places.states import RunState, combine
from tap_platform.places.submissions import Record, Submissions
from tap_platform.runs.directory import RunDirectory

_AT_ONCE = 8
_MIRROR_SECONDS = 5.0
"""How long a mirror may take to tell of a run, of many that are looked at."""


class Found(NamedTuple):
    """A run and where it was submitted to."""

    run: str
    place: Place
    profile: Profile | None
    record: Record | None
    """Of its submission; None if it was submitted elsewhere."""

    def state(self) -> RunState:
        """How it stands."""
        return combined(_asked(self.place, self.run), self.profile, self.record)


def find_run(run: str, on: str | None = None) -> Found:
    """Where a run, or a sweep, is.

    Args:
        run: its name; of one that was started on this computer, the path of its directory does too.
        on: its place; None looks at what was submitted from here, and at the runs of this computer.

    Raises:
        ValueError: if it is not known here.
    """
    if on is None and (here := at_path(run)):
        return Found(here.name, ByHand(here), None, None)
    submissions = Submissions()
    record = submissions.find(run)
    if on is not None:
        name, profile = find_profile(on)
        place = place_of(name, profile)
        if isinstance(place, LocalPlace) and (here := _here(run)):
            place = ByHand(here)
        return Found(run, place, profile, record)
    if record is not None:
        return Found(run, place_of(record.place, record.profile), record.profile, record)
    if here := _here(run):
        return Found(run, ByHand(here), None, None)
    names = [each.name for each in all_by_hand()]
    near = submissions.like(run) or difflib.get_close_matches(run, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(
        f"no run {run!r} was submitted from here: {hint}of one that somebody else submitted, name"
        " the place with --on"
    )


def look_at_all(on: str | None = None) -> list[RunState]:
    """How runs stand.

    Args:
        on: the place to ask for all its runs; None looks at what was submitted from here, and at
            the runs of this computer.

    Raises:
        ValueError: if that place does not answer. Without `on`, a place that does not answer leaves
            its runs `unknown`.
    """
    if on is not None:
        name, profile = find_profile(on)
        records = {each.run: each for each in Submissions().all()}
        said = place_of(name, profile).states()
        return _all_combined([(each, profile, records.get(each.run)) for each in said])
    places: dict[str, list[Record]] = {}
    for record in Submissions().all():
        key = record.place + (record.profile.model_dump_json() if record.profile else "")
        places.setdefault(key, []).append(record)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        asked = [each for some in pool.map(_submitted, places.values()) for each in some]
    known = {said.run for said, _, _ in asked}
    here = [(said, None, None) for said in _all_here() if said.run not in known]
    return _all_combined([*asked, *here])


_Asked = tuple[PlaceState, Profile | None, Record | None]


def _all_combined(asked: Sequence[_Asked]) -> list[RunState]:
    """Places' words and directories', which are read at once: a mirror that is down takes long."""
    helped = [(_helped_out(said, record), profile) for said, profile, record in asked]
    statuses = run_statuses(helped, _MIRROR_SECONDS)
    return [combine(said, status) for (said, _), status in zip(helped, statuses, strict=True)]


def combined(said: PlaceState, profile: Profile | None, record: Record | None) -> RunState:
    """A place's word on a run and its directory's; a place that knows nothing is helped out."""
    said = _helped_out(said, record)
    return combine(said, run_status(said, profile))


def _helped_out(said: PlaceState, record: Record | None) -> PlaceState:
    """What the record knows of a run that its place has forgotten."""
    if record is None or said.run_directory is not None:
        return said
    path = lies(record.kind, record.project, record.run)
    job = record.job
    if said.state == "gone" and record.stopped is not None:
        said = said._replace(state="stopped", since=record.stopped)
    return said._replace(
        project=record.project,
        by=record.by,
        submitted=said.submitted or record.submitted,
        run_directory=f"{job.storage}/{path}" if job else None,
        mirror=f"{job.mirror.url.rstrip('/')}/{path}" if job and job.mirror.url else None,
    )


def _submitted(records: Sequence[Record]) -> list[_Asked]:
    """What one place says of its runs; it is asked once."""
    first = records[0]
    why_not = ""
    said: dict[str, PlaceState] = {}
    try:
        said = {each.run: each for each in place_of(first.place, first.profile).states()}
    except (ValueError, OSError) as error:
        why_not = str(error)
    asked: list[_Asked] = []
    for record in records:
        unsaid = (
            _without_word(record.run, record.place, "unknown", why_not)
            if why_not
            else _without_word(record.run, record.place, "gone", "nothing is left of it there")
        )
        asked.append((said.get(record.run, unsaid), record.profile, record))
    return asked


def _asked(place: Place, run: str) -> PlaceState:
    """What a place says of a run, be it that it cannot be asked."""
    try:
        return place.state(run)
    except (ValueError, OSError) as error:
        return _without_word(run, place.name, "unknown", str(error))


def _without_word(run: str, place: str, state: State, why: str) -> PlaceState:
    return PlaceState(run, "", state, why, None, place, None, None, "")


def _all_here() -> list[PlaceState]:
    """Runs and sweeps of this computer, however they were started."""
    submitted = LocalPlace().states()
    known = {said.run for said in submitted}
    by_hand = [state_by_hand(each) for each in all_by_hand() if each.name not in known]
    return [*by_hand, *submitted]


def _here(run: str) -> RunDirectory | None:
    """The run or sweep of that name in this folder's storage, if it was not submitted."""
    if run in recorded_runs():
        return None
    return next((each for each in all_by_hand() if each.name == run), None)
