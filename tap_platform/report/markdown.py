"""Tables of Markdown that read well in a terminal too."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def markdown_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[int] = (0,)
) -> list[str]:
    """The lines of a table, its columns padded to one width.

    Args:
        head: titles.
        rows: cells that are Markdown already, such as `escaped` makes them.
        words: places of the columns that hold text; all others are numbers, to the right.
    """
    widths = [max(3, *map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if place in words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if place in words else f"{'-' * (w - 1)}:" for place, w in enumerate(widths)]
    return [line(head), line(rule), *map(line, rows)]


def escaped(text: str) -> str:
    """Text of people within Markdown."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
