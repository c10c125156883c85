"""A thread that finds this process standing still, and what it tells then."""

from __future__ import annotations

import ctypes
import os
import threading
from types import SimpleNamespace

import pytest
from small_runs import make_run

from tap_platform.config.health import HealthConfig
from tap_platform.runs.events import EventLog, read_events
from tap_platform.training import stacks
from tap_platform.training.callbacks import watchdog
from tap_platform.training.callbacks.watchdog import Watchdog
from tap_platform.training.stacks import Frame, ThreadStack, all_stacks, stack_of

TRAINER = SimpleNamespace(global_step=4, world_size=1)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


@pytest.fixture
def ended(monkeypatch):
    """Set when the watchdog ends the process, which goes on here."""
    ended = threading.Event()
    monkeypatch.setattr(watchdog.os, "_exit", lambda code: ended.set())
    return ended


def watching(run, seconds, rank=1):
    dog = Watchdog(HealthConfig(hang_minutes=seconds / 60), EventLog(run.events, 2, rank))
    dog.on_fit_start(TRAINER, None)
    return dog


def waits_for_ever(ended):
    assert ended.wait(30)


@pytest.mark.parametrize("source", ["py-spy", "faulthandler"])
def test_a_hang_tells_step_phase_and_stack(source, run, ended, monkeypatch, capfd):
    if source == "faulthandler":
        monkeypatch.setattr(stacks.sys, "executable", "/nowhere/python")
    dog = watching(run, 0.05)
    dog.on_train_batch_end(TRAINER, None, None, None, 7)
    waits_for_ever(ended)
    dog.teardown(TRAINER, None, "fit")
    event = read_events(run.events, "hang")[0]
    assert (event["rank"], event["attempt"], event["step"]) == (1, 2, 5)
    assert (event["phase"], event["waits_for_others"]) == ("waiting for data", False)
    assert event["stack_by"].startswith(source)
    assert "wait (threading.py:" in event["stack"][0]
    assert "waits_for_ever" in event["stack"][2]
    log = capfd.readouterr().err
    assert "worker 1 hangs at step 5, waiting for data: it does not wait for other workers" in log
    assert "waits_for_ever" in log


def test_progress_of_every_kind_puts_the_end_off(run, ended):
    dog = watching(run, 1.0)
    deadlines = [dog._deadline]
    dog.on_train_start(TRAINER, None)
    assert dog._deadline - deadlines[0] < 1, "the first step has three times as long"
    for progress in (
        lambda: dog.on_train_batch_end(TRAINER, None, None, None, 0),
        lambda: dog.on_validation_start(TRAINER, None),
        lambda: dog.on_validation_batch_end(TRAINER, None, None, None, 0),
        lambda: dog.on_validation_end(TRAINER, None),
        lambda: dog.on_save_checkpoint(TRAINER, None, {}),
    ):
        dog._deadline = 0.0
        progress()
        assert dog._deadline > 0
    dog.on_exception(TRAINER, None, ValueError())
    dog.teardown(TRAINER, None, "fit")
    assert not ended.is_set()
    assert read_events(run.events) == []


def test_null_waits_for_ever(run):
    dog = Watchdog(HealthConfig(hang_minutes=None), EventLog(run.events))
    dog.on_fit_start(TRAINER, None)
    dog.on_train_batch_end(TRAINER, None, None, None, 0)
    dog.teardown(TRAINER, None, "fit")
    assert dog._thread is None


def test_code_that_never_lets_go_of_the_lock_is_ended_too(run, monkeypatch):
    monkeypatch.setattr(watchdog, "BACKSTOP_SECONDS", 0.1)
    log = run.path / "log"
    child = os.fork()
    if not child:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
        watching(run, 0.05)
        ctypes.PyDLL(None).sleep(60)  # holds Python's lock
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert "test_code_that_never_lets_go" in log.read_text()


def stack(*frames):
    return ThreadStack(1, "training", [Frame(name, file, 1) for name, file in frames])


def test_who_waits_for_others_is_read_from_the_innermost_frames():
    outside = [("run", "threading.py"), ("training_step", "tap_platform/recipes/x.py")]
    reduce = ("all_reduce", "torch/distributed/distributed_c10d.py")
    backward = ("_engine_run_backward", "torch/autograd/graph.py")
    buffers = ("_sync_buffers", "torch/nn/parallel/distributed.py")  # DDP, before a forward pass
    assert stack(reduce, *outside).waits_for_others
    assert stack(buffers, *outside).waits_for_others
    assert stack(("get", "queue.py"), backward).waits_for_others
    assert not stack(("get", "queue.py"), *outside).waits_for_others
    assert not stack(*[("call", "torch/nn/module.py")] * 9, reduce).waits_for_others


def test_a_long_stack_is_trimmed_to_its_end_and_our_own():
    many = [(f"f{n}", "lightning/pytorch/trainer/call.py") for n in range(30)]
    shown = stack(*many, ("step", "tap_platform/training/worker.py")).in_short()
    assert [line.split(" ")[0] for line in shown] == ["f0", "f1", "f2", "f3", "step"]


def test_a_thread_that_has_ended_has_no_stack():
    found, _ = all_stacks()
    assert stack_of(threading.get_ident(), found).frames
    assert stack_of(-1, found).frames == []
