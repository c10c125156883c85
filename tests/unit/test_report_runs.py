from __future__ import annotations

import re
import shutil
from itertools import product

import pytest
import torch
from click.testing import CliRunner
from data_samples import box_mask, region, sample
from saved_weights import save_weights
from small_runs import NAMES, make_run, small_job, write_folder

from datamodules.shards.writer import ShardWriter
from datamodules.vocabulary import Vocabulary
from tap_platform.cli import tap
from tap_platform.launch.run_page import write_page
from tap_platform.models import Tap
from tap_platform.runs.files import write_json
from tap_platform.text.training import train_tokenizer

PHRASES = ("a small cat", "my cat")
SAID = [f"a {size} {name}" for size, name in product(("small", "large", "red", "old"), NAMES)]


def made_run(folder, data, **changes):
    """A run of one checkpoint, of random weights."""
    run = make_run(folder)
    job = small_job(data, **changes)
    write_json(run.config, job.model_dump(mode="json"))
    torch.manual_seed(0)
    save_weights(run, 4, Tap(job.model).state_dict())
    return run


def described_folder(folder):
    """Four held-out images of one region each, which people have described."""
    for split, count in (("train", 8), ("val", 4)):
        with ShardWriter(folder / split, 4) as writer:
            for number in range(count):
                own = region(box_mask(48, 64, 4, 6, 30, 40), "cat", phrases=list(PHRASES))
                writer.write(sample(f"{split}{number}", [own], dim=64, seed=number))
    Vocabulary.from_names(NAMES, 64, kind="test").save(folder / "vocabulary.safetensors")
    return folder


def spoken_by(card):
    return re.search(r"caption</dt><dd dir=\"auto\" class=\"(?:good|bad)\">([^<]*)<", card)[
        1
    ].strip()


def articles(page):
    return page.split("<article")[1:]


def test_a_run_has_a_card_for_each_held_out_image(tmp_path):
    run = made_run(tmp_path / "runs", write_folder(tmp_path / "data"))
    page = write_page(run)
    assert page == run.report / "index.html"
    cards = articles(page.read_text())
    assert len(cards) == 4
    assert all(card.count("data:image/webp;base64,UklGR") == 3 for card in cards)
    assert not any("caption</dt>" in card for card in cards)
    assert len(articles(write_page(run, tmp_path / "few" / "page.html", 3).read_text())) == 3


def test_captions_stand_beside_what_people_say_with_the_score_that_is_known(tmp_path):
    data = described_folder(tmp_path / "data")
    run = made_run(tmp_path / "runs", data, recipe={"type": "tap_caption", "train": "all"})
    train_tokenizer(SAID, 64, run.tokenizer)
    cards = articles(write_page(run).read_text())
    by_box = [spoken_by(card) for card in cards if "<figcaption>box<" in card]
    assert len(cards) == 4
    assert len(by_box) == 2
    scored = {"image": "val0", "box": [4.0, 6.0, 30.0, 40.0], "references": PHRASES, "cider": 1.5}
    write_json(run.report / "captions.json", [{**scored, "caption": by_box[0]}])
    for card in articles(write_page(run).read_text()):
        is_box = "<figcaption>box<" in card
        assert PHRASES[0] in card
        assert (PHRASES[1] in card) == is_box
        assert ("CIDEr 150" in card) == (is_box and spoken_by(card) == by_box[0])
    write_json(run.report / "captions.json", [{**scored, "caption": "of an earlier step"}])
    assert "CIDEr 150" not in write_page(run).read_text()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda run, data: shutil.rmtree(run.checkpoints), "no committed checkpoint"),
        (lambda run, data: shutil.rmtree(data), "vocabulary.safetensors"),
        (lambda run, data: shutil.rmtree(data / "val"), "val"),
        (lambda run, data: run.config.unlink(), "config.json"),
    ],
    ids=["no checkpoint", "data gone", "held-out gone", "no config"],
)
def test_where_no_pictures_can_be_made_the_page_says_why(tmp_path, damage, reason):
    data = write_folder(tmp_path / "data")
    run = made_run(tmp_path / "runs", data)
    damage(run, data)
    page = write_page(run).read_text()
    assert reason in page.split("No pictures:")[1].split("</p>")[0]


def test_the_verb_writes_the_page_where_it_is_told_to(tmp_path):
    run = made_run(tmp_path / "runs", tmp_path / "nothing")
    out = tmp_path / "page.html"
    done = CliRunner().invoke(tap, ["report", str(run.path), "--out", str(out), "--images", "0"])
    assert done.exit_code == 0, done.output
    assert done.output == f"wrote {out}\n"
    assert "No pictures: none were asked for" in out.read_text()


def test_a_folder_is_no_place_for_the_page(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder: name a file in it"):
        write_page(make_run(tmp_path / "runs"), tmp_path)
