import shutil
import threading
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy
from safetensors.torch import load_file
from small_runs import NO_DROPOUT, events_of, make_run, small_job, train_here, write_folder

from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.runs import checkpoints
from tap_platform.runs.events import read_events
from tap_platform.runs.metrics import MetricsWriter, read_metrics
from tap_platform.training import checkpoint_writer, worker
from tap_platform.training.callbacks import checkpoints as writing
from tap_platform.training.callbacks import step_clock
from tap_platform.training.callbacks.checkpoints import WriteCheckpoints
from tap_platform.training.callbacks.gradient_norm import GradientNorm
from tap_platform.training.callbacks.seed_steps import SeedSteps, step_seed
from tap_platform.training.callbacks.step_clock import StepClock
from tap_platform.training.checkpoint_writer import CheckpointWriter
from tap_platform.training.weights import load_model_weights


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

    def __init__(self, writer, max_steps=100, is_global_zero=True, first_says=None, others=()):
        self.writer = writer
        self.global_step = 0
        self.max_steps = max_steps
        self.is_global_zero = is_global_zero
        self.asked = []
        self.others_are_busy = any(others)
        self.strategy = SimpleNamespace(
            barrier=lambda: None, broadcast=self.broadcast, reduce_boolean_decision=self.reduced
        )
        self.first_says = first_says

    def broadcast(self, own):
        if isinstance(own, bool):
            self.asked.append(own)
        return own if self.first_says is None or isinstance(own, str) else self.first_says

    def reduced(self, own, **how):
        assert how == {"all": False}
        return own or self.others_are_busy

    def save_checkpoint(self, path):
        assert path == str(self.writer.place / f"step-{self.global_step}")
        step = torch.tensor([self.global_step])
        last = self.global_step >= self.max_steps
        self.writer.save(self.global_step, {"step": step}, {}, {"training.json": {}}, last)


def writer_of(run, config, rank=0, world_size=1):
    metrics = MetricsWriter(run.metrics)
    return CheckpointWriter(
        run.checkpoints, rank, world_size, events_of(run, rank), metrics, config
    )


def started(config, run, max_steps=100, start_step=0, **trainer_options):
    """A trainer that begins to train, and what writes its checkpoints."""
    trainer = OneOfMany(writer_of(run, config), max_steps, **trainer_options)
    trainer.global_step = start_step
    callback = WriteCheckpoints(config, trainer.writer, max_steps)
    callback.on_train_start(trainer, None)
    return trainer, callback


def train(trainer, callback, steps, at_step=lambda step: None):
    """Some steps of two micro-batches."""
    for step in steps:
        at_step(step)
        callback.on_train_batch_end(trainer, None, None, None, 0)
        trainer.global_step = step
        callback.on_train_batch_end(trainer, None, None, None, 1)


def steps_in(run):
    return [checkpoints.step_of(path) for path in checkpoints.committed(run.checkpoints)]


def written(config, run, steps, max_steps=100, at_step=lambda step: None, start_step=0):
    """Steps of the checkpoints that exist after some steps."""
    trainer, callback = started(config, run, max_steps, start_step)
    train(trainer, callback, steps, lambda step: (trainer.writer.wait(), at_step(step)))
    callback.on_train_end(trainer, None)
    return steps_in(run)


def test_checkpoints_come_by_steps_and_at_the_end(tmp_path):
    run = make_run(tmp_path)
    config = CheckpointConfig(every_steps=3, keep_last=9)
    assert written(config, run, range(1, 9), max_steps=8) == [3, 6, 8]
    assert [event["step"] for event in read_events(run.events, "checkpoint")] == [3, 6, 8]
    for step in (3, 6, 8):
        folder = run.checkpoints / f"step-{step}"
        checkpoints.verify(folder)
        assert load_file(next(folder.glob("part-00000-*")))["step"] == step


def test_by_default_only_the_last_step_is_kept(tmp_path):
    assert written(CheckpointConfig(), make_run(tmp_path), range(1, 6), 5) == [5]


def test_the_newest_are_kept(tmp_path):
    config = CheckpointConfig(every_steps=1, keep_last=2)
    assert written(config, make_run(tmp_path), range(1, 6)) == [4, 5]


def test_checkpoints_come_by_minutes(tmp_path, clock):
    def half_a_minute(step):
        clock.seconds += 30

    config = CheckpointConfig(every_minutes=1.2, keep_last=9)
    steps = written(config, make_run(tmp_path), range(1, 8), at_step=half_a_minute)
    assert steps == [3, 6]


def test_minutes_count_from_whatever_checkpoint_came_last(tmp_path, clock):
    def half_a_minute(step):
        clock.seconds += 30

    config = CheckpointConfig(every_minutes=1.2, every_steps=2, keep_last=9)
    steps = written(config, make_run(tmp_path), range(1, 8), at_step=half_a_minute)
    assert steps == [2, 4, 6]


