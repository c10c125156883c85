"""What a sweep file may say, and how a wrong one is answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_specs import spec_file, sweep

from tap_platform.config.sweep import load_sweep
from tap_platform.sweeps.draws import grid_points, random_values
from tap_platform.sweeps.suggest import trials_of
from tap_platform.sweeps.trial_jobs import check_jobs, trial_job

CONDITIONAL = {
    "scale.strategy": {"choice": ["ddp", "zero_1"]},
    "scale.offload": {"choice": ["none", "optimizer"], "when": {"scale.strategy": ["zero_1"]}},
}
SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"


def refusal(folder, space=None, **changes):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        check_jobs(sweep(folder, space, **changes))
    return str(refused.value)


def test_a_key_that_does_not_exist_is_answered_with_the_nearest(tmp_path):
    told = refusal(tmp_path, {"optimizer.learning_rate": {"uniform": [0.1, 0.2]}})
    assert "unknown key 'optimizer.learning_rate'" in told
    assert "lr" in told.partition("known:")[2]
    assert "'optimizer'" in refusal(tmp_path, {"optimiser.lr": {"uniform": [0.1, 0.2]}})


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({}, "at least 1 item"),
        ({"optimizer.lr": {"choice": []}}, "nothing to choose from"),
        ({"optimizer.lr": {}}, "there is none"),
        ({"optimizer.lr": {"uniform": [0, 1], "choice": [1]}}, "uniform and choice"),
        ({"optimizer.lr": {"uniform": [1, 1]}}, "is not below"),
        ({"optimizer.lr": {"log_uniform": [0, 1]}}, "begins above 0"),
        ({"optimizer.lr": {"choice": [1, 1]}}, "twice"),
        ({"optimizer.lr": {"uniform": [0.1, 1], "step": 2}}, "step goes with int"),
        ({"optimizer.lr": {"choice": [1], "when": {"seed": [1]}}}, "keys above it are: none"),
    ],
)
def test_a_space_that_is_none_is_refused(tmp_path, space, told):
    assert told in refusal(tmp_path, space)


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"optimizer.lr": {"uniform": [-1, 1]}}, "optimizer.lr"),
        ({"scale.workers": {"int": [1, 8]}}, "scale.workers 8 is above data.partitions 4"),
        ({"recipe.objective.kl_direction": {"choice": ["sideways"]}}, "kl_direction"),
        ({"training.max_steps": {"choice": ["many"]}}, "training.max_steps"),
        ({"storage": {"choice": ["a", "b"]}}, "share it"),
        ({"name": {"choice": ["a", "b"]}}, "share it"),
    ],
)
def test_values_are_checked_against_the_job_before_anything_starts(tmp_path, space, told):
    assert told in refusal(tmp_path, space)


def test_values_that_do_not_go_together_are_refused(tmp_path):
    space = {
        "scale.strategy": {"grid": ["ddp", "zero_1"]},
        "scale.offload": {"grid": ["optimizer"]},
    }
    assert "does not go with scale.strategy ddp" in refusal(
        tmp_path, space, search={"type": "grid"}, budget={"trials": None}
    )


def test_an_objective_that_is_never_measured_is_refused(tmp_path):
    held_out = {"metric": "val/box_iou"}
    assert "set base.evaluation.every_steps" in refusal(tmp_path, objective=held_out)
    told = refusal(tmp_path, objective=held_out, base={"evaluation": {"every_steps": 100}})
    assert "every 100 steps, and a trial has 9" in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"budget": {"trials": None}}, "never ends by itself"),
        ({"budget": {"money": 3}}, "needs prices"),
        ({"search": {"type": "grid"}}, "has no end of them"),
        ({"scheduler": {"type": "asha"}}, "grace_steps"),
        ({"scheduler": {"type": "hyperband"}}, "choose one of"),
        ({"objective": {"metric": "loss"}}, "objective.metric"),
        ({"budget": {"trial": 3}}, "budget.trials"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, changes, told):
    assert told in refusal(tmp_path, **changes)


def test_a_population_varies_only_what_a_run_bears(tmp_path):
    pbt = {"type": "pbt", "every_steps": 3}
    told = refusal(tmp_path, {"scale.workers": {"choice": [1, 2]}}, scheduler=pbt)
    assert "optimizer.* and recipe.objective.* bear" in told
    assert "take search random" in refusal(tmp_path, scheduler=pbt, search={"type": "optuna"})
    elsewhere = {"checkpoint": {"storage": str(tmp_path / "elsewhere")}}
    assert "base.checkpoint.storage" in refusal(tmp_path, scheduler=pbt, base=elsewhere)
    kept = trial_job(sweep(tmp_path, scheduler=pbt), {}).checkpoint
    assert (kept.every_steps, kept.keep_every, kept.background) == (3, 3, False)


def test_money_needs_a_profile_with_prices(tmp_path):
    from tap_platform.sweeps.prices import prices_of

    config = sweep(tmp_path, budget={"money": 3}, place="local")
    with pytest.raises(ValueError, match="has no prices"):
        prices_of(config, trial_job(config, {}))
    config = sweep(tmp_path, budget={"money": 3}, place="node_8xh100")
    assert prices_of(config, trial_job(config, {})).of_trial(trial_job(config, {})) > 0


def test_a_trial_is_the_base_with_its_values(tmp_path):
    space = {"optimizer.lr": {"choice": ["1e-3", 0.01]}, "model.drop_path": {"uniform": [0, 0.2]}}
    config = sweep(tmp_path, space)
    assert config.space["optimizer.lr"].choice == (0.001, 0.01)
    job = trial_job(config, {"optimizer.lr": 0.001, "model.drop_path": 0.1})
    assert (job.optimizer.lr, job.model.drop_path, job.training.max_steps) == (0.001, 0.1, 9)


def test_a_condition_holds_a_key_back(tmp_path):
    config = sweep(tmp_path, CONDITIONAL, search={"type": "grid"}, budget={"trials": None})
    check_jobs(config)
    points = list(grid_points(config.space))
    assert points == [
        {"scale.strategy": "ddp"},
        {"scale.strategy": "zero_1", "scale.offload": "none"},
        {"scale.strategy": "zero_1", "scale.offload": "optimizer"},
    ]
    assert trials_of(config) == 3
    for number in range(20):
        drawn = random_values(config.space, 0, number)
        assert ("scale.offload" in drawn) == (drawn["scale.strategy"] == "zero_1")


def test_draws_stay_in_their_ranges_and_depend_on_seed_and_number_alone(tmp_path):
    space = sweep(
        tmp_path,
        {
            "optimizer.lr": {"log_uniform": [1e-4, 1e-1]},
            "optimizer.weight_decay": {"uniform": [0.0, 0.3]},
            "training.global_batch": {"int": [4, 16], "step": 4},
            "seed": {"grid": [1, 2, 3]},
        },
    ).space
    drawn = [random_values(space, 7, number) for number in range(300)]
    assert drawn[5] == random_values(space, 7, 5) != random_values(space, 8, 5)
    assert all(1e-4 <= each["optimizer.lr"] <= 1e-1 for each in drawn)
    assert 90 < sum(each["optimizer.lr"] < 1e-3 for each in drawn) < 115
    assert {each["training.global_batch"] for each in drawn} == {4, 8, 12, 16}
    assert [each["seed"] for each in drawn[:4]] == [1, 2, 3, 1]


def test_dotted_keys_of_the_space_are_changed_and_added(tmp_path):
    path = spec_file(tmp_path)
    changes = ["space.optimizer.lr.uniform=[0.1, 0.2]", "space.data.regions_per_image={grid: [2]}"]
    space = load_sweep(path, changes).space
    assert space["optimizer.lr"].uniform == (0.1, 0.2)
    assert space["optimizer.lr"].log_uniform is None
    assert space["data.regions_per_image"].grid == (2,)


def test_a_file_extends_a_job_and_takes_overrides(tmp_path):
    path = spec_file(tmp_path, base={"extends": "job.yaml"})
    (tmp_path / "job.yaml").write_text("optimizer: {weight_decay: 0.3}\ntraining: {max_steps: 5}\n")
    config = load_sweep(path, ["budget.trials=7", "base.training.log_every=2"])
    job = trial_job(config, {})
    assert (job.optimizer.weight_decay, job.training.max_steps, job.training.log_every) == (
        0.3,
        9,
        2,
    )
    assert config.budget.trials == 7


@pytest.mark.parametrize("name", sorted(path.name for path in SWEEPS.glob("*.yaml")))
def test_every_sweep_that_is_shipped_is_sound(name):
    config = load_sweep(SWEEPS / name)
    check_jobs(config)
    assert config.name == name.removesuffix(".yaml")
