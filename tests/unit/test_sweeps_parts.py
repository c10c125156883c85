"""The parts of a sweep that need no Ray: objective, room, budget, directory, orders."""

from __future__ import annotations

import json
import math
import time

import pytest
from sweep_specs import spec_file, sweep, tree

from tap_platform.config.load_profile import load_profile
from tap_platform.config.mirror import MirrorConfig
from tap_platform.config.sweep import validate_sweep
from tap_platform.estimate.nodes import cpus_of_worker
from tap_platform.launch.stages import recorded
from tap_platform.places.find import find_profile, place_of
from tap_platform.runs.alive import SignsOfLife
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.mirror import Mirror
from tap_platform.runs.prices import price_told, tell_price
from tap_platform.runs.status import RunStatus, read_status, update_status, write_status
from tap_platform.runs.usage import Usage
from tap_platform.sweeps.budget import Spending
from tap_platform.sweeps.directory import SweepDirectory
from tap_platform.sweeps.hand_over import at_place, make_submission
from tap_platform.sweeps.objective import NeverMeasuredError, ObjectiveReader
from tap_platform.sweeps.prices import prices_of
from tap_platform.sweeps.room import NodeRoom, at_once, check_population, fitting
from tap_platform.sweeps.story import short_keys
from tap_platform.sweeps.trial_jobs import trial_job


def test_a_measure_is_told_once_whatever_attempt_measured_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first, second = (MetricsWriter(path, attempt) for attempt in (1, 2))
    reader = ObjectiveReader(path, "val/box_iou", after=10)
    for step in (10, 20):
        first.write(step, {"loss": 1.0})
        first.write(step, {"box_iou": step / 100}, kind="val")
    assert [tuple(each) for each in reader.read_on()] == [(20, 0.2)]
    for step in (20, 30):
        second.write(step, {"box_iou": math.nan if step == 30 else 0.3}, kind="val")
    ((step, value),) = reader.read_on()
    assert step == 30
    assert math.isnan(value)
    reader.check_has_come()


def test_measures_of_weights_that_are_gone_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    MetricsWriter(path, attempt=1).write(80, {"loss": 1.0})
    MetricsWriter(path, attempt=2).write(60, {"loss": 0.5})
    reader = ObjectiveReader(path, "train/loss", after=40, attempt=2)
    assert [tuple(each) for each in reader.read_on()] == [(60, 0.5)]


