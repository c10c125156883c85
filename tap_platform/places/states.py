"""How a run stands: what its place says and what its directory says, put together.

The place knows whether anything is there to run it; the run directory knows how far it came, and
how it ended, and it outlives the place. Neither alone is right: a cluster whose head was lost says
nothing, and a driver that was killed had no time to write its end.
"""

from __future__ import annotations

from collections.abc import Callable
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
        return f"{self.status.step:,} of {self.status.max_steps or '?':,}"

    @property
    def ended(self) -> bool:
        """Whether it will do no more unless it is submitted again."""
        return self.place.ended or self.state in ("succeeded", "failed", "stopped", "lost")


def combine(place: PlaceState, status: RunStatus | None) -> RunState:
    """How a run stands.

    Args:
        place: what its place says.
        status: what its directory, or a copy of it, says; None if it is not seen.
    """
    if status is None:
        return RunState(place, None, place.state, _unseen(place))
    state, why = _COMBINED[place.state](place, status)
    return RunState(place, status, state, why)


def _unseen(place: PlaceState) -> str:
    """The place's word alone."""
    if place.state != "gone":
        return place.why
    return f"{place.why}; how it ended, its directory tells, which is not seen from here"


_Combined = tuple[State, str]


def _coming(place: PlaceState, status: RunStatus) -> _Combined:
    """It is not there yet; what its directory says is of an earlier attempt."""
    return place.state, place.why


def _running(place: PlaceState, status: RunStatus) -> _Combined:
    if status.state == "finished":
        return "running", "training is done; its cluster is ending"
    if status.state in ("failed", "interrupted"):
        last = _first_line(status.message)
        return "running", place.why or f"another attempt begins; the last one ended: {last}"
    return "running", place.why


def _succeeded(place: PlaceState, status: RunStatus) -> _Combined:
    """Its command ended well; what it wrote may not have come here yet."""
    ends: dict[Written, State] = {"failed": "failed", "interrupted": "stopped"}
    if status.state in ends:
        return ends[status.state], status.message
    return "succeeded", "" if status.state == "finished" else _late(status)


def _failed(place: PlaceState, status: RunStatus) -> _Combined:
    if status.state == "finished":
        return "succeeded", f"its place failed after its end: {place.why}"
    if status.state == "interrupted":
        return "stopped", f"{_first_line(status.message)} ({place.why})"
    if status.state == "failed":
        return "failed", status.message or place.why
    return "failed", f"{place.why} ({_how_far(status)}); {_go_on(place)}"


def _stopped(place: PlaceState, status: RunStatus) -> _Combined:
    if status.state == "finished":
        return "succeeded", ""
    return "stopped", f"{_how_far(status)}; {_go_on(place)}"


def _gone(place: PlaceState, status: RunStatus) -> _Combined:
    """Nothing is left of it but its directory."""
    ends: dict[Written, State] = {
        "finished": "succeeded",
        "failed": "failed",
        "interrupted": "stopped",
    }
    if status.state in ends:
        return ends[status.state], status.message
    why = f"its cluster is gone, and its directory does not tell an end ({_how_far(status)})"
    return "lost", f"{why}; {_go_on(place)}"


def _unknown(place: PlaceState, status: RunStatus) -> _Combined:
    """The place does not answer: an end that is written down holds all the same."""
    state, why = _gone(place, status)
    if state != "lost":
        return state, why
    written = f"{status.state}, {_how_far(status)}, at {status.updated[:19]}"
    return "unknown", f"{place.why}; its directory says {written}"


_COMBINED: dict[Said, Callable[[PlaceState, RunStatus], _Combined]] = {
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


def _how_far(status: RunStatus) -> str:
    return f"at step {status.step:,}" + (f" of {status.max_steps:,}" if status.max_steps else "")


def _late(status: RunStatus) -> str:
    return f"its directory says {status.state} still, {_how_far(status)}: the copy here is late"


def _go_on(place: PlaceState) -> str:
    return f"go on from its last checkpoint: tap resubmit {place.run}"


def _first_line(message: str) -> str:
    return message.partition("\n")[0]
