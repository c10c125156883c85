"""A sweep decides the same, wherever it was cut: search, scheduler and records together."""

from __future__ import annotations

import json
import math
from statistics import median

import pytest
from sweep_specs import sweep

from tap_platform.sweeps.conductor import Conductor
from tap_platform.sweeps.records import newest_records, read_history

LIST = {"optimizer.lr": {"choice": [0.001, 0.003, 0.01, 0.03, 0.1]}}
RANGES = {
    "optimizer.lr": {"log_uniform": [1e-4, 1e-1]},
    "optimizer.weight_decay": {"uniform": [0.0, 0.5]},
}
ASHA = {"type": "asha", "grace_steps": 1, "reduction": 3}
SWEEPS = {
    "grid": {"space": LIST, "search": {"type": "grid"}},
    "asha": {"scheduler": ASHA, "budget": {"trials": 12}},
    "median": {"scheduler": {"type": "median", "grace_steps": 2}, "budget": {"trials": 8}},
    "optuna": {"search": {"type": "optuna", "startup_trials": 3}, "budget": {"trials": 10}},
    "optuna and asha": {
        "search": {"type": "optuna", "startup_trials": 3},
        "scheduler": ASHA,
        "budget": {"trials": 12},
    },
    "pbt": {"scheduler": {"type": "pbt", "every_steps": 3}, "budget": {"trials": 4}},
}


def loss(values, step):
    """What a trial of these values comes to."""
    lr, decay = values["optimizer.lr"], values.get("optimizer.weight_decay", 0.1)
    return abs(math.log10(lr) + 2) + decay + 2.0 / step


class CutError(Exception):
    pass


class Player:
    """Trains deterministic trials side by side, a step of each in turn, and may be cut."""

    def __init__(self, config, path, at_once, events=math.inf):
        self.config, self.at_once, self.left = config, at_once, events
        self.conductor = Conductor(config, path, "small", lambda values: 9)
        self.steps_made = 0

    def play(self):
        going = {}
        while True:
            while len(going) < self.at_once and (record := self.conductor.next()):
                self.spend()
                going[record.trial] = self.conductor.known.get(record.trial, 0)
                self.conductor.started(record.trial)
            if not going:
                return self
            for trial in sorted(going):
                self.turn(trial, going)

    def turn(self, trial, going):
        self.spend()
        step = going[trial] = going[trial] + 1
        values = self.conductor.trials[trial].values
        self.steps_made += 1
        verdict = self.conductor.measured(trial, step, loss(values, step))
        if verdict.exploit:
            going[trial] = verdict.exploit.step
        if verdict.stop:
            del going[trial]
        elif step == 9:
            self.conductor.ended(trial, "finished")
            del going[trial]

    def spend(self):
        self.left -= 1
        if self.left < 0:
            raise CutError


def history(path):
    """What was decided, without the times."""
    return [record.model_dump(exclude={"time"}) for record in read_history(path)]


@pytest.fixture
def config(tmp_path, request):
    asked = SWEEPS[request.param]
    changes = {key: value for key, value in asked.items() if key != "space"}
    return sweep(tmp_path, asked.get("space", RANGES), **changes)


@pytest.mark.parametrize("config", SWEEPS, indirect=True)
def test_a_sweep_that_is_cut_decides_what_an_uncut_one_does(config, tmp_path):
    """Trials one after the other, cut after every single event."""
    whole = tmp_path / "whole.jsonl"
    Player(config, whole, at_once=1).play()
    events = sum(record.what in ("suggested", "measured") for record in read_history(whole))
    for cut in range(1, events, 5):
        path = tmp_path / f"{cut}.jsonl"
        with pytest.raises(CutError):
            Player(config, path, 1, events=cut).play()
        before = path.read_bytes()
        Player(config, path, at_once=1).play()
        assert path.read_bytes().startswith(before)
        assert history(path) == history(whole)


@pytest.mark.parametrize("config", SWEEPS, indirect=True)
def test_a_conductor_that_is_made_again_after_each_event_decides_the_same(config, tmp_path):
    """Trials side by side: the records alone carry everything."""

    class Forgetful(Player):
        def spend(self):
            self.conductor = remade(self.conductor, config, self.conductor._path)

    whole, often = tmp_path / "whole.jsonl", tmp_path / "often.jsonl"
    Player(config, whole, at_once=4).play()
    Forgetful(config, often, at_once=4).play()
    assert history(often) == history(whole)


def remade(old, config, path):
    new = Conductor(config, path, "small", lambda values: 9)
    assert new.trials == old.trials
    new._to_start = [t for t in new._to_start if t in old._to_start]
    return new


def test_asha_stops_bad_trials_early_and_finds_the_best(tmp_path):
    config = sweep(tmp_path, RANGES, scheduler=ASHA, budget={"trials": 27})
    played = Player(config, tmp_path / "t.jsonl", at_once=4).play()
    assert played.steps_made < 27 * 9 / 2
    final = {t: loss(r.values, 9) for t, r in played.conductor.trials.items()}
    best = played.conductor.best
    assert best.state == "finished"
    assert final[best.trial] == min(final.values())