def test_an_objective_that_does_not_come_names_what_does(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    reader = ObjectiveReader(path, "val/box_iuo", after=0)
    writer.write(10, {"loss": 1.0})
    writer.write(10, {"box_iou": 0.2, "concept_top1": 0.1}, kind="val")
    assert list(reader.read_on()) == []
    writer.write(20, {"box_iou": 0.2}, kind="val")
    with pytest.raises(NeverMeasuredError, match=r"val/box_iuo was never.*val/box_iou"):
        list(reader.read_on())
    with pytest.raises(NeverMeasuredError, match="what was: nothing"):
        ObjectiveReader(tmp_path / "none", "val/x", 0).check_has_come()


def test_as_many_trials_train_as_find_room_whole(tmp_path):
    config = sweep(tmp_path, base={"scale": {"workers": 2, "cpus_per_worker": 2}})
    job = trial_job(config, {})
    assert job.data.reader_tasks == 1
    one_of_12, small = NodeRoom(12, 0), NodeRoom(5, 0)
    assert fitting(job, [one_of_12], on_gpus=False) == 2
    assert fitting(job, [small, small, small], on_gpus=False) == 1
    assert fitting(job, [NodeRoom(64, 8), NodeRoom(64, 1)], on_gpus=True) == 4
    assert at_once(config, [job], [one_of_12] * 9, total=4) == 4
    assert at_once(config, [job], [small], total=4) == 1
    wide = job.model_copy(update={"scale": job.scale.model_copy(update={"workers": 4})})
    assert at_once(config, [job, wide], [one_of_12] * 2, total=4) == 2
    assert at_once(config.replaced(at_once=1), [job], [one_of_12] * 2, total=4) == 1


def test_a_population_that_finds_no_room_as_a_whole_is_refused(tmp_path):
    pbt = {"scheduler": {"type": "pbt", "every_steps": 3}, "budget": {"trials": 4}}
    config = sweep(tmp_path, **pbt)
    job = trial_job(config, {})
    with pytest.raises(ValueError, match="its 4 trials side by side, and there is room for 2"):
        at_once(config, [job], [NodeRoom(2 * cpus_of_worker(job), 0)], total=4)
    check_population(config, 4, 4)
    with pytest.raises(ValueError, match="there is room for 3"):
        check_population(config, 4, 3)
    _, profile = find_profile("node_8xh100")
    job = {"scale": {"device": "gpu", "workers": 4}, "data": {"path": "data/scenes"}}
    written = tree(tmp_path, base=job, **pbt)
    del written["base"]["storage"], written["folder"]
    with pytest.raises(ValueError, match="there is room for 2"):
        at_place(validate_sweep(written, "small"), profile)


def run_since(folder, name, seconds, *, ended_after=None):
    """A run whose driver started some seconds ago."""
    run = RunDirectory(folder / "runs" / "tap" / name)
    run.path.mkdir(parents=True)
    events = EventLog(run.events, attempt=1)
    events.record("started")
    if ended_after is not None:
        events.record("finished")
    lines = [json.loads(line) for line in run.events.read_text().splitlines()]
    for line, ago in zip(lines, (seconds, seconds - (ended_after or 0)), strict=False):
        line["time"] = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - ago))
    run.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_status(run.status, RunStatus(updated=lines[-1]["time"]))
    return run


def test_a_budget_counts_all_workers_and_keeps_back_what_trials_need_to_end(tmp_path):
    config = sweep(
        tmp_path,
        base={"scale": {"workers": 4, "grace_seconds": 45}},
        budget={"gpu_hours": 5.0, "hours": 10.0},
    )
    job = trial_job(config, {})
    spending = Spending(config, run_since(tmp_path, "sweep", 3600), prices_of(config, job))
    done = run_since(tmp_path, "a", 3600, ended_after=1800)
    going = run_since(tmp_path, "b", 1800)
    for run in (done, going):
        spending.add(run, job)
    now = time.time()
    assert spending.hours(now) == pytest.approx(1, abs=0.01)
    assert spending.gpu_hours(now, [going]) == pytest.approx(4, abs=0.01)
    assert spending.gpu_hours(now) == pytest.approx(2, abs=0.01)  # killed, it held nothing since
    assert spending.exhausted([going]) == ""
    tight = sweep(tmp_path, base=config.base, budget={"gpu_hours": 4.05})
    spending = Spending(tight, run_since(tmp_path, "other", 10), prices_of(tight, job))
    for run in (done, going):
        spending.add(run, job)
    assert spending.exhausted([going]) == "budget.gpu_hours 4.05 is used up"  # a minute of four


def test_a_trial_that_still_ends_is_counted_until_it_has(tmp_path):
    config = sweep(tmp_path, budget={"gpu_hours": 5.0})
    job = trial_job(config, {})
    spending = Spending(config, run_since(tmp_path, "sweep", 10), prices_of(config, job))
    ends = run_since(tmp_path, "a", 3600)
    spending.add(ends, job)
    assert spending.gpu_hours(time.time()) == pytest.approx(0, abs=0.01)
    EventLog(ends.events, attempt=1).record("interrupted")
    write_status(ends.status, RunStatus(state="interrupted"))
    assert spending.gpu_hours(time.time()) == pytest.approx(1, abs=0.01)


class _Dear:
    currency = "EUR"
    of_head = 1.0

    def of_trial(self, job):
        return 10.0 * job.scale.most_workers


