"""One call to a remote file system: with a time-out, and again where the fault may pass.

What passes is a time-out, a connection that fails or breaks, and an answer 408, 429 or 5xx; whoever
waits for it is told. What does not pass, or does not pass in time, is an `OSError` whose words are
the same for the same fault on every machine: no addresses, no request numbers.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from upath import UPath

_LOG = logging.getLogger(__name__)

PATIENCE_SECONDS = 180.0
"""How long a call is tried again before the store is taken to be down. With one more time-out it is
less than the ten minutes after which other workers give up waiting for this one."""
TIMEOUT_SECONDS = 60.0
"""How long one try may take, besides the time that its bytes take."""
SLOWEST_BYTES_PER_SECOND = 1 << 20
"""A transfer slower than this is taken for one that hangs."""
PAUSE_SECONDS = 0.5
"""The first pause between two tries, at most; each one after may last twice as long."""
LONGEST_PAUSE_SECONDS = 30.0
_PASSING_STATUSES = frozenset({408, 429})
_MISSING = frozenset({404, 410})
_FORBIDDEN = frozenset({401, 403})
_PASSING_NUMBERS = frozenset({errno.EBUSY, errno.ETIMEDOUT, getattr(errno, "EREMOTEIO", errno.EIO)})
_PASSING_CLIENT_ERRORS = {
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
    "botocore.exceptions": ("HTTPClientError", "IncompleteReadError", "ResponseStreamingError"),
}
"""What the clients of object stores raise for connections, by module: none is an `OSError`."""


def call(place: UPath, name: str, *args: Any, size: int = 0, **options: Any) -> Any:
    """Call a method of a place's file system: `call(place, "cat_file", place.path)`.

    Args:
        place: the file or folder.
        name: a method of `fsspec.AbstractFileSystem`.
        args: its arguments.
        size: bytes to transfer, which lengthens the time-out.
        options: its keyword arguments.

    Raises:
        FileNotFoundError: if nothing is there.
        PermissionError: if the file system does not let us.
        OSError: if the call fails, or goes on failing for `PATIENCE_SECONDS` where the fault may
            pass.
    """
    from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

    tries = Retrying(
        stop=stop_before_delay(PATIENCE_SECONDS),
        wait=wait_random_exponential(PAUSE_SECONDS, LONGEST_PAUSE_SECONDS),
        retry=retry_if_exception(may_pass),
        before_sleep=partial(_tell, place),
        reraise=True,
    )
    timeout = TIMEOUT_SECONDS + size / SLOWEST_BYTES_PER_SECOND
    try:
        return tries(_call_once, place, name, args, options, timeout)
    except Exception as error:
        told = _told(error, place)
        told.add_note(str(place))
        raise told from error


def _call_once(
    place: UPath, name: str, args: tuple[Any, ...], options: dict[str, Any], timeout: float
) -> Any:
    system = place.fs
    if not getattr(system, "async_impl", False):
        return getattr(system, name)(*args, **options)
    from fsspec.asyn import sync

    method = getattr(system, f"_{name}")
    return sync(system.loop, method, *args, timeout=timeout, **options)


def _tell(place: UPath, state: RetryCallState) -> None:
    """Say what a call waits for."""
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    pause = f"the next try is in {state.upcoming_sleep:.1f} s"
    _LOG.warning("%s: %s; %s", place, _passing_fault(error, status_of(error)), pause)


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed a little later."""
    status = status_of(error)
    if status is not None:
        return status in _PASSING_STATUSES or status >= 500
    return any(
        isinstance(each, (TimeoutError, ConnectionError, *_passing_client_errors()))
        or (isinstance(each, OSError) and each.errno in _PASSING_NUMBERS)
        for each in _chain(error)
    )


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, as aiohttp, botocore and gcsfs keep it.

    An answer that breaks off has none, although aiohttp finds one for it.
    """
    for each in _chain(error):
        if isinstance(each, tuple(_passing_client_errors())):
            return None
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
        for name in ("status", "code"):
            status = getattr(each, name, None)
            if isinstance(status, int) and status >= 100:
                return status
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it: fsspec hides a 503 behind a missing file."""
    while error is not None:
        yield error
        error = error.__cause__


def _passing_client_errors() -> Iterator[type[BaseException]]:
    """Those of the clients in use; a client that is not loaded has raised nothing."""
    for module, names in _PASSING_CLIENT_ERRORS.items():
        if module in sys.modules:
            for name in names:
                yield getattr(sys.modules[module], name)


def _told(error: Exception, place: UPath) -> OSError:
    """The error in words that depend on the fault alone."""
    status = status_of(error)
    if may_pass(error):
        return OSError(f"{_passing_fault(error, status)}, for {PATIENCE_SECONDS:g} s")
    if status in _MISSING or (status is None and isinstance(error, FileNotFoundError)):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))
    if status in _FORBIDDEN or isinstance(error, PermissionError):
        return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
    if status is not None:
        return OSError(f"the store answers {status}")
    if isinstance(error, OSError):
        return error
    return OSError(f"{type(error).__name__}: {error}")


def _passing_fault(error: BaseException, status: int | None) -> str:
    if status is not None:
        return f"the store answers {status}"
    if any(isinstance(each, TimeoutError) for each in _chain(error)):
        return f"no answer within {TIMEOUT_SECONDS:g} s"
    return "the connection fails or breaks"
