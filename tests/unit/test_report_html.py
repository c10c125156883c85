from __future__ import annotations

import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image
from small_runs import make_run

from tap_platform.report.cards import Card, CardPictures
from tap_platform.report.page import Gallery, render_page
from tap_platform.report.records import RunRecords
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import write_json
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.status import update_status

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'
ARABIC = "كلب بني على العشب"


class Elements(HTMLParser):
    """Every element with its attributes, and the text without styles."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text, self.inside = [], "", ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.inside = tag
        self.text += " "

    def handle_endtag(self, tag):
        self.inside = ""
        self.text += " "

    def handle_data(self, data):
        self.text += data if self.inside != "style" else ""

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def pictures():
    encoded = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 40, 40)).save(encoded, "webp")
    return CardPictures(encoded.getvalue(), encoded.getvalue(), encoded.getvalue())


def card(pictures, iou, **changes):
    fields = {"prompt": "box", "true_concept": "cat", "concept": "cat", "probability": 0.25}
    return Card(pictures, iou=iou, **{**fields, **changes})


def page_of(run, gallery=None):
    return render_page(RunRecords.read(run), gallery or Gallery(reason="no reason"))


def test_an_empty_run_has_a_page_that_says_what_is_missing(tmp_path):
    page = page_of(make_run(tmp_path, "empty"), Gallery(reason="its data <have> gone"))
    text = Elements(page).text
    for words in ("empty", "preparing", "no final scores", "Nothing was measured", "None: every"):
        assert words in text
    assert "No pictures: its data <have> gone" in text


def test_texts_of_strangers_are_text(tmp_path, pictures):
    run = make_run(tmp_path)
    update_status(run.status, state="failed", message=EVIL)
    EventLog(run.events).record("failed", reason=EVIL)
    EventLog(run.events).record("quarantined", shard="a", key="b", reason=EVIL)
    write_json(run.provenance, {"command": [EVIL], "git_revision": EVIL})
    write_json(run.report / "scores.json", {"step": 1, EVIL: {"box_iou": 0.5, EVIL: 1.0}})
    MetricsWriter(run.metrics).write(1, {EVIL: 0.5}, kind=f"eval_{EVIL}")
    words = {"concept": EVIL, "true_concept": EVIL * 2, "caption": EVIL, "phrases": (EVIL,)}
    found = Elements(page_of(run, Gallery([card(pictures, 0.5, **words)], 1)))
    assert not found.named("script")
    assert len(found.named("img")) == 3
    assert found.text.count('<script>alert("x")</script>') >= 9


def test_the_page_needs_nothing_from_outside(tmp_path, pictures):
    run = make_run(tmp_path)
    for step in range(1, 9):
        MetricsWriter(run.metrics).write(step, {"loss": 1 / step})
    page = page_of(run, Gallery([card(pictures, 0.5)], 8))
    found = Elements(page)
    assert all(image["src"].startswith("data:image/") for image in found.named("img"))
    assert all(link["href"].startswith("#") for link in found.named("a"))
    assert not {"link", "script", "iframe", "object"} & {name for name, _ in found.found}
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in found.named("meta")[2]["content"]


def test_three_regions_and_their_filters(tmp_path, pictures):
    cards = [
        card(pictures, 0.9, caption="a cat", names_concept=True, cider=149.2, phrases=("my cat",)),
        card(pictures, 0.8, caption="a dog", names_concept=False),
        card(pictures, 0.2, true_concept=None),
    ]
    found = Elements(page_of(make_run(tmp_path), Gallery(cards, 4)))
    assert [each["id"] for each in found.named("input")] == [
        "show-all",
        "show-mask",
        "show-caption",
        "show-right",
    ]
    assert [each["class"] for each in found.named("article")] == [
        "card mask",
        "card caption",
        "card right",
    ]
    words = " ".join(found.text.split())
    assert "all 3 mask failures 1 caption failures 1 right 1" in words
    assert "a cat CIDEr 149 people say my cat" in words
    assert "it has no name" in words


def test_words_of_any_length_and_direction_have_room(tmp_path, pictures):
    said = {"phrases": ("x" * 10_000, ARABIC, *"abc"), "caption": ARABIC, "names_concept": False}
    page = page_of(make_run(tmp_path), Gallery([card(pictures, 0.9, **said)], 4))
    found = Elements(page)
    assert "x" * 241 not in found.text
    assert found.text.count(ARABIC) == 2
    assert len([each for _, each in found.found if each.get("dir") == "auto"]) == 6


def test_losses_that_are_no_numbers_are_told(tmp_path):
    run = make_run(tmp_path)
    for step, loss in enumerate((2.0, float("nan"), float("nan"), 1.0)):
        MetricsWriter(run.metrics).write(step, {"loss": loss})
    words = " ".join(Elements(page_of(run)).text.split())
    assert "all terms: 2 of 4 values are not finite numbers" in words


def test_resumes_are_told_beside_the_curves(tmp_path):
    run = make_run(tmp_path)
    for attempt, step in ((1, 1), (2, 2)):
        MetricsWriter(run.metrics, attempt).write(step, {"loss": 1.0})
    EventLog(run.events, 2).record("training", goes_on_from="step-1")
    words = " ".join(Elements(page_of(run)).text.split())
    assert "the run was resumed, at step 1;" in words
    assert "training goes on from step-1" in words


def test_every_failure_has_its_rule_in_the_style(tmp_path, pictures):
    page = page_of(make_run(tmp_path), Gallery([card(pictures, 0.5)], 4))
    rules = set(re.findall(r"#show-(\w+):checked ~ \.cards > :not\(\.(\w+)\)", page))
    assert rules == {(name, name) for name in ("mask", "concept", "caption", "right")}


def test_the_drawing_imports_no_torch():
    code = "import sys, tap_platform.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