def test_money_is_that_of_trials_and_of_the_head(tmp_path):
    config = sweep(tmp_path, budget={"money": 7.0}, place="node_8xh100")
    spending = Spending(config, run_since(tmp_path, "sweep", 3600), _Dear())
    spending.add(run_since(tmp_path, "a", 3600, ended_after=1800), trial_job(config, {}))
    assert spending.money(time.time()) == pytest.approx(6, abs=0.05)
    assert spending.exhausted([]) == ""
    told = spending.used([])
    assert set(told) == {"cost"}
    assert (told["cost"].limit, told["cost"].unit) == (7.0, "EUR")
    assert told["cost"].value == pytest.approx(6, abs=0.05)
    assert "money" in Spending(
        config.replaced(budget={"money": 0.5}), run_since(tmp_path, "more", 3600), _Dear()
    ).exhausted([])


def test_trials_share_the_price_that_the_driver_was_told(tmp_path, monkeypatch):
    config = sweep(tmp_path)
    job = trial_job(config, {})
    assert prices_of(config, job, at_once=4).of_trial(job) == 0
    monkeypatch.setenv("TAP_PRICE_PER_HOUR", "12")
    monkeypatch.setenv("TAP_CURRENCY", "EUR")
    prices = prices_of(config, job, at_once=4)
    assert (prices.of_trial(job), prices.of_head, prices.currency) == (3.0, 0.0, "EUR")
    tell_price(prices.of_trial(job), prices.currency)
    assert price_told() == {"price_per_hour": 3.0, "currency": "EUR"}
    tell_price(0.0, "EUR")
    assert price_told() == {}


def test_hours_of_a_driver_that_was_killed_are_known_to_a_minute(tmp_path, monkeypatch):
    now = time.monotonic()
    run = run_since(tmp_path, "killed", 3600)
    life = SignsOfLife(run)
    life.tell()
    assert not read_events(run.events, "alive")
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    life.tell()
    life.tell()
    EventLog(run.events, attempt=2).record("started")
    usage = Usage()
    usage.take(read_events(run.events))
    assert len(read_events(run.events, "alive")) == 1
    assert usage.driver_hours(time.time()) == pytest.approx(1, abs=0.01)


def test_keys_are_told_as_shortly_as_they_differ():
    assert short_keys(["optimizer.lr", "a.b.lr", "seed"]) == ["optimizer.lr", "b.lr", "seed"]
    assert short_keys(["recipe.objective.dice_weight"]) == ["dice_weight"]


def test_a_sweep_is_mirrored_beside_the_runs_of_its_project(tmp_path):
    config = sweep(tmp_path)
    there = SweepDirectory.at(tmp_path / "runs", "tap", "small")
    there.create(config)
    mirror = Mirror(there.as_run, MirrorConfig(url=str(tmp_path / "store")))
    mirror.start()
    assert mirror.stop(10.0)
    assert (tmp_path / "store/tap/sweeps/small/sweep.json").read_bytes() == there.spec.read_bytes()


def test_a_sweep_that_was_killed_while_it_was_made_is_made_again(tmp_path):
    config = sweep(tmp_path)
    there = SweepDirectory.at(tmp_path, "tap", "small")
    there.logs.mkdir(parents=True)
    there.create(config)
    assert there.read_config() == config
    there.spec.unlink()
    there.trials.touch()
    with pytest.raises(ValueError, match="there is a sweep small already"):
        there.create(config)
    assert there.trials.exists()


def test_a_sweep_that_a_budget_has_ended_tells_how_many_trials_it_had(tmp_path):
    there = SweepDirectory.at(tmp_path, "tap", "small")
    there.create(sweep(tmp_path))
    with recorded(there.as_run, 4, verb="sweep"):
        update_status(there.as_run.status, step=2)
    status = read_status(there.as_run.status)
    assert (status.state, status.step, status.max_steps) == ("finished", 2, 4)


