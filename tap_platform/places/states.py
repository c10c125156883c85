"""How a run stands: what its place says and what its directory says, put together.

The place knows whether anything is there to run it; the run directory knows how far it came, and
how it ended, and it outlives the place. Neither alone is right: a cluster whose head was lost says
nothing, and a driver that was killed had no time to write its end.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal, NamedTuple

from tap_platform.places.place import PlaceState
from tap_platform.places.place import State as Said
from tap_platform.runs.status import RunStatus
from tap_platform.runs.status import State as Written

State = Literal[Said, "lost"]


class RunState(NamedTuple):
    """How a run stands."""

    place: PlaceState
    """What its place says."""
    status: RunStatus | None
    """What its directory says; None if there is none yet, or it is not seen from here."""
    state: State
    """`lost`: it was going on, and nothing is there any more that could."""
    why: str
    """For people; empty if all is said."""

    @property
    def progress(self) -> str:
        """Steps done, of how many; empty if nobody knows."""
        if self.status is None or (self.status.step == 0 and not self.status.max_steps):
            return ""
        most = self.status.max_steps
        return f"{self.status.step:,} of {f'{most:,}' if most else '?'}"

    @property
    def ended(self) -> bool:
        """Whether it will do no more unless it is submitted again."""
        return self.place.ended or self.state in ("succeeded", "failed", "stopped", "lost")


def combine(place: PlaceState, status: RunStatus | None) -> RunState:
    """How a run stands.

    Args:
        place: what its place says.
        status: what its directory, or a copy of it, says; None if it is not seen. An end that was
            written before the run was submitted last is none.
    """
    if status is None:
        return RunState(place, None, place.state, _unseen(place))
    end = None if _is_of_earlier(status, place.submitted) else _ENDS.get(status.state)
    state, why = _COMBINED[place.state](place, status, end)
    return RunState(place, status, state, why)


def _is_of_earlier(status: RunStatus, submitted: str | None) -> bool:
    """Whether a status was written before the run was submitted last."""
    if submitted is None:
        return False
    return datetime.fromisoformat(status.updated) < datetime.fromisoformat(submitted)


def _unseen(place: PlaceState) -> str:
    """The place's word alone."""
    if place.state != "gone":
        return place.why
    return f"{place.why}; how it ended, its directory tells, which is not seen from here"


_End = Literal["succeeded", "failed", "stopped"]
_ENDS: dict[Written, _End] = {
    "finished": "succeeded",
    "failed": "failed",
    "interrupted": "stopped",
}
_Combined = tuple[State, str]


def _coming(place: PlaceState, status: RunStatus, end: _End | None) -> _Combined:
    """It is not there yet; what its directory says is of an earlier attempt."""
    return place.state, place.why


def _running(place: PlaceState, status: RunStatus, end: _End | None) -> _Combined:
    if end == "succeeded":
        return "running", "training is done; its cluster is ending"
    if status.state in ("failed", "interrupted"):
        last = _first_line(status.message)
        return "running", place.why or f"another attempt begins; the last one ended: {last}"
    return "running", place.why


def _succeeded(place: PlaceState, status: RunStatus, end: _End | None) -> _Combined:
    """Its command ended well, as it does only where training is finished.

    What it wrote may not have come here yet.
    """
    return "succeeded", "" if status.state == "finished" else _late(place, status)


def _failed(place: PlaceState, status: RunStatus, end: _End | None) -> _Combined:
    if end == "succeeded":
        return end, f"its place failed after its end: {place.why}"
    if end == "stopped":
        return end, f"{_first_line(status.message)} ({place.why})"
    if end == "failed":
        return end, status.message or place.why
    return "failed", f"{place.why} ({_how_far(place, status)}); {_go_on(place)}"


def _stopped(place: PlaceState, status: RunStatus, end: _End | None) -> _Combined:
    if end == "succeeded":
        return end, ""
    if place.again and "--resume" in place.why:  # Its driver has said so itself.
        return "stopped", place.why
    why = f"{place.why}; " if place.again and place.why else ""
    return "stopped", f"{why}{_how_far(place, status)}; {_go_on(place)}"


def _gone(place: PlaceState, status: RunStatus, end: _End | None) -> _Combined:
    """Nothing is left of it but its directory."""
    if end is not None:
        return end, status.message
    why = f"its cluster is gone, and its directory does not tell an end ({_how_far(place, status)})"
    return "lost", f"{why}; {_go_on(place)}"


def _unknown(place: PlaceState, status: RunStatus, end: _End | None) -> _Combined:
    """The place does not answer: an end that is written down holds all the same."""
    if end is not None:
        return end, status.message
    written = f"{status.state}, {_how_far(place, status)}, at {status.updated[:19]}"
    return "unknown", f"{place.why}; its directory says {written}"


_COMBINED: dict[Said, Callable[[PlaceState, RunStatus, _End | None], _Combined]] = {
    "queued": _coming,
    "starting": _coming,
    "running": _running,
    "stopping": _coming,
    "succeeded": _succeeded,
    "failed": _failed,
    "stopped": _stopped,
    "gone": _gone,
    "unknown": _unknown,
}


def _how_far(place: PlaceState, status: RunStatus) -> str:
    of = f" of {status.max_steps:,}" if status.max_steps else ""
    return f"after {status.step:,}{of} trials" if place.is_sweep else f"at step {status.step:,}{of}"


def _late(place: PlaceState, status: RunStatus) -> str:
    far = _how_far(place, status)
    return f"its directory says {status.state} still, {far}: the copy here is late"


def _go_on(place: PlaceState) -> str:
    return f"go on from its last checkpoint: {place.again or f'tap resubmit {place.run}'}"


def _first_line(message: str) -> str:
    return message.partition("\n")[0]
