"""Local copies of remote files whose content is known by its hash."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from datamodules.cache_folder import cache_folder
from datamodules.storage import Location, atomic_file, read_blocks

_SHA256 = re.compile("[0-9a-f]{64}")


def local_copy(place: Location, sha256: str) -> Path:
    """A file of known content as a local one: copied once to a cache, then found there.

    Files of the cache are named by their hash, so that a file that changes gets another name. A
    local file is its own copy.

    Raises:
        OSError: if it cannot be read.
        ValueError: if its bytes do not have that hash, or that is none.
    """
    if isinstance(place, Path):
        return place
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256[:80]!r} is no sha256 of {place.name}")
    target = cache_folder() / sha256[:2] / sha256
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with atomic_file(target) as file:
        for block in read_blocks(place):
            digest.update(block)
            file.write(block)
        if digest.hexdigest() != sha256:
            raise ValueError(f"{place} is not the file that the index speaks of")
    return target