def test_a_sweep_is_found_by_name_and_path(tmp_path):
    config = sweep(tmp_path)
    there = SweepDirectory.at(tmp_path, "tap", "small")
    there.create(config)
    assert SweepDirectory.find(tmp_path, "small") == there
    assert SweepDirectory.find(tmp_path, "tap/small") == there
    assert SweepDirectory.find(tmp_path, there.path) == there
    assert there.read_config() == config
    assert list(RunDirectory.all(tmp_path)) == []
    with pytest.raises(ValueError, match="there is a sweep small already"):
        there.create(config)
    SweepDirectory.at(tmp_path, "other", "small").create(config)
    with pytest.raises(ValueError, match="say other/small and tap/small"):
        SweepDirectory.find(tmp_path, "small")
    RunDirectory.create(tmp_path, "tap", "mine-t0000")
    with pytest.raises(ValueError, match="take another name"):
        SweepDirectory.at(tmp_path, "tap", "mine").create(config)
    assert not SweepDirectory.at(tmp_path, "tap", "mine").path.exists()


def test_a_sweep_is_submitted_with_nodes_for_its_trials(tmp_path):
    name, profile = find_profile("node_8xh100")
    job = {"scale": {"device": "gpu", "workers": 4}, "data": {"path": "data/scenes"}}
    written = tree(tmp_path, base=job)
    del written["base"]["storage"], written["folder"]
    config = at_place(validate_sweep(written, "small"), profile)
    assert config.at_once == 2  # eight GPUs
    place = place_of(name, profile)
    submission = make_submission(config, place, profile, with_code=False)
    assert submission.command[:2] == ("tap", "sweep")
    assert submission.command[-2:] == ("--run", "small")
    assert submission.job.scale.workers == 8
    at = submission.files["profile.json"]
    (tmp_path / "profile.json").write_text(at)
    assert load_profile(str(tmp_path / "profile.json"))[1] == profile
    again = validate_sweep(json.loads(submission.files["sweep.json"]), "again")
    there = trial_job(again, {"optimizer.lr": 0.01})
    assert again.place == f"{place.files}/profile.json"
    assert there.storage == profile.storage.path
    assert there.data.path.startswith("/")
    assert "tap" in place.render(submission)


def test_nodes_are_asked_for_by_the_largest_trial(tmp_path):
    name, profile = find_profile("node_8xh100")
    job = {"scale": {"device": "gpu"}, "data": {"path": "data/scenes"}}
    written = tree(tmp_path, {"scale.workers": {"choice": [1, 4]}}, base=job)
    del written["base"]["storage"], written["folder"]
    config = at_place(validate_sweep(written, "small"), profile)
    assert config.at_once == 2  # eight GPUs
    place = place_of(name, profile)
    assert make_submission(config, place, profile, with_code=False).job.scale.workers == 8


def test_the_command_line_tells_what_would_run(tmp_path):
    from click.testing import CliRunner

    from tap_platform.cli import tap

    path = spec_file(tmp_path)
    done = CliRunner().invoke(tap, ["sweep", str(path), "--dry-run", "budget.trials=3"])
    assert done.exit_code == 0, done.output
    assert "3 trials, 27 steps at most" in done.output
    assert "t0002  optimizer.lr=" in done.output
    assert CliRunner().invoke(tap, ["sweep"]).exit_code == 2
    told = CliRunner().invoke(tap, ["sweep", "--resume", "x", "some.yaml"])
    assert "leave out some.yaml" in told.output
    for other in (["--dry-run"], ["--on", "site.yaml"], ["--run", "y"], ["--code", "git"]):
        refused = CliRunner().invoke(tap, ["sweep", "--resume", "x", *other])
        assert refused.exit_code == 2
        assert f"--resume goes on here, as the sweep is: leave out {other[0]}" in refused.output
