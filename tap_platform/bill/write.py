"""A bill into files, each in the format that its name asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tap_platform.bill.page import render_bill
from tap_platform.bill.rows import Bill
from tap_platform.bill.text import as_csv, as_markdown
from tap_platform.runs.files import write_atomic

FORMATS: dict[str, Callable[[Bill], str]] = {
    ".md": as_markdown,
    ".html": render_bill,
    ".csv": as_csv,
}


def check_format(path: Path) -> None:
    """Refuse a file that no bill can be written to, before runs are read for it.

    Raises:
        ValueError: it is a folder, or its name has another ending than `FORMATS`.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file in it, such as {path / 'bill.html'}")
    if path.suffix not in FORMATS:
        raise ValueError(
            f"{path.name} does not tell a format: let its name end in {', '.join(FORMATS)}"
        )


def write_bill(bill: Bill, path: Path) -> None:
    """Write a bill to a file.

    Raises:
        ValueError: its name asks for no known format.
        OSError: it cannot be written.
    """
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, FORMATS[path.suffix](bill).encode())
