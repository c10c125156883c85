"""The seam between the data core and storage: every byte is opened here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


def open_binary(path: str | Path) -> BinaryIO:
    """Open a file for reading at random offsets.

    Raises:
        OSError: if it is missing or may not be read.
    """
    return Path(path).open("rb")


def reason(error: OSError) -> str:
    """What the operating system says, without its number and path: the same on every machine."""
    return os.strerror(error.errno) if error.errno else str(error)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Fill a folder beside `folder` that takes its name when all is well and vanishes when not.

    Yields:
        The folder to write in. Nobody ever sees `folder` half written.

    Raises:
        ValueError: if `folder` holds something already, or its parent cannot be written to.
    """
    target = Path(folder)
    draft = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
    try:
        if target.exists() and any(target.iterdir()):
            raise ValueError(f"{target} is not empty: choose another folder or remove it")
        draft.mkdir(parents=True)
    except OSError as error:
        raise ValueError(
            f"cannot write to {target}: {reason(error)}. Choose a folder that you may write to"
        ) from error
    try:
        yield draft
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
