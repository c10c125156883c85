"""The one place where the run directory's files are written, appended to, read and locked.

Everything is a local (or mounted) path here; another kind of storage would begin in this module.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK_BYTES = 1 << 20


def utc_now() -> str:
    """The time in UTC, ISO 8601 with milliseconds, such as `2026-11-21T15:30:00.123+00:00`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a file as a whole: a reader, or a crash, meets the old content or the new.

    Args:
        path: The file; its folder exists.
        data: The whole content.
        durable: Whether the content is on disk when the call returns, at the price of a flush.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            if durable:
                os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        flush_to_disk(path.parent)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace a file by a JSON value, atomically.

    Raises:
        ValueError: The value holds a number that JSON has no word for, such as NaN.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    write_atomic(path, f"{text}\n".encode(), durable=durable)


def write_picture(path: Path, picture: Image) -> None:
    """Replace a picture, as PNG, atomically: trackers send what they find."""
    encoded = io.BytesIO()
    picture.save(encoded, format="png")
    write_atomic(path, encoded.getvalue())


def read_json(path: Path) -> Any:
    """The JSON value of a file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not JSON; the message names it.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): restore or delete it") from error


def record_line(record: dict[str, Any]) -> bytes:
    """A record as one line of JSON.

    Raises:
        ValueError: A value is a number that JSON has no word for, such as NaN.
    """
    text = json.dumps(record, allow_nan=False, ensure_ascii=False, default=str)
    return text.encode() + b"\n"


def append_line(path: Path, line: bytes) -> None:
    """Append a line, in a single write, so that many processes may append.

    A writer that was killed in the middle of a line leaves it without an end; the next line starts
    anew, so that only the torn one is lost.

    Raises:
        OSError: It cannot be written, or only in part, as on a disk that is full.
    """
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            line = b"\n" + line
        if os.write(handle, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(handle)


def read_records(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole records of about a megabyte of lines; torn lines are passed over.

    Args:
        path: A file of JSON lines; one that does not exist holds none.
        offset: Byte to start at, 0 or what an earlier call returned.

    Returns:
        The records, and the byte to go on from: `offset` itself when no line was completed since.
    """
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        lines = file.readlines(CHUNK_BYTES)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    records = [record for line in lines if (record := _parse(line)) is not None]
    return records, offset + sum(map(len, lines))


def all_records(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole record of a file of JSON lines, in the order written."""
    offset, end = -1, 0
    while offset != end:
        offset = end
        records, end = read_records(path, offset)
        yield from records


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock file alone, among threads, processes and hosts; a holder that dies lets go.

    Raises:
        BlockingIOError: Another holds it, and `wait` is False.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)
