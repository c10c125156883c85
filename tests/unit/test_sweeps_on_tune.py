"""What Ray Tune is told, and what it is answered: its own controller, without a Ray."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Experiment, Trial
from sweep_specs import sweep

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.status import RunStatus, write_status
from tap_platform.sweeps import exploit, on_tune, run_trial
from tap_platform.sweeps.budget import Spending
from tap_platform.sweeps.directory import SweepDirectory
from tap_platform.sweeps.live_trial import TrialOrder, Waiting
from tap_platform.sweeps.objective import Measure, NeverMeasuredError
from tap_platform.sweeps.orders import write_order
from tap_platform.sweeps.prices import prices_of
from tap_platform.sweeps.records import Exploit, newest_records, read_history
from tap_platform.sweeps.stage import Stage
from tap_platform.sweeps.trainable import TrialDriver
from tap_platform.sweeps.trial_jobs import trial_job


class Sweep:
    """A sweep, its stage, and Ray Tune's controller of it."""

    def __init__(self, folder, **changes):
        self.config = sweep(folder, **changes)
        self.directory = SweepDirectory.at(folder / "runs", "tap", "small")
        if not self.directory.spec.exists():
            self.directory.create(self.config)
        base = trial_job(self.config, {})
        spending = Spending(self.config, self.directory.as_run, prices_of(self.config, base))
        self.stage = Stage(self.config, self.directory, spending, 2, "test_sweeps_on_tune:Told")
        trials = on_tune._Trials(self.stage, retries=2)
        experiment = Experiment(
            "attempt-1",
            TrialDriver,
            stop=on_tune._Ends(self.stage),
            storage_path=str(folder / "ray"),
            max_failures=2,
        )
        self.tune = TuneController(
            search_alg=trials,
            scheduler=on_tune._Results(self.stage, ending=20.0),
            stopper=experiment.stopper,
            storage=experiment.storage,
        )
        trials.add_configurations([experiment])

    def begin(self):
        """The next trial, as if its driver had started; None if there is none now."""
        before = len(self.tune.get_trials())
        self.tune._maybe_update_trial_queue()
        if len(self.tune.get_trials()) == before:
            return None
        trial = self.tune.get_trials()[-1]
        self.tune._set_trial_status(trial, Trial.RUNNING)
        return trial

    def result(self, trial, **values):
        """What a driver returns, and what Ray Tune does about it."""
        decision = self.tune._process_trial_result(trial, {"training_iteration": 1, **values})
        if decision == "STOP":
            self.tune._execute_action(trial, decision)
        return decision

    @property
    def states(self):
        return [each.state for each in newest_records(self.directory.trials)]


def test_ray_tune_trains_the_sweeps_own_trials(tmp_path):
    going = Sweep(tmp_path)
    first, second = going.begin(), going.begin()
    assert (first.trial_id, second.trial_id) == ("t0000", "t0001")
    assert going.begin() is None  # two at once
    assert going.states == ["running", "running"]
    assert "CPU" not in first.placement_group_factory.required_resources
    assert going.tune._actor_force_cleanup_timeout == 20.0
    assert going.result(first, step=1, objective=0.5) == "CONTINUE"
    assert going.result(first, done=True, ended="finished", reason="") == "STOP"
    assert going.begin().trial_id == "t0002"
    going.result(second, done=True, ended="failed", reason="no shards")
    assert going.begin().trial_id == "t0003"
    assert going.begin() is None
    assert going.states == ["finished", "failed", "running", "running"]
    assert going.tune.search_alg.is_finished()


def test_what_ray_tune_keeps_for_itself_can_be_written(tmp_path, monkeypatch):
    from ray.train._internal import storage

    monkeypatch.setattr(storage, "_get_ray_train_session_dir", lambda: str(tmp_path))
    going = Sweep(tmp_path)
    going.begin()
    going.tune.save_to_dir()


def test_a_verdict_stops_a_trial(tmp_path):
    going = Sweep(tmp_path, scheduler={"type": "asha", "grace_steps": 2})
    first, second = going.begin(), going.begin()
    going.result(first, step=2, objective=0.5)
    assert going.result(second, step=2, objective=0.9) == "STOP"
    assert second.status == Trial.TERMINATED
    assert going.states == ["running", "stopped"]


