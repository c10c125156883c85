from __future__ import annotations

import json
import threading

import pytest

from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.files import locked, write_json
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.status import update_status
from tap_platform.runs.tables import write_table
from tap_platform.runs.tracking.base import Session, TrackerRefusedError
from tap_platform.runs.tracking.follower import Follower as AnyFollower
from tap_platform.runs.tracking.source import CLOCK, RunSource


def Follower(run, tracker, interval=5.0):  # noqa: N802  # as it is called everywhere
    return AnyFollower(RunSource(run, TrackingConfig()), tracker, interval)


class Notebook:
    """A tracker that keeps everything, and fails when told to."""

    name = "notebook"

    def __init__(self):
        self.params, self.metrics, self.pictures, self.files, self.tags = {}, [], [], [], {}
        self.clock, self.system, self.tables, self.texts, self.data = {}, {}, [], {}, []
        self.told = ""
        self.starts, self.ends, self.is_open = [], [], False
        self.is_abandoned = False
        self.failures = 0
        self.knows = False
        self.next_step = 0
        self.changed = threading.Event()

    def start(self, shown, run_id):
        self.fail()
        self.starts.append(run_id)
        self.is_open = True
        return Session("id-1", None if run_id else self.next_step)

    def log_params(self, params):
        self.params.update(params)

    def log_metrics(self, records):
        self.fail()
        for record in records:
            for name, value in record.named_values.items():
                if name == CLOCK:
                    assert record.step not in self.clock, "the clock struck twice"
                    self.clock[record.step] = value
                elif name.startswith("system/"):
                    self.system.setdefault(record.step, {})[name] = value
                else:
                    self.metrics.append((record.step, name, value))
        self.changed.set()

    def log_picture(self, picture):
        self.fail()
        self.pictures.append((picture.name, picture.step))

    def log_table(self, name, step, table):
        self.tables.append((name, step, table.columns, table.data))

    def log_file(self, path, name):
        self.files.append(name)

    def log_text(self, text, name):
        self.texts[name] = text

    def log_data(self, data):
        self.data += data

    def describe(self, text):
        self.told = text

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

    def advice(self, error):
        return "see to the server" if "500" in str(error) and self.knows else None

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
    assert tracker.pictures == [("grid", 3)]
    assert tracker.files == ["config.json", "events.jsonl", "report/table.md"]
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
    second.start = lambda shown, run_id: Session("id-2", 0)
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
    assert tracker.pictures == [("grid", 4)]


def test_sync_raises_and_a_later_one_sends_the_rest(run):
    tracker = Notebook()
    write_steps(run, range(1, 4))
    (run.pictures / "a-step-3.png").write_bytes(b"png")
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
    assert tracker.pictures == [("a", 3)]
    assert tracker.ends == ["finished"]


def test_a_changed_config_is_sent_again(run):
    tracker = Notebook()
    write_steps(run, [1])
    follower = Follower(run, tracker)
    follower.sync()
    write_json(run.config, {"optimizer": {"lr": 0.25}})
    follower.sync()
    assert tracker.params["optimizer.lr"] == 0.25


def test_of_a_step_the_first_picture_stays_and_other_files_are_replaced(run):
    tracker = Notebook()
    write_steps(run, [1])
    picture, page = run.pictures / "grid-step-1.png", run.report / "index.html"
    for content in (b"png", b"drawn again by a resumed run"):
        picture.write_bytes(content)
        page.write_bytes(content)
        (run.pictures / "whole.png").write_bytes(content)
        Follower(run, tracker).sync()
    assert tracker.pictures == [("grid", 1)]
    assert tracker.files.count("report/index.html") == 2
    assert tracker.files.count("pictures/whole.png") == 2


