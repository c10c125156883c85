"""Many runs at once, of which some cannot be read, and how they are shown."""

from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console

from tap_platform.places import run_files
from tap_platform.places.look import Found, look_at_all
from tap_platform.places.place import PlaceState
from tap_platform.places.run_files import mounted_directory, run_statuses
from tap_platform.places.run_logs import run_lines
from tap_platform.places.show import print_run, print_states
from tap_platform.places.states import combine
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.mirrored import fetch_run
from tap_platform.runs.status import RunStatus, write_status


def said(run, **changes):
    place = PlaceState(run, "tap", "gone", "nothing left", None, "cpu", None, None, "me@here")
    return place._replace(**changes)


def shown(*states):
    text = io.StringIO()
    print_states(states, console=Console(file=text, width=200))
    return text.getvalue()


def test_one_broken_run_hides_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    whole, broken = (RunDirectory.create("runs", "tap", name) for name in ("whole", "broken"))
    write_status(whole.status, RunStatus(state="finished"))
    broken.status.write_text("{}}")
    states = {state.place.run: state for state in look_at_all()}
    assert states["whole"].state == "succeeded"
    assert states["broken"].state == "unknown"
    assert "holds no status of a run" in states["broken"].why


def test_mirrors_that_hang_are_asked_at_once_and_not_for_long(tmp_path, monkeypatch):
    seen = RunDirectory.create(tmp_path, "tap", "seen")
    hanging = threading.Event()

    def read(mirror):
        if mirror == "s3://dead/tap/r":
            hanging.wait(20)
        return RunStatus(message=mirror)

    monkeypatch.setattr(run_files, "_mirrored_status", read)
    runs = [(said("seen", run_directory=str(seen.path)), None)]
    runs += [(said(f"r-{number}", mirror="s3://dead/tap/r"), None) for number in range(5)]
    runs += [(said("r", mirror="s3://alive/tap/r"), None)]
    began = time.monotonic()
    found = run_statuses(runs, patience=0.2)
    assert time.monotonic() - began < 10
    hanging.set()
    assert found[0].state == "preparing"
    assert found[1:6] == [None] * 5
    assert found[6].message == "s3://alive/tap/r"


@pytest.mark.parametrize(
    ("project", "run"), [("..", "r"), ("tap", ".."), ("tap", "../x"), ("", "r")]
)
def test_what_a_cluster_calls_its_runs_leads_nowhere(tmp_path, monkeypatch, project, run):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="does not do as a folder name"):
        fetch_run(str(tmp_path / "mirror"), project, run)
    assert not (tmp_path / "cache").exists()
    other = RunDirectory.create(tmp_path / "secret", "r", "r")

    class Profile:
        storage = type("Storage", (), {"seen_here": str(other.path.parent)})

    told = said("../r", project=".")
    assert mounted_directory(told, Profile) is None


def test_what_looks_like_markup_is_shown_as_it_is():
    place = said("r", why="no node takes it [/bold] [1, 2]", place="[red]x", by="[link=http://x]me")
    text = shown(combine(place, None))
    for word in ("no node takes it [/bold] [1, 2]", "[red]x", "[link=http://x]me"):
        assert word in text


def test_a_folder_that_looks_like_markup(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run = RunDirectory.create(tmp_path / "[red]", "tap", "r")
    text = io.StringIO()
    place = MadeUp(said("r", run_directory=str(run.path)))
    print_run(Found("r", place, None, None), Console(file=text, width=300))
    assert f"files          {run.path}" in text.getvalue()


class MadeUp:
    """A place that has no log."""

    name = "cpu"

    def __init__(self, said):
        self.said = said

    def state(self, run):
        return self.said

    def logs(self, run, follow, rank):
        raise ValueError("no pod has the log")


@pytest.mark.parametrize("follow", [False, True])
def test_the_drivers_log_is_in_the_run_directory_when_its_cluster_is_gone(tmp_path, follow):
    run = RunDirectory.create(tmp_path, "tap", "r")
    run.begin_attempt()
    run.driver_log(1).write_text("no workers: no GPU\n")
    found = Found("r", MadeUp(said("r", run_directory=str(run.path))), None, None)
    assert list(run_lines(found, follow, None)) == ["no workers: no GPU"]
    with pytest.raises(ValueError, match="no log of rank 0"):
        list(run_lines(found, follow, 0))
