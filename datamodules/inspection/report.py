"""A data set's statistics in a terminal: numbers, and histograms as compact bars."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from datamodules.inspection.histogram import Histogram
from datamodules.inspection.statistics import TOP_CATEGORIES, PartCounts, Statistics

_COLUMN = 38
"""Width of one of two columns: two fit in 80 characters."""
_LABEL, _SHARE = 14, 6


def print_statistics(statistics: Statistics, console: Console) -> None:
    """Draw a data set's statistics, two columns of bars where there is room for them."""
    console.print(Text(statistics.path, "bold"), soft_wrap=True)
    if statistics.is_estimate:
        console.print(
            f"estimated from {statistics.read:,} of {statistics.samples:,} samples"
            " (--samples all reads every one)",
            style="yellow",
        )
    console.print(_counts(statistics))
    unreadable = sum(part.unreadable for part in statistics.parts)
    if unreadable:
        console.print(
            f"{unreadable:,} annotations cannot be read: see tap data verify", style="red"
        )
    panels = [_bars(each) for each in statistics.histograms if each.total]
    panels.append(_top_categories(statistics))
    console.print(_in_columns(panels, 2 if console.width >= 2 * _COLUMN + 4 else 1))


def _counts(statistics: Statistics) -> Table:
    """One column for each part, and one for all where there are several."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    groups = [(part.name, [part]) for part in statistics.parts]
    if len(groups) > 1:
        groups.append(("together", statistics.parts))
    for name, _ in groups:
        table.add_column(escape(name), justify="right")
    for label, values in _rows([parts for _, parts in groups]):
        table.add_row(label, *values)
    return table


def _rows(groups: Sequence[Sequence[PartCounts]]) -> list[tuple[str, list[str]]]:
    rows = [
        ("shards", [f"{sum(part.shards for part in parts):,}" for parts in groups]),
        ("samples", [f"{sum(part.samples for part in parts):,}" for parts in groups]),
        (
            "samples with priors",
            [f"{sum(part.samples_with_priors for part in parts):,}" for parts in groups],
        ),
        ("bytes", [decimal(sum(part.shard_bytes for part in parts)) for parts in groups]),
    ]
    rows += [
        (f"  {kind}", [decimal(sum(part.member_bytes[kind] for part in each)) for each in groups])
        for kind in ("images", "annotations", "priors")
    ]
    regions = ["regions", "with masks", "with category", "with phrases", "with priors"]
    for name in [*regions, "phrases", "phrases left out"]:
        label = f"  {name}" if name.startswith("with") else name
        rows.append((label, [_estimated(name, parts) for parts in groups]))
    return rows


def _estimated(name: str, parts: Sequence[PartCounts]) -> str:
    """A number of regions of the whole; `~` where not every sample was read."""
    number = sum(part.regions[name] * part.scale for part in parts)
    exact = all(part.read == part.samples for part in parts)
    return f"{number:,.0f}" if exact else f"~{float(f'{number:.3g}'):,.0f}"


def _bars(histogram: Histogram) -> RenderableType:
    mean, least, greatest = (
        f"{float(f'{100 * value:.2g}'):g}%" if histogram.are_shares else f"{value:.4g}"
        for value in (histogram.mean, histogram.least, histogram.greatest)
    )
    story = Text(f"mean {mean}, from {least} to {greatest}", "dim")
    return Group(
        Text(histogram.title, "bold"), story, _chart(histogram.rows(), histogram.total), ""
    )


def _top_categories(statistics: Statistics) -> RenderableType:
    categories = statistics.categories
    title = Text(f"{len(categories):,} categories", "bold")
    if not categories:
        return Group(title, "")
    left = len(categories) - TOP_CATEGORIES
    story = Text(f"the {TOP_CATEGORIES} most common" if left > 0 else "all of them", "dim")
    rows = categories.most_common(TOP_CATEGORIES)
    return Group(title, story, _chart(rows, categories.total()), "")


def _chart(rows: Sequence[tuple[str, int]], total: int) -> Table:
    chart = Table.grid(padding=(0, 1))
    chart.add_column(justify="right", width=_LABEL, no_wrap=True, overflow="ellipsis")
    width = _COLUMN - _LABEL - _SHARE - 2
    chart.add_column(width=width)
    chart.add_column(justify="right", width=_SHARE)
    greatest = max(count for _, count in rows)
    for label, count in rows:
        bar = Bar(greatest, 0, count, width=width, color="cyan")
        chart.add_row(escape(label), bar, _share(count / total))
    return chart


def _share(share: float) -> str:
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{share:.1%}" if share else "-"


def _in_columns(panels: Sequence[RenderableType], columns: int) -> Table:
    """Panels from left to right; those of a row are as high as the highest."""
    table = Table.grid(padding=(0, 4, 0, 0))
    for _ in range(columns):
        table.add_column(width=_COLUMN)
    for start in range(0, len(panels), columns):
        table.add_row(*panels[start : start + columns])
    return table