def test_what_a_driver_tells_again_is_known(tmp_path):
    going = Sweep(tmp_path)
    first = going.begin()
    for step in (1, 2, 1, 2, 3):
        going.result(first, step=step, objective=1 / step)
    measured = [r.step for r in read_history(going.directory.trials) if r.what == "measured"]
    assert measured == [1, 2, 3]


def test_a_driver_that_dies_too_often_is_a_failed_trial(tmp_path):
    going = Sweep(tmp_path)
    going.begin()
    going.tune.search_alg.on_trial_complete("t0000", error=True)
    assert going.states == ["failed"]


def test_an_objective_that_never_comes_ends_all(tmp_path):
    going = Sweep(tmp_path)
    first, _ = going.begin(), going.begin()
    going.result(first, done=True, ended="failed", reason="never recorded", hopeless=True)
    assert going.tune._stopper.stop_all()
    assert going.begin() is None
    going.tune._stop_experiment_if_needed()
    assert going.tune.is_finished()


def test_a_trial_without_the_objective_that_others_have_fails_alone(tmp_path):
    going = Sweep(tmp_path)
    first, second = going.begin(), going.begin()
    going.result(first, step=1, objective=0.5)
    going.result(second, done=True, ended="failed", reason="never recorded", hopeless=True)
    assert going.states == ["running", "failed"]
    assert going.begin().trial_id == "t0002"


def test_a_driver_that_dies_while_the_sweep_is_interrupted_goes_on_another_time(tmp_path):
    going = Sweep(tmp_path)
    going.begin()
    going.stage.is_interrupted = True
    going.tune.search_alg.on_trial_complete("t0000", error=True)
    assert going.states == ["running"]


def test_what_is_interrupted_goes_on_another_time(tmp_path):
    going = Sweep(tmp_path)
    first, _ = going.begin(), going.begin()
    going.result(first, step=3, objective=0.5)
    going.stage.is_interrupted = True
    going.tune._stop_experiment_if_needed()
    assert going.tune.is_finished()
    going.stage.close()
    assert going.states == ["running", "running"]
    again = Sweep(tmp_path)
    orders = [TrialOrder.model_validate_json(again.begin().config["order"]) for _ in range(2)]
    assert [(order.trial, order.known) for order in orders] == [("t0000", 3), ("t0001", 0)]


def test_a_budget_that_is_used_up_stops_what_runs(tmp_path, monkeypatch):
    going = Sweep(tmp_path)
    going.begin()
    monkeypatch.setattr(Spending, "exhausted", lambda self, running: "budget.hours 1 is used up")
    going.stage._looked = -math.inf
    going.tune._stop_experiment_if_needed()
    going.stage.close()
    (record,) = newest_records(going.directory.trials)
    assert (record.state, record.reason) == ("stopped", "budget.hours 1 is used up")


def test_no_trial_begins_whose_end_a_budget_would_not_bear(tmp_path):
    """Its workers' grace and a quarter of a minute, each counted four times."""
    ends = (30 + 15) * 4 / 3600
    scale = {"workers": 4, "grace_seconds": 30}
    going = Sweep(tmp_path, budget={"gpu_hours": 1.5 * ends}, base={"scale": scale})
    assert going.begin().trial_id == "t0000"
    assert going.begin() is None
    going.stage.close()
    assert going.states == ["stopped", "stopped"]
    assert not (going.directory.path / "orders/t0001.json").exists()


class Told:
    """A trial that does what its test wants."""

    script: list = []  # noqa: RUF012
    calls: list = []  # noqa: RUF012

    def __init__(self, order):
        self.calls.append(("begin", order.known))

    def measure(self):
        said = self.script.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    def exploit(self, order):
        self.calls.append(("exploit", order.exploit.trial))

    def stop(self, why):
        self.calls.append(("stop", why))


