"""Each page by its address, as HTML; what comes from runs is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from tap_platform.bill.words import PARTS, hours
from tap_platform.dashboard.advice import by_kind, failures_of
from tap_platform.dashboard.collect import Collected
from tap_platform.dashboard.leaderboard import boards_of
from tap_platform.dashboard.overview import LATELY_DAYS, MOST_SHOWN, overview_of
from tap_platform.dashboard.run_files import files_of, read_picture, read_report
from tap_platform.dashboard.run_view import RunViews
from tap_platform.dashboard.sweep_view import sweep_view
from tap_platform.dashboard.words import counted, ending, moment, number, price, span, widths
from tap_platform.report.cards import shortened
from tap_platform.report.style import style_sheet

FIRST = "index.html"
MOST_OF_A_KIND = 25
"""Failures of one kind on their page, the newest."""
LISTS = (FIRST, "sweeps.html", "leaderboard.html", "failures.html")
"""Pages that are there whatever there is."""
ASSETS = ("dashboard.css", "dashboard.js", "plots.js", "plotly.min.js")
"""Files that pages need beside them."""
_OF_ONE = re.compile(r"(?P<kind>runs|sweeps|reports)/(?P<slug>[^/]+)\.html")
_PICTURE = re.compile(r"pictures/(?P<slug>[^/]+)/(?P<file>[0-9a-f]+\.webp)")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".webp": "image/webp",
}


class Content(NamedTuple):
    """What lies at an address."""

    body: bytes
    kind: str
    """Media type."""
    is_foreign: bool = False
    """Whether it was made by a run, and not by us."""


class Pages:
    """All pages of one moment, each made when it is first asked for."""

    def __init__(
        self, collected: Collected, mlflow: str | None = None, folder: Path | None = None
    ) -> None:
        """Make nothing yet.

        Args:
            collected: what they show.
            mlflow: address of MLflow's pages; None without.
            folder: where they are written to; None where they are served.
        """
        self.collected = collected
        self.version = f"{collected.version}{'-mlflow' if mlflow else ''}"
        """Changes with what they show."""
        self._folder = folder
        self._made: dict[str, Content] = {}
        self._views = RunViews(collected)
        self._shared: dict[str, Any] = {
            "collected": collected,
            "mlflow": mlflow,
            "version": self.version,
            "is_served": folder is None,
            "part_names": PARTS,
            "as_of": f"{datetime.fromtimestamp(collected.read, UTC):%Y-%m-%d %H:%M} UTC",
        }

    def addresses(self) -> Iterator[str]:
        """All pages but pictures, which only the pages of their runs name."""
        yield from ASSETS
        yield from LISTS
        yield from (f"sweeps/{slug}.html" for slug in self.collected.sweep_by_slug)
        yield from (f"runs/{slug}.html" for slug in self.collected.run_by_slug)

    def content(self, address: str) -> Content | None:
        """What lies there; None where there is nothing."""
        made = self._made.get(address) or self._make(address)
        if made and (address in (*LISTS, *ASSETS) or address.startswith("sweeps/")):
            self._made[address] = made
        return made

    def _make(self, address: str) -> Content | None:
        if address in ASSETS:
            return Content(_asset(address), _TYPES[Path(address).suffix])
        if address in LISTS:
            return self._html(address, **self._list(address))
        if found := _PICTURE.fullmatch(address):
            return self._picture(found["slug"], found["file"])
        found = _OF_ONE.fullmatch(address)
        if found is None:
            return None
        try:
            return self._page_of_one(found["kind"], found["slug"])
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            return self._html("broken.html", root="../", name=found["slug"], why=str(error))

    def _list(self, address: str) -> dict[str, Any]:
        """What a page about all runs tells."""
        match address:
            case "sweeps.html":
                return {"sweeps": self.collected.sweeps}
            case "leaderboard.html":
                return {"boards": boards_of(self.collected)}
            case "failures.html":
                failures = failures_of(self.collected)
                return {"failures": failures, "kinds": by_kind(failures), "most": MOST_OF_A_KIND}
        overview = overview_of(self.collected)
        return {"overview": overview, "days": LATELY_DAYS, "most": MOST_SHOWN}

    def _page_of_one(self, kind: str, slug: str) -> Content | None:
        if kind == "sweeps":
            sweep = self.collected.sweep_by_slug.get(slug)
            if sweep is None:
                return None
            view = sweep_view(sweep, self.collected)
            return self._html("sweep.html", root="../", view=view)
        run = self.collected.run_by_slug.get(slug)
        if run is None:
            return None
        if kind == "reports":
            report = read_report(run)
            return None if report is None else Content(report, _TYPES[".html"], is_foreign=True)
        shown = self._views.view(run, files_of(run), self._folder)
        return self._html("run.html", root="../", view=shown)

    def _picture(self, slug: str, file: str) -> Content | None:
        run = self.collected.run_by_slug.get(slug)
        if run is None:
            return None
        for pictures in files_of(run).pictures.values():
            for picture in pictures:
                if picture.address == file:
                    body = read_picture(run, picture)
                    return None if body is None else Content(body, _TYPES[".webp"])
        return None

    def _html(self, page: str, root: str = "", **values: Any) -> Content:
        template = _environment().get_template(f"{page}.jinja")
        told = template.render(page=page, root=root, **self._shared, **values)
        return Content(told.encode(), _TYPES[".html"])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tap_platform.dashboard", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        short=shortened,
        widths=widths,
        hours=hours,
        price=price,
        span=span,
        ending=ending,
        moment=moment,
        counted=counted,
        number=number,
        code=_with_code,
        figure=Markup,  # JSON of ours, with every `<` escaped
    )
    return environment


def _with_code(text: str) -> Markup:
    """Our own words, with what stands between backticks as code."""
    parts = text.split("`")
    told = [
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    ]
    return Markup("").join(told)


def _asset(name: str) -> bytes:
    if name == "plotly.min.js":
        return (files("plotly") / "package_data" / name).read_bytes()
    if name == "dashboard.css":
        bill = (files("tap_platform.bill") / "page.css").read_text(encoding="utf-8")
        own = (files("tap_platform.dashboard") / "assets" / name).read_text(encoding="utf-8")
        return f"{style_sheet()}\n{bill}\n{own}".encode()
    return (files("tap_platform.dashboard") / "assets" / name).read_bytes()
