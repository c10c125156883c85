"""The log of a run, from its place while that has it, and from its directory afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from tap_platform.places.log_files import LOOK_EVERY_SECONDS
from tap_platform.places.look import Found
from tap_platform.places.place import PlaceState
from tap_platform.places.run_files import mounted_directory, run_files
from tap_platform.places.sweep_log import directory_lines

_COPY_SECONDS = 5.0
"""Between two looks at a mirror."""


def run_lines(found: Found, follow: bool, rank: int | None) -> Iterator[str]:
    """The lines that a run printed.

    Args:
        found: the run.
        follow: whether to wait for more until it ends.
        rank: of one worker; None is the driver.

    Raises:
        ValueError: if neither place nor directory has it.
    """
    try:
        lines = iter(found.place.logs(found.run, follow, rank))
        first = next(lines, None)
    except (ValueError, OSError) as error:
        lines, first = _without_place(found, follow, rank, error), None
    if first is not None:
        yield first
    yield from lines


def _without_place(found: Found, follow: bool, rank: int | None, error: Exception) -> Iterator[str]:
    """The run directory's log; if that is not seen either, both reasons are told."""
    try:
        yield from _of_directory(found, follow, rank)
    except ValueError as unseen:
        raise ValueError("\n".join(dict.fromkeys((str(error), str(unseen))))) from None


def _of_directory(found: Found, follow: bool, rank: int | None) -> Iterator[str]:
    state = found.state().place
    directory = run_files(state, found.profile)
    if not follow:
        yield from directory_lines(directory, rank)
        return
    is_mounted = mounted_directory(state, found.profile) is not None
    pause = LOOK_EVERY_SECONDS if is_mounted else _COPY_SECONDS
    yield from directory_lines(directory, rank, lambda: _has_ended(found, state), pause)


def _has_ended(found: Found, state: PlaceState) -> bool:
    """Whether a run has ended; files of a mirror are fetched anew first, so that none is missed."""
    ended = found.state().ended
    with suppress(OSError):
        run_files(state, found.profile)
    return ended