@pytest.fixture
def driver(tmp_path):
    """A driver of a trial, in this process; `Told.script` is what it meets."""
    Told.script, Told.calls = [], []
    order = TrialOrder(
        sweep=str(tmp_path),
        trial="t0000",
        run=str(tmp_path / "run"),
        job=trial_job(sweep(tmp_path), {}),
        metric="train/loss",
        known=4,
        exploit=None,
        runner=f"{__name__}:Told",
    )
    write_order(order)
    made = TrialDriver({"order": order.model_dump_json()})
    made.first_order = order
    return made


def test_a_driver_tells_measures_and_the_end(driver):
    Told.script += [Measure(5, 0.25), None]
    assert driver.step() == {"step": 5, "objective": 0.25}
    assert driver.step() == {"done": True, "ended": "finished", "reason": ""}
    driver.cleanup()
    assert Told.calls == [("begin", 4), ("stop", "the sweep")]


def test_a_driver_that_waits_for_a_measure_hears_of_a_stop(driver):
    """Ray Tune's `stop` comes between two results."""
    Told.script += [Waiting.NOTHING_YET, Measure(5, 0.25)]
    assert "objective" not in driver.train()
    assert driver.train()["objective"] == 0.25


def test_a_trial_is_asked_for_a_measure_for_a_moment_only(monkeypatch):
    from concurrent.futures import Future

    monkeypatch.setattr(run_trial, "MEASURE_WITHIN_SECONDS", 0.2)
    trial = object.__new__(run_trial.RunTrial)
    trial._done, trial._life = Future(), SimpleNamespace(tell=lambda: None)
    trial._reader = SimpleNamespace(read_on=lambda: iter(()), check_has_come=lambda: None)
    assert trial.measure() is Waiting.NOTHING_YET
    trial._done.set_result(None)
    assert trial.measure() is None


def test_a_run_that_was_through_trains_the_weights_that_it_is_given(tmp_path, monkeypatch):
    """It may have come to its end before the sweep has heard of the step that decides."""
    run = RunDirectory.create(tmp_path, "tap", "small-t0000")
    attempt = run.begin_attempt()
    run.config.touch()
    write_status(run.status, RunStatus(state="finished"))
    SweepDirectory.at(tmp_path, "tap", "small").logs.mkdir(parents=True)
    started = []
    monkeypatch.setattr(run_trial, "go_on", lambda *_: started.append(run.begin_attempt()))
    trial = object.__new__(run_trial.RunTrial)
    trial._run, trial._attempt_is_known = run, SimpleNamespace(set=lambda: None)
    folder = str(tmp_path / "tap/sweeps/small")
    trial._order = SimpleNamespace(job=None, sweep=folder, trial="t0000", exploit=None)
    trial._bring_to_its_end(None)
    assert started == []
    EventLog(run.events, attempt=attempt).record(exploit.KIND, number=1)
    trial._bring_to_its_end(None)
    trial._bring_to_its_end(None)
    assert started == [2]


def test_a_trial_without_news_trains_on(tmp_path):
    going = Sweep(tmp_path)
    first = going.begin()
    assert going.result(first) == "CONTINUE"
    assert [r.what for r in read_history(going.directory.trials)] == ["suggested", "started"]


def test_a_driver_tells_failures(driver):
    Told.script += [Measure(5, math.nan), ValueError("no shards"), NeverMeasuredError("no loss")]
    assert driver.step()["reason"] == "train/loss is nan at step 5"
    assert driver.step() == {"done": True, "ended": "failed", "reason": "no shards"}
    assert driver.step()["hopeless"]


def test_a_driver_follows_the_newest_order(driver):
    Told.script += [Measure(5, 0.2), Measure(3, 0.1)]
    driver.step()
    change = Exploit(number=1, trial="t0002", step=2)
    write_order(driver.first_order.model_copy(update={"exploit": change, "known": 2}))
    driver.step()
    assert Told.calls == [("begin", 4), ("exploit", "t0002")]


def test_a_driver_that_is_started_again_knows_what_was_measured_since(driver):
    write_order(driver.first_order.model_copy(update={"known": 7}))
    Told.script += [None]
    driver.step()
    assert Told.calls == [("begin", 7)]
