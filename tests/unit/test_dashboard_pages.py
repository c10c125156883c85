"""The dashboard's pages: complete, escaped, and without an address outside of them."""

import json
import re
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from dashboard_storage import BEGIN, EVIL, evaluate, make_storage, make_sweep
from ledger_runs import make_run, priced_run
from PIL import Image

from tap_platform.cli import tap
from tap_platform.dashboard import leaderboard
from tap_platform.dashboard.collect import collect
from tap_platform.dashboard.pages import LISTS, Pages
from tap_platform.dashboard.run_files import files_of, read_picture
from tap_platform.dashboard.site import write_site


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def storage(tmp_path):
    return make_storage(tmp_path / "runs")


def pages_of(storage, now=3600.0):
    return Pages(collect([str(storage)], now=BEGIN + now))


def page(storage, address, **more):
    content = pages_of(storage, **more).content(address)
    assert content is not None
    return content.body.decode()


class Reader(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.handlers, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = [value for name, value in attrs if name in ("href", "src") and value]
        self.addresses += [value for value in found if not value.startswith("#")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text.append(data)


def test_nothing_that_runs_say_becomes_markup(storage):
    pages = pages_of(storage)
    for address in pages.addresses():
        if address.endswith(".html"):
            text = pages.content(address).body.decode()
            assert EVIL not in text, address
            assert "<img src=x" not in text, address
            assert not Reader(text).handlers, address
    told = "".join(Reader(pages.content("index.html").body.decode()).text)
    assert EVIL in told
    assert "<img src=x onerror=alert(1)>" in told


def test_pages_lead_to_pages_and_nowhere_else(storage):
    pages = pages_of(storage)
    there = set(pages.addresses())
    for address in sorted(there):
        if not address.endswith(".html"):
            continue
        for found in Reader(pages.content(address).body.decode()).addresses:
            if found == "data:," or found.startswith("pictures/"):
                continue
            assert "//" not in found, (address, found)
            assert found.removeprefix("../") in there, (address, found)
    assert set(LISTS) <= there


def test_the_first_page_tells_what_runs_what_failed_and_what_is_corrupt(storage):
    text = page(storage, "index.html")
    for told in (
        "20.00 EUR + 50.40 USD",
        "50 of 100 steps",
        "about 30 min to go",
        "worker 1 failed: CUDA out of memory",
        "4 of 4 trials over",
        "Where the time of machines went",
        "tap/torn",
        "tap/empty",
    ):
        assert told in text
    assert text.count('class="p-useful"') >= 2
    assert re.search(r'data-kind="trial"[^>]* hidden', text)


def test_the_leaderboard_ranks_runs_among_the_papers(storage):
    evaluate(priced_run(storage, "winner"), ap=0.45, apr=0.4)
    evaluate(priced_run(storage, "loser"), ap=0.12)
    text = page(storage, "leaderboard.html")
    board = text[text.index("LVIS masks from detector boxes") :]
    board = board[: board.index("</section>")]
    assert [board.index(name) for name in ("winner", "OV-SAM", "TAP-H v1.1", "loser")] == sorted(
        board.index(name) for name in ("winner", "OV-SAM", "TAP-H v1.1", "loser")
    )
    assert '<td class="number first">45.0</td>' in board


def test_failures_tell_what_to_do(storage):
    text = page(storage, "failures.html")
    assert "Lower training.micro_batch" in text
    assert f"tap train --resume {storage}/tap/broken" in text
    assert "search-t0003" not in text


def test_a_sweep_has_its_drawings_and_its_trials(tmp_path):
    make_sweep(tmp_path / "runs", trials=12)
    text = page(tmp_path / "runs", "sweeps/tap--search.html")
    figures = dict(
        re.findall(r'<script type="application/json" id="figure-(\w+)">(.*?)</script>', text)
    )
    assert set(figures) == {"parallel", "best", "importance"}
    parallel = json.loads(figures["parallel"])
    assert len(parallel["data"]) == 12
    assert all(len(line["y"]) == 4 and min(line["y"]) >= 0 for line in parallel["data"])
    told = [each["text"] for each in parallel["layout"]["annotations"]]
    assert {"optimizer.<br>lr", "val/box_iou", "not set", "0.0001", "kl"} <= set(told)
    assert "t0010" in parallel["data"][-1]["text"][0]
    best = json.loads(figures["best"])["data"][1]
    assert list(best["y"]) == sorted(best["y"])
    assert text.index("t0010") < text.index(">t0000<")
    assert 'href="../runs/tap--search-t0010.html"' in text


def test_a_sweep_of_few_trials_says_so(storage):
    text = page(storage, "sweeps/tap--search.html")
    assert "Too few trials to tell: 4 of 10" in text
    assert 'id="figure-importance"' not in text


def test_a_sweep_without_any_measurement_has_a_page(tmp_path):
    sweep = make_sweep(tmp_path / "runs", trials=3)
    sweep.trials.unlink()
    text = page(tmp_path / "runs", "sweeps/tap--search.html")
    assert "No trial has been measured yet." in text
    assert "plotly" not in text


def test_a_sweep_whose_files_do_not_fit_together_says_so(tmp_path):
    sweep = make_sweep(tmp_path / "runs", trials=4)
    text = re.sub(r'"optimizer.lr": [0-9.e-]+', '"optimizer.lr": "<b>"', sweep.trials.read_text())
    sweep.trials.write_text(text)
    shown = page(tmp_path / "runs", "sweeps/tap--search.html")
    assert "do not fit together" in shown
    assert "<b>" not in shown


def test_what_a_sweep_chooses_among_may_be_markup(tmp_path):
    space = {"recipe.objective.concept_loss": {"choice": ["kl", "feature", "</script><b>"]}}
    make_sweep(tmp_path / "runs", trials=4, space=space)
    text = page(tmp_path / "runs", "sweeps/tap--search.html")
    assert "</script><b>" not in text


def test_a_run_shows_what_it_sees_over_time(storage):
    run = make_run(storage, "painter")
    for step in (1000, 200):
        Image.new("RGB", (1600, 400), (step % 255, 0, 0)).save(
            run.pictures / f"held-out-step-{step}.png"
        )
    (run.pictures / "torn-step-3.png").write_bytes(b"no picture")
    pages = pages_of(storage)
    text = pages.content("runs/tap--painter.html").body.decode()
    assert text.index("step 200<") < text.index("step 1,000<")
    shown = re.findall(r'src="\.\./(pictures/[^"]+)"', text)
    found = [pages.content(address) for address in shown]
    assert [content is not None for content in found] == [True, True, False]
    assert found[0].kind == "image/webp"
    assert found[0].body[8:12] == b"WEBP"


def test_links_out_of_a_run_and_pictures_that_are_programs_are_not_shown(storage, tmp_path):
    run = make_run(storage, "linked")
    (tmp_path / "secret").write_text("a key")
    (run.report / "index.html").symlink_to(tmp_path / "secret")
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    (run.pictures / "private-step-1.png").symlink_to(tmp_path / "private.png")
    Image.new("RGB", (8, 8)).save(run.pictures / "program-step-1.png", "EPS")
    Image.new("RGB", (8, 8)).save(run.pictures / "seen-step-1.png")
    listed = pages_of(storage).collected.run_by_slug["tap--linked"]
    shown = {name: read_picture(listed, own[0]) for name, own in files_of(listed).pictures.items()}
    assert {name for name, body in shown.items() if body} == {"seen"}
    assert pages_of(storage).content("reports/tap--linked.html") is None


def test_runs_that_are_not_shown_keep_their_ranks(storage, monkeypatch):
    monkeypatch.setattr(leaderboard, "MOST_ROWS", 1)
    for number in range(3):
        evaluate(priced_run(storage, f"winner-{number}"), ap=0.9 - 0.1 * number)
    board = leaderboard.boards_of(pages_of(storage).collected)[0]
    told = [(entry.rank, entry.is_paper) for entry in board.entries]
    assert (told[:2], board.left_out) == ([(1, False), (4, True)], 2)


@pytest.mark.parametrize(
    "address", ["runs/nobody.html", "pictures/tap--good/00.webp", "../index.html", "x", "sweeps/"]
)
def test_what_is_not_there_is_nothing(storage, address):
    assert pages_of(storage).content(address) is None


def test_an_empty_storage_has_pages(tmp_path):
    (tmp_path / "runs").mkdir()
    pages = pages_of(tmp_path / "runs")
    texts = [pages.content(address).body.decode() for address in LISTS]
    assert "There are no runs yet" in texts[0]
    assert all("</html>" in text for text in texts)


def test_pages_are_written_to_a_folder_with_all_that_they_need(storage, tmp_path):
    run = make_run(storage, "painter")
    Image.new("RGB", (64, 64)).save(run.pictures / "held-out-step-7.png")
    (run.report / "index.html").write_text("<p>its own page")
    out = tmp_path / "out"
    called = CliRunner().invoke(tap, ["dashboard", str(storage), "--write", str(out)])
    assert called.exit_code == 0, called.output
    assert "index.html" in called.output
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"index.html", "dashboard.css", "dashboard.js", "plots.js", "plotly.min.js"} <= names
    for name in names:
        if name.endswith(".html"):
            for found in Reader((out / name).read_text()).addresses:
                if found != "data:,":
                    assert ((out / name).parent / found).resolve().is_file(), (name, found)
    picture = next(out.glob("pictures/tap--painter/*.webp"))
    before = picture.stat().st_mtime_ns
    assert write_site([str(storage)], out) > 4
    assert picture.stat().st_mtime_ns == before


def test_a_file_is_no_folder_for_pages(storage, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: name a folder"):
        write_site([str(storage)], tmp_path / "file")
