from __future__ import annotations

import json
import threading

import pytest

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.files import locked, write_json
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.status import update_status
from tap_platform.runs.tracking.base import Session
from tap_platform.runs.tracking.follower import Follower


class Notebook:
    """A tracker that keeps everything, and fails when told to."""

    name = "notebook"

    def __init__(self):
        self.params, self.metrics, self.pictures, self.files, self.tags = {}, [], [], [], {}
        self.starts, self.ends, self.is_open = [], [], False
        self.is_abandoned = False
        self.failures = 0
        self.next_step = 0
        self.changed = threading.Event()

    def start(self, run, run_id):
        self.fail()
        self.starts.append(run_id)
        self.is_open = True
        return Session("id-1", None if run_id else self.next_step)

    def log_params(self, params):
        self.params.update(params)

    def log_metrics(self, records):
        self.fail()
        self.metrics += [(r.step, n, v) for r in records for n, v in r.named_values.items()]
        self.changed.set()

    def log_picture(self, path, step):
        self.fail()
        self.pictures.append((path.name, step))

    def log_file(self, path):
        self.files.append(path.name)

    def set_tags(self, tags):
        self.tags.update(tags)

    def finish(self, state, time):
        self.fail()
        self.ends.append(state)
        self.is_open = False
        self.changed.set()

    def close(self):
        self.is_open = False

    def abandon(self):
        self.is_abandoned = True

    def fail(self):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the server answers 500")


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path, "tap", "one")
    write_json(run.config, {"name": "one", "optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "e": {}})
    update_status(run.status, state="running", attempt=run.begin_attempt())
    return run


def losses(steps):
    return [(step, "train/loss", float(step)) for step in steps]


def write_steps(run, steps, attempt=1):
    writer = MetricsWriter(run.metrics, attempt)
    for step in steps:
        writer.write(step, {"loss": step})


def test_nothing_is_said_before_the_first_record(run):
    tracker = Notebook()
    assert Follower(run, tracker).sync() == 0
    assert tracker.starts == []


def test_a_run_that_fails_before_its_first_record_is_shown(run):
    tracker = Notebook()
    update_status(run.status, state="failed")
    Follower(run, tracker).sync()
    assert tracker.ends == ["failed"]


def test_all_that_is_there_is_sent_once(run):
    tracker = Notebook()
    write_steps(run, range(1, 4))
    (run.pictures / "grid-step-3.png").write_bytes(b"png")
    (run.pictures / ".grid-step-4.png.x").write_bytes(b"half")
    (run.report / "table.md").write_text("table")
    EventLog(run.events).record("start")
    update_status(run.status, state="finished")
    assert Follower(run, tracker).sync() == 3 + 4
    assert tracker.metrics == losses([1, 2, 3])
    assert tracker.params == {
        "name": "one",
        "optimizer.lr": 0.1,
        "optimizer.betas": [0.9, 0.99],
        "e": {},
    }
    assert tracker.pictures == [("grid-step-3.png", 3)]
    assert tracker.files == ["config.json", "events.jsonl", "table.md"]
    assert (tracker.starts, tracker.ends, tracker.is_open) == ([None], ["finished"], False)

    assert Follower(run, tracker).sync() == 0
    assert tracker.starts == [None]


def test_a_resume_goes_on_with_the_one_run_and_doubles_no_step(run):
    tracker = Notebook()
    write_steps(run, range(1, 8))
    Follower(run, tracker).sync()
    update_status(run.status, state="interrupted")
    Follower(run, tracker).sync()
    update_status(run.status, state="running", attempt=run.begin_attempt())
    write_steps(run, range(5, 11), attempt=2)
    MetricsWriter(run.metrics, 2).write(10, {"iou": 0.5}, kind="val")
    MetricsWriter(run.metrics, 2).write(10, {"lr": 0.1})
    Follower(run, tracker).sync()
    assert tracker.metrics == [
        *losses(range(1, 11)),
        (10, "val/iou", 0.5),
        (10, "train/lr", 0.1),
    ]
    assert tracker.starts == [None, "id-1", "id-1"]
    assert tracker.ends == ["interrupted"]


def test_a_resume_while_the_tracker_was_down_doubles_no_step(run):
    tracker = Notebook()
    write_steps(run, range(1, 8))
    write_steps(run, range(5, 11), attempt=2)
    Follower(run, tracker).sync()
    assert tracker.metrics == losses(range(1, 11))


def test_a_torn_line_waits_for_its_end_and_is_passed_over_for_good(run):
    tracker = Notebook()
    write_steps(run, [1])
    with run.metrics.open("ab") as file:
        file.write(b'{"step": 2, "kind": "train"')
    follower = Follower(run, tracker)
    assert follower.sync() == 2
    assert follower.sync() == 0
    write_steps(run, [2, 3], attempt=2)
    follower.sync()
    assert tracker.metrics == losses([1, 2, 3])


def test_a_new_store_is_told_everything_again(run):
    first, second = Notebook(), Notebook()
    write_steps(run, range(1, 4))
    Follower(run, first).sync()
    write_steps(run, [4])
    second.start = lambda run, run_id: Session("id-2", 0)
    Follower(run, second).sync()
    assert second.metrics == losses([1, 2, 3, 4])
    assert json.loads((run.path / "tracking-notebook.json").read_text())["run_id"] == "id-2"


def test_a_store_that_tells_what_it_lacks_is_told_the_rest(run):
    tracker = Notebook()
    tracker.next_step = 3
    write_steps(run, range(1, 6))
    for step in (2, 4):
        (run.pictures / f"grid-step-{step}.png").write_bytes(b"png")
    Follower(run, tracker).sync()
    assert tracker.metrics == losses([3, 4, 5])
    assert tracker.pictures == [("grid-step-4.png", 4)]


def test_sync_raises_and_a_later_one_sends_the_rest(run):
    tracker = Notebook()
    write_steps(run, range(1, 4))
    (run.pictures / "a.png").write_bytes(b"png")
    update_status(run.status, state="finished")
    for broken in range(4):
        tracker.failures = 1
        with pytest.raises(ConnectionError):
            Follower(run, tracker).sync()
        assert not tracker.is_open, broken
        tracker.failures = 0
        if broken == 3:
            Follower(run, tracker).sync()
    assert tracker.metrics == losses([1, 2, 3])
    assert tracker.pictures == [("a.png", None)]
    assert tracker.ends == ["finished"]


def test_a_changed_config_is_sent_again(run):
    tracker = Notebook()
    write_steps(run, [1])
    follower = Follower(run, tracker)
    follower.sync()
    write_json(run.config, {"optimizer": {"lr": 0.25}})
    follower.sync()
    assert tracker.params["optimizer.lr"] == 0.25


def test_only_one_process_sends(run):
    write_steps(run, [1])
    tracker = Notebook()
    with (
        locked(run.path / ".tracking-notebook.lock"),
        pytest.raises(RuntimeError, match="another process sends one to notebook"),
    ):
        Follower(run, tracker).sync()
    assert Follower(run, tracker).sync() == 2


def test_in_the_background_failures_are_one_event_and_everything_arrives(run):
    tracker = Notebook()
    tracker.failures = 5
    follower = Follower(run, tracker, interval=0.001)
    follower.start()
    write_steps(run, range(1, 4))
    assert tracker.changed.wait(10)
    write_steps(run, [4])
    update_status(run.status, state="finished")
    assert follower.stop(final_timeout=10)
    assert tracker.metrics == losses([1, 2, 3, 4])
    assert tracker.ends == ["finished"]
    kinds = [event["kind"] for event in read_events(run.events)]
    assert kinds == ["tracking_failed", "tracking_recovered"]
    assert read_events(run.events)[0]["error"] == "the server answers 500"


def test_a_tracker_that_stays_down_is_left_behind_and_synced_later(run):
    tracker = Notebook()
    tracker.failures = 10**9
    follower = Follower(run, tracker, interval=0.001)
    follower.start()
    write_steps(run, range(1, 4))
    update_status(run.status, state="finished")
    assert not follower.stop(final_timeout=10)
    assert read_events(run.events)[-1]["kind"] == "tracking_behind"
    tracker.failures = 0
    Follower(run, tracker).sync()
    assert tracker.metrics == losses([1, 2, 3])


def test_a_tracker_that_hangs_does_not_hold_up_the_end(run):
    tracker = Notebook()
    entered, released = threading.Event(), threading.Event()

    def hang(records):
        entered.set()
        released.wait(10)

    tracker.log_metrics = hang
    follower = Follower(run, tracker, interval=0.001)
    write_steps(run, [1])
    follower.start()
    assert entered.wait(10)
    assert not follower.stop(final_timeout=0.01)
    assert tracker.is_abandoned
    released.set()
