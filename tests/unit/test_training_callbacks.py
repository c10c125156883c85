import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy
from ray.train.lightning import RayDDPStrategy
from small_runs import NO_DROPOUT, events_of, make_run, small_job, train_here, write_folder

from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.runs import checkpoints
from tap_platform.runs.events import read_events
from tap_platform.runs.metrics import read_metrics
from tap_platform.training import worker
from tap_platform.training.callbacks import checkpoints as writing
from tap_platform.training.callbacks import step_clock
from tap_platform.training.callbacks.checkpoints import WriteCheckpoints
from tap_platform.training.callbacks.gradient_norm import GradientNorm
from tap_platform.training.callbacks.seed_steps import SeedSteps, step_seed
from tap_platform.training.callbacks.step_clock import StepClock
from tap_platform.training.strategies import build_strategy, is_sharded
from tap_platform.training.weights import STATE_NAME, load_model_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a test says so, in seconds."""
    now = SimpleNamespace(seconds=100.0)
    fake = SimpleNamespace(monotonic=lambda: now.seconds, perf_counter=lambda: now.seconds)
    monkeypatch.setattr(writing, "time", fake)
    monkeypatch.setattr(step_clock, "time", fake)
    return now


class OneOfMany:
    """A trainer as checkpoints see it; `first_says` is what the first worker broadcasts."""

    def __init__(self, is_global_zero=True, first_says=None):
        self.global_step = 0
        self.is_global_zero = is_global_zero
        self.asked = 0
        self.strategy = SimpleNamespace(barrier=lambda: None, broadcast=self.broadcast)
        self.first_says = first_says

    def broadcast(self, own):
        self.asked += 1
        return own if self.first_says is None else self.first_says

    def save_checkpoint(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(self.global_step))


def written(config, run, trainer, steps, max_steps=100, at_step=lambda step: None):
    """Steps of the checkpoints that exist after some steps of two micro-batches."""
    callback = WriteCheckpoints(config, run, events_of(run), max_steps)
    callback.on_train_start(trainer, None)
    for step in steps:
        at_step(step)
        callback.on_train_batch_end(trainer, None, None, None, 0)
        trainer.global_step = step
        callback.on_train_batch_end(trainer, None, None, None, 1)
    return [checkpoints.step_of(path) for path in checkpoints.committed(run.checkpoints)]


def test_checkpoints_come_by_steps_and_at_the_end(tmp_path):
    run = make_run(tmp_path)
    config = CheckpointConfig(every_steps=3, keep_last=9)
    assert written(config, run, OneOfMany(), range(1, 9), max_steps=8) == [3, 6, 8]
    assert [event["step"] for event in read_events(run.events, "checkpoint")] == [3, 6, 8]
    assert (run.checkpoints / "step-6" / STATE_NAME).read_text() == "6"
    for step in (3, 6, 8):
        checkpoints.verify(run.checkpoints / f"step-{step}")


def test_by_default_only_the_last_step_is_kept(tmp_path):
    assert written(CheckpointConfig(), make_run(tmp_path), OneOfMany(), range(1, 6), 5) == [5]


def test_the_newest_are_kept(tmp_path):
    config = CheckpointConfig(every_steps=1, keep_last=2)
    assert written(config, make_run(tmp_path), OneOfMany(), range(1, 6)) == [4, 5]


def test_checkpoints_come_by_minutes(tmp_path, clock):
    def half_a_minute(step):
        clock.seconds += 30

    config = CheckpointConfig(every_minutes=1.2, keep_last=9)
    steps = written(config, make_run(tmp_path), OneOfMany(), range(1, 8), at_step=half_a_minute)
    assert steps == [3, 6]


def test_minutes_count_from_whatever_checkpoint_came_last(tmp_path, clock):
    def half_a_minute(step):
        clock.seconds += 30

    config = CheckpointConfig(every_minutes=1.2, every_steps=2, keep_last=9)
    steps = written(config, make_run(tmp_path), OneOfMany(), range(1, 8), at_step=half_a_minute)
    assert steps == [2, 4, 6]


def test_the_first_worker_decides_by_its_clock_for_all(tmp_path, clock):
    def an_hour(step):
        clock.seconds += 3600

    config = CheckpointConfig(every_minutes=1, keep_last=9)
    early = OneOfMany(first_says=False)
    assert written(config, make_run(tmp_path, "a"), early, range(1, 4), at_step=an_hour) == []
    assert early.asked == 3
    late = OneOfMany(first_says=True)
    assert written(config, make_run(tmp_path, "b"), late, range(1, 4)) == [1, 2, 3]


def test_other_workers_write_their_part_and_commit_nothing(tmp_path):
    run = make_run(tmp_path)
    trainer = OneOfMany(is_global_zero=False)
    assert written(CheckpointConfig(every_steps=1), run, trainer, range(1, 3)) == []
    assert (run.checkpoints / "step-2" / STATE_NAME).exists()
    assert not read_events(run.events)


def test_the_step_that_a_run_goes_on_from_is_not_written_again(tmp_path):
    trainer = OneOfMany()
    trainer.global_step = 4
    config = CheckpointConfig(every_steps=2, keep_last=9)
    assert written(config, make_run(tmp_path), trainer, range(5, 7)) == [6]


def draws(seed, micro_batch, rank):
    torch.rand(3)  # whatever was drawn before does not matter
    SeedSteps(seed).on_train_batch_start(SimpleNamespace(global_rank=rank), None, None, micro_batch)
    return tuple(torch.rand(4).tolist())


def test_a_step_draws_by_its_number_rank_and_seed_only():
    assert draws(1, 5, 0) == draws(1, 5, 0)
    places = [(s, b, r) for s in range(3) for b in range(20) for r in range(4)]
    assert len({draws(*place) for place in places}) == len(places)
    assert all(0 <= step_seed(*place) < 2**63 for place in places)


class Records:
    """What a LightningModule is asked to log."""

    def __init__(self, parameters=()):
        self.values = []
        self.parameters = lambda: parameters

    def log_dict(self, values):
        self.values.append(values)

    def log(self, name, value):
        self.values.append({name: float(value)})


def run_clock(clock, timer, steps, start=0, wait=1.0, compute=3.0, micro_batches=1):
    trainer, module = SimpleNamespace(global_step=start), Records()
    for step in range(start + 1, start + steps + 1):
        for number in range(1, micro_batches + 1):
            clock.seconds += wait
            timer.on_train_batch_start(trainer, module, None, 0)
            clock.seconds += compute
            trainer.global_step = step if number == micro_batches else step - 1
            timer.on_train_batch_end(trainer, module, None, None, 0)
    return trainer, module


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_rates_are_means_over_the_steps_since_the_last_record(clock, micro_batches):
    timer = StepClock(images_per_step=16, log_every=2)
    _, module = run_clock(clock, timer, 5, micro_batches=micro_batches)
    first, second = module.values  # steps 2 and 4
    # The very first wait stands apart: it is the start of the data, not of a step.
    elapsed = 8 * micro_batches - 1
    assert first == pytest.approx(
        {
            "speed/images_per_second": 32 / elapsed,
            "speed/seconds_per_step": elapsed / 2,
            "speed/data_wait_share": (2 * micro_batches - 1) / elapsed,
        }
    )
    assert second == pytest.approx(
        {
            "speed/images_per_second": 4 / micro_batches,
            "speed/seconds_per_step": 4 * micro_batches,
            "speed/data_wait_share": 0.25,
        }
    )


def test_a_run_that_goes_on_counts_its_own_steps(clock):
    _, module = run_clock(clock, StepClock(16, log_every=2), 2, start=101, wait=0)
    (record,) = module.values  # step 102 alone: the window opened with it
    assert record["speed/seconds_per_step"] == pytest.approx(3)


def test_looking_at_held_out_images_is_no_wait_for_data(clock):
    timer = StepClock(16, log_every=1)
    trainer, module = run_clock(clock, timer, 2)
    clock.seconds += 1000
    timer.on_validation_end(trainer, module)
    clock.seconds += 1
    timer.on_train_batch_start(trainer, module, None, 0)
    clock.seconds += 3
    trainer.global_step = 3
    timer.on_train_batch_end(trainer, module, None, None, 0)
    assert module.values[-1]["speed/seconds_per_step"] == pytest.approx(3)
    assert module.values[-1]["speed/data_wait_share"] == 0


def parameter_with(gradient):
    parameter = torch.nn.Parameter(torch.zeros(len(gradient)))
    parameter.grad = torch.tensor(gradient)
    return parameter


def test_the_norm_is_that_of_all_gradients_together():
    frozen = torch.nn.Parameter(torch.zeros(2))
    module = Records([parameter_with([3.0, 0.0]), frozen, parameter_with([4.0, 12.0])])
    callback = GradientNorm(log_every=2)
    for step in range(4):
        trainer = SimpleNamespace(strategy=Mock(), global_step=step)
        callback.on_before_optimizer_step(trainer, module, None)
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, None, 0)
    assert module.values == [{"gradient_norm": 13.0}] * 2


def test_where_gradients_are_sharded_deepspeed_is_asked():
    strategy = Mock(spec=DeepSpeedStrategy)
    strategy.model.get_global_grad_norm.side_effect = [None, 7.0]
    module, callback = Records([parameter_with([3.0])]), GradientNorm(log_every=2)
    for step in range(4):
        trainer = SimpleNamespace(strategy=strategy, global_step=step)
        callback.on_before_optimizer_step(trainer, module, None)
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, None, 0)
    assert module.values == [{"gradient_norm": 7.0}]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_one_field_picks_the_zero_stage(folder, stage):
    job = small_job(folder, scale={"strategy": f"zero_{stage}"}, training={"micro_batch": 2})
    strategy = build_strategy(job)
    assert is_sharded(strategy)
    assert strategy.config["zero_optimization"]["stage"] == stage
    assert strategy.config["train_micro_batch_size_per_gpu"] == 2
    assert "offload_optimizer" not in strategy.config["zero_optimization"]


def test_deepspeed_does_not_average_over_micro_batches_a_second_time(folder):
    strategy = build_strategy(small_job(folder, scale={"strategy": "zero_2"}))
    engine, loss = Mock(), torch.ones((), requires_grad=True)
    strategy._lightning_module = module = LightningModule()
    module._trainer = SimpleNamespace(strategy=strategy, model=engine)
    strategy.precision_plugin = plugin = DeepSpeedPrecision("32-true")
    plugin.pre_backward = plugin.post_backward = lambda tensor, module: tensor
    strategy.backward(loss, None)
    engine.backward.assert_called_once_with(loss, scale_wrt_gas=False)


def test_ddp_is_the_default(folder):
    strategy = build_strategy(small_job(folder))
    assert isinstance(strategy, RayDDPStrategy)
    assert not is_sharded(strategy)


class SpyOnGradients(Callback):
    """Norms of the gradient that the optimizer has used."""

    def __init__(self):
        self.norms = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if gradients:
            self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))


def test_gradients_are_clipped_and_recorded_before(folder, tmp_path, monkeypatch):
    spy, build = SpyOnGradients(), worker.build_trainer

    def build_with_spy(*args):
        trainer = build(*args)
        trainer.callbacks.append(spy)
        return trainer

    monkeypatch.setattr(worker, "build_trainer", build_with_spy)
    job = small_job(folder, optimizer={"gradient_clip": 0.01}, training={"max_steps": 3})
    records = train_here(job, make_run(tmp_path), monkeypatch)
    assert spy.norms == pytest.approx([0.01] * len(spy.norms), rel=1e-3)
    assert len(spy.norms) >= 2
    assert all(values["gradient_norm"] > 0.1 for values in records.values())


def test_a_run_records_every_step(folder, tmp_path, monkeypatch):
    job = small_job(
        folder,
        training={"max_steps": 4, "micro_batch": 2, "log_every": 2},
        evaluation={"every_steps": 2, "images": 4},
    )
    run = make_run(tmp_path)
    records = train_here(job, run, monkeypatch)
    assert set(records) == {2, 4}
    for values in records.values():
        assert {"loss", "lr", "regions", "gradient_norm", "first/focal"} <= set(values)
        assert values["speed/images_per_second"] > 0
        assert 0 <= values["speed/data_wait_share"] < 1
    held_out = [record for record in read_metrics(run.metrics) if record.kind == "val"]
    assert [record.step for record in held_out] == [2, 4]
    assert all(0 <= r.values["box_iou"] <= 1 for r in held_out)


def test_a_run_that_goes_on_draws_and_learns_what_an_unbroken_one_does(
    folder, tmp_path, monkeypatch
):
    job = small_job(
        folder,
        training={"max_steps": 8, "micro_batch": 2},
        checkpoint={"every_steps": 5, "keep_last": 9},
        schedule={"warmup_steps": 2},
    )
    whole, broken = make_run(tmp_path, "whole"), make_run(tmp_path, "broken")
    expected = train_here(job, whole, monkeypatch)
    place = broken.checkpoints / "step-5"
    shutil.copytree(whole.checkpoints / "step-5", place)
    torch.rand(17)
    tail = train_here(job, broken, monkeypatch, place, start_step=5)
    assert set(tail) == {6, 7, 8}
    for step, values in tail.items():
        for name in ("loss", "lr", "regions", "gradient_norm"):
            assert values[name] == expected[step][name], (step, name)
    ends = [load_model_weights(run.checkpoints / "step-8") for run in (whole, broken)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not all(torch.equal(ends[0][n], w) for n, w in load_model_weights(place).items())


def test_dropout_is_at_work_in_the_test_above(folder, tmp_path, monkeypatch):
    with_it = train_here(small_job(folder), make_run(tmp_path, "a"), monkeypatch)
    job = small_job(folder, model=NO_DROPOUT)
    without = train_here(job, make_run(tmp_path, "b"), monkeypatch)
    assert with_it[1]["loss"] != without[1]["loss"]
