"""The numbers of a comparison as people read them."""

from __future__ import annotations

import math

from tap_platform.compare.measures import GOODPUT, Cell, Measure
from tap_platform.report.tables import MEASURES
from tap_platform.report.tables import Measure as Known

ABSENT = "-"
_MOST_DIGITS = 5
"""After the point."""
_WHERE = {"final": "", "val": "while training: ", "train": "training: "}


def title(measure: Measure) -> str:
    """What a measure is: `mask mIoU by box, %`."""
    kind, slash, name = measure.name.partition("/")
    known = _known(measure.name)
    if not slash:
        return measure.name if known is None else f"{known.title}, {known.unit}"
    where = _WHERE.get(kind)
    if where is None:
        where = f"{kind.removeprefix('eval_')}: "
    if known is None:
        return f"{where}{name.replace('_', ' ')}"
    unit = known.unit.replace("x 100", "").strip()
    return f"{where}{known.title}{f', {unit}' if unit else ''}"


def value(measure: Measure, cell: Cell) -> str:
    """A mean with its spread: `67.7 ± 0.4`."""
    if cell.value is None:
        return ABSENT
    factor, digits = _scale(measure)
    mean, spread = factor * cell.value.mean, factor * (cell.value.spread or 0.0)
    if not spread:
        return _number(mean, digits)
    if digits is None:  # No more of them than the spread leaves certain.
        digits = 1 - math.floor(math.log10(spread))
        digits = None if digits > _MOST_DIGITS else max(0, digits)
    return f"{_number(mean, digits)} ± {_number(spread, digits)}"


def difference(measure: Measure, cell: Cell) -> str:
    """To the first column, with its sign; empty in that column itself, and where there is none."""
    if not cell.difference:
        return ""
    factor, digits = _scale(measure)
    told = _number(factor * cell.difference, digits)
    return told if told.startswith("-") else f"+{told}"


def spread_of(cell: Cell) -> str:
    """What the spread is of, in words."""
    if cell.value is None or cell.value.of == "none":
        return "measured once"
    what = "runs of other seeds" if cell.value.of == "runs" else "last records"
    return f"± of {cell.value.count} {what}"


def _known(name: str) -> Known | None:
    kind, _, rest = name.partition("/")
    if name == GOODPUT:
        return Known(GOODPUT, "%")
    return MEASURES.get(rest) if kind in ("final", "val") or kind.startswith("eval_") else None


def _scale(measure: Measure) -> tuple[float, int | None]:
    """Factor, and digits after the point; None: as many as matter."""
    known = _known(measure.name)
    return (1.0, None) if known is None or not known.unit else (known.factor, 1)


def _number(number: float, digits: int | None) -> str:
    return f"{number:,.3g}" if digits is None else f"{number:,.{digits}f}"