def test_each_step_has_its_time_once(run):
    tracker = Notebook()
    write_steps(run, [1, 2])
    MetricsWriter(run.metrics, 1).write(2, {"iou": 0.5}, kind="val")
    Follower(run, tracker).sync()
    write_steps(run, [2, 3], attempt=2)
    Follower(run, tracker).sync()
    assert sorted(tracker.clock) == [1, 2, 3]
    assert 0 <= tracker.clock[1] <= tracker.clock[3] < 60


def test_what_machines_did_comes_from_the_runs_own_events(run):
    tracker = Notebook()
    events = EventLog(run.events, attempt=1)
    events.record("started", price_per_hour=3600.0, currency="EUR")
    events.record("training", workers=4, gpus=4)
    write_steps(run, [1])
    Follower(run, tracker).sync()
    (told,) = tracker.system.values()
    assert (told["system/workers"], told["system/failures"]) == (4, 0)
    assert told["system/gpu_hours"] == pytest.approx(4 * told["system/machine_hours"], abs=1e-4)
    assert told["system/cost"] == pytest.approx(3600 * told["system/machine_hours"], abs=1e-4)


def test_tables_are_sent_as_tables(run):
    tracker = Notebook()
    write_steps(run, [1])
    write_table(run, "confusion", 1, ["is", "called", "count"], [["cat", "dog", 3]])
    Follower(run, tracker).sync()
    assert tracker.tables == [("confusion", 1, ["is", "called", "count"], [["cat", "dog", 3]])]
    assert not any("tables" in name for name in tracker.files)


def test_settings_that_changed_are_curves_and_a_label(run):
    tracker = Notebook()
    write_steps(run, [30, 60])
    changes = {"optimizer.lr": [0.1, 0.08], "recipe.objective.concept_loss": ["kl", "feature"]}
    events = EventLog(run.events, attempt=1)
    events.record("changed", changes=changes)
    Follower(run, tracker).sync()
    assert "changes" not in tracker.tags, "its step comes with the next event"
    events.record("exploited", number=1, trial="t0001", step=60)
    write_steps(run, [90], attempt=2)
    Follower(run, tracker).sync()
    events = EventLog(run.events, attempt=2)
    events.record("changed", changes={"optimizer.lr": [0.08, 0.1]})
    events.record("started")
    write_steps(run, [120], attempt=3)
    for _ in range(2):
        Follower(run, tracker).sync()
    found = [(step, value) for step, name, value in tracker.metrics if name.startswith("changed/")]
    assert found == [(0, 0.1), (60, 0.08), (90, 0.1)]
    assert tracker.tags["changes"] == (
        "step 60: optimizer.lr 0.1 to 0.08, recipe.objective.concept_loss kl to feature"
        " (weights of t0001); step 90: optimizer.lr 0.08 to 0.1"
    )


class Forgetful(Notebook):
    """Tells at each start what it lacks, as a tracker that keeps records in memory for a while."""

    def start(self, shown, run_id):
        self.is_open = True
        return Session("id-1", self.next_step)


@pytest.mark.parametrize(("next_step", "times"), [(91, 1), (61, 1), (60, 2), (0, 2)])
def test_changes_that_a_store_holds_are_not_sent_again(run, next_step, times):
    tracker = Forgetful()
    tracker.next_step = 0
    write_steps(run, [30, 60])
    events = EventLog(run.events, attempt=1)
    events.record("changed", changes={"optimizer.lr": [0.1, 0.08]})
    events.record("exploited", number=1, trial="t0001", step=60)
    Follower(run, tracker).sync()
    tracker.next_step, tracker.clock = next_step, {}
    write_steps(run, [90], attempt=2)
    Follower(run, tracker).sync()
    found = [(step, value) for step, name, value in tracker.metrics if name.startswith("changed/")]
    assert found == [(0, 0.1), (60, 0.08)] * times


def test_what_is_known_about_an_error_is_told_with_it(run):
    tracker = Notebook()
    write_steps(run, [1])
    tracker.failures, tracker.knows = 1, True
    with pytest.raises(TrackerRefusedError, match=r"see to the server \(the server answers 500\)"):
        Follower(run, tracker).sync()


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
