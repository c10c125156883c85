"""Everything about a run on one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from tap_platform.report.cards import (
    POOR_IOU,
    Card,
    count_failures,
    data_uri,
    failures_first,
    phrases_in_short,
    rounded_down,
    shortened,
)
from tap_platform.report.charts import HEIGHT, WIDTH, draw_chart
from tap_platform.report.curves import PANELS, Line, lines_of, resumed_at
from tap_platform.report.facts import facts_of
from tap_platform.report.records import RunRecords
from tap_platform.report.story import checkpoints_in_words, story_of
from tap_platform.report.style import style_sheet
from tap_platform.report.tables import score_table, suite_tables
from tap_platform.runs.quarantine import by_reason, quarantined


class Chart(NamedTuple):
    """A drawing with its words."""

    title: str
    unit: str
    lines: Sequence[Line]
    address: str
    """Data URI of the SVG."""


class Gallery(NamedTuple):
    """Cards, or why there are none."""

    cards: Sequence[Card] = ()
    step: int | None = None
    """The step of the checkpoint that was asked."""
    reason: str = ""
    """For people."""


def render_page(records: RunRecords, gallery: Gallery) -> str:
    """The page as HTML: no script, no address outside of it; text is escaped.

    Args:
        records: the run.
        gallery: what its model says about held-out regions, in any order.
    """
    loader = PackageLoader("tap_platform.report", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(
        address=lambda content: data_uri(content, "image/webp"),
        short=shortened,
        phrases=phrases_in_short,
        two_digits=rounded_down,
    )
    return environment.get_template("page.html.jinja").render(
        records=records,
        style=style_sheet(),
        facts=facts_of(records),
        charts=_charts(records),
        chart_size=(WIDTH, HEIGHT),
        resumed=resumed_at(records.events),
        scores=score_table(records.scores),
        suites=suite_tables(records),
        gallery=gallery,
        cards=failures_first(gallery.cards),
        counts=count_failures(gallery.cards),
        poor_iou=POOR_IOU,
        story=story_of(records.events),
        checkpoints=checkpoints_in_words(records.events),
        bad_samples=by_reason(quarantined(records.run.events)),
    )


def _charts(records: RunRecords) -> list[Chart]:
    found = [(panel, lines) for panel in PANELS if (lines := lines_of(panel, records.metrics))]
    end = max((line.steps[-1] for _, lines in found for line in lines), default=0)
    resumed = resumed_at(records.events)
    return [
        Chart(
            panel.title,
            panel.unit,
            lines,
            data_uri(draw_chart(panel, lines, resumed, end).encode(), "image/svg+xml"),
        )
        for panel, lines in found
    ]
