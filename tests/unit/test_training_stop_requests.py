"""A training that is asked to end writes a checkpoint of the step that it is in, and ends there."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError
from ray.train import PreemptionInfo, collective
from small_runs import OneWorker, make_run, small_job, train_here, write_folder

from tap_platform.launch import worker_entry
from tap_platform.runs.events import read_events
from tap_platform.runs.stop_request import StopRequest
from tap_platform.training import worker
from tap_platform.training.callbacks import stop_requests
from tap_platform.training.callbacks.stop_requests import StopOnRequest
from tap_platform.training.termination import Termination


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def at_step(monkeypatch):
    """Do something at the end of a step, before anybody looks for requests."""

    def when(step, happen):
        before = StopOnRequest.on_train_batch_end

        def hook(self, trainer, *others):
            if trainer.global_step == step:
                happen(self)
            before(self, trainer, *others)

        monkeypatch.setattr(StopOnRequest, "on_train_batch_end", hook)

    return when


def written(run):
    return [event["step"] for event in read_events(run.events, "checkpoint")]


def ask(callback):
    callback.request.ask("SIGTERM")
    while not callback._stop:
        time.sleep(0.01)


def terminate(callback):
    os.kill(os.getpid(), signal.SIGTERM)
    while not callback.termination.come:
        time.sleep(0.01)


def test_the_driver_ends_it_after_the_step(folder, tmp_path, monkeypatch, at_step):
    job, run = small_job(folder), make_run(tmp_path)
    at_step(2, ask)
    assert set(train_here(job, run, monkeypatch)) == {1, 2}
    assert written(run) == [2]
    assert not read_events(run.events, "preempted")


def test_what_was_asked_before_the_first_step(folder, tmp_path, monkeypatch):
    job, run = small_job(folder), make_run(tmp_path)
    StopRequest(run).ask("SIGTERM")
    assert not train_here(job, run, monkeypatch)
    assert not written(run)


def test_the_last_step_is_written_once(folder, tmp_path, monkeypatch, at_step):
    job, run = small_job(folder), make_run(tmp_path)
    at_step(job.training.max_steps, ask)
    assert max(train_here(job, run, monkeypatch)) == job.training.max_steps
    assert written(run) == [job.training.max_steps]


def test_a_drained_node_is_a_preemption(folder, tmp_path, monkeypatch, at_step):
    job, run = small_job(folder), make_run(tmp_path)
    told = iter([None, PreemptionInfo(5000, {"0123": [0]})])
    monkeypatch.setattr(stop_requests.ray.train, "get_preemption_info", lambda: next(told))
    at_step(2, lambda _: monkeypatch.setattr(stop_requests, "_told_of_preemption", lambda: True))
    with pytest.raises(RayActorError) as raised:
        train_here(job, run, monkeypatch)
    assert raised.value.preempted
    # At step 2 the first worker had not been told yet.
    assert written(run) == [3]
    (event,) = read_events(run.events, "preempted")
    seen = {key: event[key] for key in ("step", "nodes", "ranks", "deadline")}
    assert seen == {"step": 3, "nodes": ["0123"], "ranks": [0], "deadline": 5.0}


def test_a_worker_that_is_sent_sigterm_is_a_preemption(folder, tmp_path, monkeypatch, at_step):
    job, run = small_job(folder), make_run(tmp_path)
    at_step(2, terminate)
    # In the main thread, Lightning would take the signal.
    with ThreadPoolExecutor(1) as pool, pytest.raises(RayActorError) as raised:
        pool.submit(train_here, job, run, monkeypatch).result()
    assert raised.value.preempted
    assert written(run) == [2]
    assert read_events(run.events, "preempted")[0]["ranks"] == [0]


def test_so_is_one_that_is_sent_it_while_it_is_built(folder, tmp_path, monkeypatch):
    """By `run_worker` itself, in a thread as Ray's are, from its first lines on."""
    job, run = small_job(folder), make_run(tmp_path)
    monkeypatch.setattr(worker, "build_strategy", lambda job, writer: OneWorker(writer))
    monkeypatch.setattr(collective, "broadcast_from_rank_zero", lambda told: told)
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(stop_requests.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(worker_entry, "_write_output_to", lambda log: None)

    def newest(*_, **__):
        # To this thread: it is there when the call returns, however busy the machine is.
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    monkeypatch.setattr(worker_entry, "newest_checkpoint", newest)
    config = {"job": job.model_dump_json(), "run": str(run.path), "attempt": 1}
    with ThreadPoolExecutor(1) as pool, pytest.raises(RayActorError) as raised:
        pool.submit(worker_entry.run_worker, config).result()
    assert raised.value.preempted
    assert not written(run)
    assert read_events(run.events, "preempted")[0]["step"] == 0


def test_sigterm_is_given_back():
    before = []
    handler = signal.signal(signal.SIGTERM, lambda *_: before.append(1))
    try:
        termination = Termination()
        assert not termination.come
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert termination.come
        assert termination.come
        termination.close()
        assert not before
        os.kill(os.getpid(), signal.SIGTERM)
        assert before
    finally:
        signal.signal(signal.SIGTERM, handler)
