"""The dashboard's pages in a real browser, at the widths of a desk and of a phone."""

import shutil
import sys
import time
from pathlib import Path

import pytest

from tap_platform.dashboard.collect import collect
from tap_platform.dashboard.site import write_site

PERF = Path(__file__).resolve().parents[1] / "perf"
ROWS = "[...document.querySelectorAll('#lines tbody tr')].filter(row => !row.hidden)"


@pytest.fixture(scope="module")
def perf():
    """The benchmark's generator and its browser."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PERF))
        import browser
        import made_runs

        yield made_runs, browser
        for name in ("browser", "made_runs"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def storage(perf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "runs"
    perf[0].make_storage(folder, runs=90, sweeps=4, now=time.time(), records=5)
    return folder


@pytest.fixture(scope="module")
def site(storage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    write_site([str(storage)], folder)
    return folder


@pytest.fixture(scope="module")
def window(perf):
    browser = perf[1]
    if not any(map(shutil.which, browser.NAMES)):
        pytest.skip("no Chromium here")
    with browser.Browser() as opened:
        yield opened


def test_the_generator_makes_as_many_runs_as_it_was_asked_for(storage):
    found = collect([str(storage)])
    assert (len(found.runs), len(found.sweeps)) == (90, 4)
    assert sum(fault.skipped for fault in found.faults) == 4
    assert {"running", "finished", "failed", "lost"} <= {run.account.state for run in found.runs}


def pages(site):
    ones = (next(iter(sorted(site.glob(f"{kind}/*.html")))) for kind in ("sweeps", "runs"))
    lists = ("index.html", "sweeps.html", "leaderboard.html", "failures.html")
    return [*(site / name for name in lists), *ones]


@pytest.mark.parametrize("width", [1440, 390])
def test_no_page_is_wider_than_its_window_or_complains(site, window, width):
    window.resize(width)
    window.faults.clear()
    for page in pages(site):
        window.go(page.as_uri())
        assert window.ask("document.documentElement.scrollWidth") <= width, page
        assert window.first_paint_ms()["first-contentful-paint"] > 0
    assert window.faults == []


def test_a_sweeps_drawings_are_drawn(site, window):
    window.resize(1440)
    window.go(next(iter(sorted(site.glob("sweeps/*.html")))).as_uri())
    drawn = "document.querySelectorAll('.plot .main-svg').length"
    until = time.monotonic() + 30
    while not window.ask(drawn) and time.monotonic() < until:
        time.sleep(0.1)
    assert window.ask("document.querySelectorAll('#parallel .scatterlayer .trace').length") > 5
    assert window.faults == []


def test_the_table_is_filtered_and_sorted_and_stays_so(site, window):
    window.resize(1440)
    window.go((site / "index.html").as_uri())
    shown = window.ask(f"{ROWS}.length")
    assert window.ask(f"{ROWS}.every(row => row.dataset.kind !== 'trial')")
    choose = "document.querySelector('#filters [name=state]').value = 'bad';"
    window.ask(f"{choose} document.getElementById('filters').dispatchEvent(new Event('input'))")
    assert 0 < window.ask(f"{ROWS}.length") < shown
    window.ask("document.querySelectorAll('#lines thead button')[5].click()")
    costs = f"{ROWS}.map(row => Number(row.cells[5].dataset.v))"
    found = window.ask(costs)
    assert found == sorted(found, reverse=True)
    window.go(f"{(site / 'failures.html').as_uri()}")
    window.call(
        "Page.navigate", url=f"{(site / 'index.html').as_uri()}#state=bad&sorted=5:ascending"
    )
    time.sleep(1)
    assert window.ask(costs) == sorted(found)