def test_the_last_step_is_not_stopped(tmp_path):
    config = sweep(tmp_path, RANGES, scheduler={**ASHA, "grace_steps": 9}, budget={"trials": 6})
    played = Player(config, tmp_path / "t.jsonl", at_once=1).play()
    assert {each.state for each in played.conductor.trials.values()} == {"finished"}


def test_optuna_learns(tmp_path):
    config = sweep(tmp_path, RANGES, search={"type": "optuna"}, budget={"trials": 40})
    played = Player(config, tmp_path / "t.jsonl", at_once=1).play()
    losses = [loss(each.values, 9) for each in played.conductor.trials.values()]
    assert median(losses[20:]) < median(losses[:10]) * 0.8


def test_a_bad_member_of_a_population_goes_on_from_a_good_one(tmp_path):
    asked = {"scheduler": {"type": "pbt", "every_steps": 3}, "budget": {"trials": 4}}
    config = sweep(tmp_path, RANGES, **asked)
    played = Player(config, tmp_path / "t.jsonl", at_once=4).play()
    changes = [each for each in read_history(tmp_path / "t.jsonl") if each.exploit]
    assert changes
    for change in changes:
        assert change.exploit.trial != change.trial
        assert change.exploit.step in (3, 6)
        assert change.step < 9
        assert 1e-4 <= change.values["optimizer.lr"] <= 1e-1
    assert {each.state for each in played.conductor.trials.values()} == {"finished"}


def test_at_its_last_step_a_member_keeps_the_weights_and_values_that_were_measured(tmp_path):
    asked = {"scheduler": {"type": "pbt", "every_steps": 9}, "budget": {"trials": 4}}
    config = sweep(tmp_path, RANGES, **asked)
    conductor = Conductor(config, tmp_path / "t.jsonl", "small", lambda values: 9)
    drawn = {each.trial: each.values for each in iter(conductor.next, None)}
    for place, trial in enumerate(drawn):
        conductor.measured(trial, 9, float(place))
    assert {each.trial: each.values for each in conductor.trials.values()} == drawn
    assert conductor.exploits == {}


def test_none_is_lost_and_none_counted_twice(tmp_path):
    config = sweep(tmp_path, LIST, search={"type": "grid"}, budget={"trials": None})
    path = tmp_path / "t.jsonl"
    for events in (3, 7, 11, 20):
        with pytest.raises(CutError):
            Player(config, path, 2, events=events).play()
    Player(config, path, at_once=2).play()
    tried = sorted(each.values["optimizer.lr"] for each in newest_records(path))
    assert tried == LIST["optimizer.lr"]["choice"]
    measured = [(r.trial, r.step) for r in read_history(path) if r.what == "measured"]
    assert sorted(measured) == [(f"t{n:04}", step) for n in range(5) for step in range(1, 10)]


def test_a_torn_last_line_is_what_had_not_happened(tmp_path):
    config = sweep(tmp_path, RANGES, scheduler=ASHA, budget={"trials": 6})
    whole, path = tmp_path / "whole.jsonl", tmp_path / "t.jsonl"
    Player(config, whole, at_once=1).play()
    with pytest.raises(CutError):
        Player(config, path, 1, events=17).play()
    path.write_bytes(path.read_bytes()[:-20])
    Player(config, path, at_once=1).play()
    assert history(path) == history(whole)


def test_a_last_line_that_lacks_only_its_end_does_not_come_back(tmp_path):
    config = sweep(tmp_path, RANGES, budget={"trials": 1})
    path = tmp_path / "t.jsonl"
    with pytest.raises(CutError):
        Player(config, path, 1, events=4).play()
    path.write_bytes(path.read_bytes()[:-1])
    Player(config, path, at_once=1).play()
    measured = [each.step for each in read_history(path) if each.what == "measured"]
    assert measured == list(range(1, 10))


def test_a_trial_that_failed_is_no_best_one(tmp_path):
    config = sweep(tmp_path, RANGES, budget={"trials": 2})
    conductor = Conductor(config, tmp_path / "t.jsonl", "small", lambda values: 9)
    for value in (0.1, 0.5):
        conductor.measured(conductor.next().trial, 3, value)
    conductor.ended("t0000", "failed", "it broke")
    conductor.ended("t0001", "finished")
    assert conductor.best.trial == "t0001"
    conductor.ended("t0001", "failed", "too late")
    assert conductor.trials["t0001"].state == "finished"


def test_records_are_what_others_read(tmp_path):
    config = sweep(tmp_path, RANGES, budget={"trials": 1})
    conductor = Conductor(config, tmp_path / "t.jsonl", "small", lambda values: 9)
    conductor.next()
    conductor.started("t0000")
    conductor.measured("t0000", 3, 0.25)
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line["state"] for line in lines] == ["pending", "running", "running"]
    assert lines[-1] | {"time": "", "values": {}} == {
        "trial": "t0000",
        "run": "small-t0000",
        "state": "running",
        "values": {},
        "objective": 0.25,
        "step": 3,
        "time": "",
        "what": "measured",
        "reason": "",
        "exploit": None,
    }
