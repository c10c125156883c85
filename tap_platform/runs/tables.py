"""Tables that a run leaves for people, such as what its model confuses: `tables/NAME-step-N.json`.

The form is pandas' `split`, which MLflow shows as a table too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_json, write_json

FOLDER = "tables"
Cell = str | int | float | None


class TableFile(NamedTuple):
    """Rows under named columns; the cells of a column are of one type, or None."""

    columns: list[str]
    data: list[list[Cell]]


def write_table(
    run: RunDirectory, name: str, step: int, columns: Sequence[str], rows: Sequence[Sequence[Cell]]
) -> Path:
    """Keep a table in the run directory, where trackers find it.

    Args:
        run: The run.
        name: What it tells, such as `classification-confusion`.
        step: Optimizer steps done.
        columns: Their names.
        rows: A cell for each column.

    Raises:
        ValueError: A cell is a number that JSON has no word for, such as NaN.
    """
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-step-{step}.json"
    write_json(path, {"columns": list(columns), "data": [list(row) for row in rows]})
    return path


def read_table(path: Path) -> TableFile:
    """A table that was kept.

    Raises:
        ValueError: The file is none.
    """
    tree = read_json(path)
    try:
        columns, data = [str(each) for each in tree["columns"]], [list(row) for row in tree["data"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no table ({error}): delete it") from None
    if any(len(row) != len(columns) for row in data):
        raise ValueError(f"{path} holds rows of more or less than {len(columns)} cells: delete it")
    return TableFile(columns, data)
