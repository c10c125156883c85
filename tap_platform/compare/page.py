"""A comparison as one HTML page: no script, no address outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from tap_platform.compare import words
from tap_platform.compare.measures import measures
from tap_platform.compare.pictures import picture_rows
from tap_platform.compare.runs import ComparedRun, columns_of
from tap_platform.compare.settings import differences
from tap_platform.report.cards import data_uri, shortened
from tap_platform.report.style import style_sheet


def render_comparison(runs: Sequence[ComparedRun]) -> str:
    """The page as HTML; text is escaped.

    Args:
        runs: two or more, in the order to be shown; others are compared with the first.
    """
    environment = Environment(
        loader=PackageLoader("tap_platform.compare", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(
        address=lambda content: data_uri(content, "image/webp"),
        short=shortened,
        title=words.title,
        value=words.value,
        difference=words.difference,
        spread_of=words.spread_of,
    )
    own = (files("tap_platform.compare") / "page.css").read_text(encoding="utf-8")
    columns = columns_of(runs)
    measured = measures(columns)
    return environment.get_template("page.html.jinja").render(
        runs=runs,
        style=f"{style_sheet()}\n{own}",
        columns=columns,
        differences=differences(columns),
        results=[each for each in measured if each.is_result],
        details=[each for each in measured if not each.is_result],
        pictures=picture_rows(runs),
    )
