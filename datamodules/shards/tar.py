"""Tars: built member by member, and scanned for where their members lie. Nothing is unpacked."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

MOST_MEMBER_BYTES = 1 << 50
"""A header that tells of more than this is damaged."""


class TarBuilder:
    """Writes a tar to a file from its first byte to its last; equal members give equal bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = _HashedFile(file)
        hashed: Any = self._file
        self._tar = tarfile.TarFile(fileobj=hashed, mode="w", format=tarfile.PAX_FORMAT)

    def append(self, name: str, data: bytes) -> tuple[int, int]:
        """Add a file; gives where it lies: (byte offset, bytes)."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return self._tar.offset - padded, len(data)

    def finish(self) -> tuple[int, str]:
        """End the tar; gives its bytes and their sha256."""
        self._tar.close()
        return self._file.tell(), self._file.digest.hexdigest()


class _HashedFile:
    """A file that is written once, from first to last."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._size += len(data)
        self.digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._size


class PassingFile:
    """A file that is read once, from first to last; all that passes is counted and hashed.

    Args:
        blocks: its bytes, in pieces.
    """

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._block = b""
        self._position = 0
        self.size = 0
        """Bytes that came so far; all of them after `drain`."""
        self.digest = hashlib.sha256()

    def tell(self) -> int:
        """The position that is read next."""
        return self._position

    def seek(self, position: int) -> int:
        """Pass over what lies before a position.

        Raises:
            tarfile.StreamError: if it has passed already.
        """
        if position < self._position:
            raise tarfile.StreamError("its members run backwards")
        while self.size < position and self._next():
            pass
        self._position = min(position, self.size)
        return self._position

    def read(self, size: int) -> bytes:
        """The next bytes; fewer at the end."""
        data = b""
        while len(data) < size and (self._position < self.size or self._next()):
            start = self._position - (self.size - len(self._block))
            piece = self._block[start : start + size - len(data)]
            self._position += len(piece)
            data += piece
        return data

    def drain(self) -> None:
        """Pass over the rest."""
        while self._next():
            pass

    def _next(self) -> bool:
        self._block = next(self._blocks, b"")
        self.size += len(self._block)
        self.digest.update(self._block)
        return bool(self._block)


def scan_tar(file: Any) -> Iterator[tuple[str, int, int]]:
    """Name, byte offset and size of each plain file in a tar, up to its end or to where it breaks.

    Links, devices and folders are passed over. A tar ends at a header whose size cannot be true.

    Args:
        file: has `read`, `seek` and `tell`; what it holds is not to be trusted.

    Raises:
        ValueError: if it does not begin as a tar does.
        OSError: if it cannot be read.
    """
    found = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not 0 <= member.size < MOST_MEMBER_BYTES:
                    break
                if member.isreg() and not member.issparse():
                    found += 1
                    yield _plain(member.name), member.offset_data, member.size
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        if not found:
            raise ValueError(f"is not an uncompressed tar: {error}") from error


def _plain(name: str) -> str:
    """A member's name as text that every encoder takes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
