"""The page in a browser: a picture is opened, clicked on, and answered."""

from __future__ import annotations

import asyncio

import pytest
import torch
from browser import CHROMIUM, Browser
from PIL import Image

from datamodules.vocabulary import Vocabulary
from tap_platform.models import Tap, TapConfig
from tap_platform.prediction import TapPredictor
from tap_platform.prediction.app import CORNER, build_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
CONFIG = TapConfig.preset("tiny", image_size=96, window_size=2, concept_dim=16)


@pytest.fixture
def address(tmp_path):
    image = Image.new("RGB", (300, 200), (60, 120, 60))
    image.paste((200, 40, 40), (100, 50, 200, 150))
    image.save(tmp_path / "square.png")
    names = Vocabulary.from_names(("dog", "cat"), CONFIG.concept_dim, "names")
    torch.manual_seed(0)
    page = build_page(TapPredictor(Tap(CONFIG), names), tmp_path / "square.png")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True)
    yield address
    page.close()


def text(name):
    return f"document.querySelector('#{name} textarea, #{name} input')?.value"


def shown(name):
    return f"document.querySelector('#{name} img')?.naturalWidth"


async def ask_by_clicks(address, folder):
    async with Browser(folder) as browser:
        await browser.open(address)
        await browser.until(f"{shown('picture')} == 300")
        by_point = await browser.click_until("#picture img", text("concept"))
        await browser.until(f"{shown('answer')} == 960")
        await browser.screenshot(folder / "page.png")
        await browser.click("#forget")
        await browser.until(f"!{text('concept')}")
        await browser.click(f"#meaning label:has(input[value='{CORNER}'])")
        await browser.click("#picture img", 0.3, 0.3)
        await browser.until("document.body.innerText.includes('opposite corner')")
        await browser.click("#picture img", 0.7, 0.8)
        return by_point, await browser.until(text("concept")), await browser.evaluate(text("score"))


def test_clicks_are_answered(address, tmp_path):
    by_point, by_box, score = asyncio.run(ask_by_clicks(address, tmp_path))
    for concept in (by_point, by_box):
        assert concept.split()[0] in ("dog", "cat")
    assert float(score) == float(score)
    assert Image.open(tmp_path / "page.png").width > 1000