def test_the_first_worker_decides_by_its_clock_for_all(tmp_path, clock):
    def an_hour(step):
        clock.seconds += 3600

    config = CheckpointConfig(every_minutes=1, keep_last=9, background=False)
    run = make_run(tmp_path, "a")
    trainer, callback = started(config, run, first_says=False)
    train(trainer, callback, range(1, 4), an_hour)
    assert (steps_in(run), trainer.asked) == ([], [True] * 3)
    run = make_run(tmp_path, "b")
    trainer, callback = started(config, run, first_says=True)
    train(trainer, callback, range(1, 4))
    assert steps_in(run) == [1, 2, 3]


def test_all_workers_write_under_the_name_that_the_first_has_chosen(tmp_path):
    run = make_run(tmp_path)
    trainer, callback = started(CheckpointConfig(), run)
    trainer.broadcast = trainer.strategy.broadcast = lambda own: "chosen"
    callback.on_train_start(trainer, None)
    assert trainer.writer.group == "chosen"


@pytest.fixture
def gate(monkeypatch):
    """What is written waits until the gate is opened."""
    opened, write = threading.Event(), checkpoint_writer.write_files

    def write_later(*args):
        assert opened.wait(10)
        return write(*args)

    monkeypatch.setattr(checkpoint_writer, "write_files", write_later)
    yield opened
    opened.set()


def test_what_is_due_while_another_is_written_is_left_out(tmp_path, gate):
    run = make_run(tmp_path)
    config = CheckpointConfig(every_steps=2, keep_last=9)
    trainer, callback = started(config, run, max_steps=9)
    train(trainer, callback, range(1, 7))
    assert [event["step"] for event in read_events(run.events, "checkpoint_late")] == [4]
    gate.set()
    trainer.writer.wait()
    train(trainer, callback, range(7, 10))
    assert steps_in(run) == [2, 8, 9]


def test_it_is_left_out_by_all_if_one_worker_is_not_done(tmp_path):
    run = make_run(tmp_path)
    trainer, callback = started(CheckpointConfig(every_steps=1), run, others=[True])
    train(trainer, callback, range(1, 3))
    trainer.writer.wait()
    assert steps_in(run) == []
    assert len(read_events(run.events, "checkpoint_late")) == 1


def test_a_checkpoint_can_be_had_at_once(tmp_path, gate):
    run = make_run(tmp_path)
    trainer, callback = started(CheckpointConfig(every_steps=2, keep_last=9), run)
    train(trainer, callback, range(1, 4))
    assert trainer.writer.busy
    threading.Timer(0.05, gate.set).start()
    callback.write_now(trainer)
    assert steps_in(run) == [2, 3]
    callback.write_now(trainer)
    assert [event["step"] for event in read_events(run.events, "checkpoint")] == [2, 3]


def test_what_is_wanted_at_once_is_tried_again(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    trainer, callback = started(CheckpointConfig(), run)
    write, faults = checkpoint_writer.write_files, [1, 2]

    def write_at_last(*args):
        if faults and faults.pop():
            raise OSError(5, "Input/output error")
        return write(*args)

    monkeypatch.setattr(checkpoint_writer, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(checkpoint_writer, "write_files", write_at_last)
    train(trainer, callback, range(1, 4))
    callback.write_now(trainer)
    assert steps_in(run) == [3]


@pytest.mark.parametrize("urgent", [False, True])
def test_all_workers_are_done_before_one_that_cannot_wait(tmp_path, gate, urgent):
    run = make_run(tmp_path)
    max_steps = 9 if urgent else 3
    trainer, callback = started(CheckpointConfig(every_steps=2, keep_last=9), run, max_steps)
    seen = []
    trainer.strategy.barrier = lambda: seen.append((trainer.writer.busy, steps_in(run)))
    threading.Timer(0.05, gate.set).start()
    train(trainer, callback, range(1, 4))
    if urgent:
        callback.write_now(trainer)
    assert seen[0] == (False, [2])
    assert steps_in(run) == [2, 3]


def test_training_takes_the_place_and_tells_where_it_begins(tmp_path):
    run = make_run(tmp_path)
    trainer, _ = started(CheckpointConfig(), run, start_step=4)
    assert (run.checkpoints / ".writer").read_text() == trainer.writer.group
    assert trainer.writer.start_step == 4


def test_what_a_run_goes_on_from_is_not_written_again(tmp_path):
    config = CheckpointConfig(every_steps=2, keep_last=9)
    assert written(config, make_run(tmp_path, "a"), range(5, 7), start_step=4) == [6]
    run = make_run(tmp_path, "b")
    trainer, callback = started(config, run, start_step=4)
    callback.write_now(trainer)
    assert steps_in(run) == []


@pytest.mark.parametrize("end", ["on_train_end", "on_exception"])
def test_whatever_ends_training_the_write_under_way_ends_first(tmp_path, gate, end):
    run = make_run(tmp_path)
    trainer, callback = started(CheckpointConfig(every_steps=2), run)
    train(trainer, callback, range(1, 3))
    threading.Timer(0.05, gate.set).start()
    getattr(callback, end)(trainer, None, *([ValueError()] if end == "on_exception" else []))
    assert steps_in(run) == [2]


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
        assert values["system/worker_memory_gigabytes"] > 0.1
        assert values["system/worker_cores"] >= 0
        assert 0 <= values["system/machine_cpu_share"] <= 1
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
