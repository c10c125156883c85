"""Whole runs as people start them, how they are cut short, and what is left of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml

from tap_platform.launch.train import create_run, train
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events
from tap_platform.runs.metrics import read_metrics


def run_job(job):
    return train(job, create_run(job))


def run_in_workers(function, workers, storage):
    """Run a function in Ray Train workers on CPUs, as a run does."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    environment = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(Path(__file__).parent)}
    TorchTrainer(
        function,
        train_loop_config={},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            storage_path=f"{storage}/ray",
            worker_runtime_env={"env_vars": environment},
        ),
    ).fit()


def records(run):
    """What was measured of training, by step."""
    return {r.step: r.values for r in read_metrics(run.metrics) if r.kind == "train"}


def losses(run):
    return {step: values["loss"] for step, values in records(run).items()}


def starts(run):
    """The checkpoint that each start of the workers went on from."""
    return [event["goes_on_from"] for event in read_events(run.events, kind="training")]


def worker_process(run):
    """Process id of the first worker, as it was started last."""
    return read_events(run.events, kind="training")[-1]["pid"]


def copy_as_cut(run, copy, step):
    """Give another run what a crash after `step` would have left of this one."""
    name = f"step-{step}"
    shutil.copytree(run.checkpoints / name, copy.checkpoints / name)
    lines = run.metrics.read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    copy.metrics.write_text("".join(kept))


def wait_until(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


@contextmanager
def worker_killed_at(run, step):
    """SIGKILL the first worker once a step is recorded, while the block trains."""

    def kill():
        wait_until(
            lambda: run.metrics.exists() and max(losses(run), default=0) >= step, f"step {step}"
        )
        os.kill(worker_process(run), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    yield
    assert not killer.is_alive(), "the worker was not killed"


def spec_of(job, folder):
    """A job as a file."""
    path = folder / f"{job.name}.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    return path


def tap(*arguments):
    """`tap` as a process with a group of its own."""
    command = [Path(sys.executable).with_name("tap"), *map(str, arguments)]
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def the_run(job):
    """The one run of a job, as soon as it is there."""

    def runs():
        return [run for run in RunDirectory.all(job.storage) if run.name.startswith(job.name)]

    wait_until(runs, f"a run of {job.name}")
    (run,) = runs()
    return run


def assert_gone(processes, seconds=30):
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert not alive, f"still there after {seconds} s: {alive}"


def kill_whole(driver, run, step, seconds=120):
    """SIGKILL a driver and its process group in mid-epoch, with no word to Ray's own processes."""
    wait_until(
        lambda: run.metrics.exists() and max(losses(run), default=0) >= step,
        f"step {step}",
        seconds,
    )
    worker = psutil.Process(worker_process(run))
    worker.suspend()
    wait_until((run.path / "tracking-mlflow.json").exists, "the tracker")
    family = psutil.Process(driver.pid).children(recursive=True)
    assert worker in family
    os.killpg(driver.pid, signal.SIGKILL)
    worker.resume()
    driver.communicate()
    assert_gone(family)
