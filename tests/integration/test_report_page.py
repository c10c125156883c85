"""The page of a run in a browser: on a desktop and a phone, with and without scripts."""

from __future__ import annotations

import asyncio
import io

import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from tap_platform.report.cards import Card, CardPictures
from tap_platform.report.page import Gallery, render_page
from tap_platform.report.records import RunRecords
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import write_json
from tap_platform.runs.metrics import MetricsWriter

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

SEEN = "[...document.querySelectorAll('article')].filter(card => card.offsetParent).length"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
DRAWN = "[...document.images].every(image => image.complete && image.naturalWidth)"
LONG = "a_name_that_is_longer_than_most_" * 3


@pytest.fixture
def page(tmp_path):
    """A run with long words everywhere, and four cards: two right ones."""
    run = RunDirectory.create(tmp_path, "tap", LONG)
    for step in range(1, 60):
        MetricsWriter(run.metrics).write(step, {"loss": 1 / step, "gradient_norm": step})
    suite = {f"{kind}{size}": 0.5 for kind in ("ap", "top_") for size in (*"slmrcf", 1, 5, 50)}
    MetricsWriter(run.metrics).write(60, suite, kind="eval_instances")
    EventLog(run.events).record("failed", reason=LONG * 3)
    write_json(run.provenance, {"git_revision": "c" * 40, "command": ["tap", "train", LONG * 2]})
    write_json(run.report / "scores.json", {"step": 60, "trained": {"box_iou": 0.5}})
    encoded = io.BytesIO()
    Image.new("RGB", (96, 64), (200, 40, 40)).save(encoded, "webp")
    pictures = CardPictures(encoded.getvalue(), encoded.getvalue(), encoded.getvalue())
    said = {"caption": "x" * 400, "phrases": ("y" * 400, "كلب بني"), "names_concept": False}
    cards = [
        Card(pictures, "box", 0.9, "cat", "cat", 0.5),
        Card(pictures, "box", 0.8, None, LONG, 0.5),
        Card(pictures, "one point", 0.1, "cat", "dog", 0.5),
        Card(pictures, "box", 0.9, "cat", "cat", 0.5, **said),
    ]
    file = tmp_path / "page.html"
    file.write_text(render_page(RunRecords.read(run), Gallery(cards, 60)))
    return file.as_uri()


async def look(page, folder, width):
    async with Browser(folder, width) as browser:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        await browser.call("Emulation.setDeviceMetricsOverride", **size)
        await browser.open(page)
        await browser.until(f"document.readyState == 'complete' && {DRAWN}")
        seen = {"all": await browser.evaluate(SEEN), "overflow": await browser.evaluate(OVERFLOW)}
        for what in ("mask", "concept", "caption", "right"):
            label = f"label[for=show-{what}]"
            await browser.evaluate(f"document.querySelector('{label}').scrollIntoView()")
            await browser.click_until(label, f"document.querySelector('#show-{what}').checked")
            seen[what] = await browser.evaluate(SEEN)
        requests = "performance.getEntriesByType('resource').filter(r => r.name[0] != 'd').length"
        seen["requests"] = await browser.evaluate(requests)
        return seen


@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_fits_and_its_filters_work(page, tmp_path, width):
    assert asyncio.run(look(page, tmp_path, width)) == {
        "all": 4,
        "overflow": 0,
        "mask": 1,
        "concept": 1,
        "caption": 1,
        "right": 2,
        "requests": 0,
    }
