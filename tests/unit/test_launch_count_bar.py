import io

import pytest
from rich.console import Console

from tap_platform.launch import count_bar as module
from tap_platform.launch.count_bar import count_bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by a second a look."""
    seconds = iter(range(10_000))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(seconds)))


def told(counts, of, note="", **options):
    output = io.StringIO()
    with count_bar("images", Console(file=output, width=40, **options)) as show:
        for done in counts:
            show(done, of, note)
    return output.getvalue()


@pytest.mark.usefixtures("clock")
def test_ten_lines_at_most_with_the_time_that_is_left():
    lines = told(range(1, 2001), 2000, note="5 a second").splitlines()
    assert len(lines) == 9
    assert lines[0] == "images: 200 of 2,000, 0:30:00 left  5 a second"


@pytest.mark.usefixtures("clock")
def test_what_was_done_before_counts_as_no_speed():
    lines = told(range(900, 1000), 1000).splitlines()
    assert lines == []
    lines = told(range(500, 1000), 1000).splitlines()
    assert lines[0] == "images: 600 of 1,000, 0:06:40 left"


def test_what_is_quick_is_worth_no_line():
    assert told(range(1, 101), 100) == ""


def test_a_terminal_shows_a_bar_that_goes(monkeypatch):
    shown = told(range(1, 101), 100, note="fast", force_terminal=True)
    assert "images" in shown
    assert "left  5" not in shown
