"""A run that failed tells which worker, where and why, and how to go on."""

from __future__ import annotations

import pytest
from ray.exceptions import RayActorError
from ray.train import ControllerError, PreemptionInfo
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError

from tap_platform.launch.failures import explain_failure
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog

NODE_DIED = "The actor died because its node has died. Node Id: 0123, ip: 10.0.0.7"


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path / "my runs", "tap", "one")
    run.begin_attempt()
    for rank in range(3):
        lines = [f"worker {rank} of 3 on host-{rank}, process 1", *map(str, range(40))]
        run.log(1, rank).write_text("\n".join(lines))
    return run


def told(failures, run):
    return explain_failure(WorkerGroupError("text", failures), run, 1)


def test_the_worker_that_failed_first_is_named(run):
    echo = RuntimeError("[../gloo/transport/tcp/pair.cc] Connection closed by peer")
    text = told({0: echo, 1: ValueError("no such image"), 2: echo}, run)
    assert text.startswith("worker 1 (worker 1 of 3 on host-1, process 1) failed: no such image\n")
    assert "\n  | 39\n" in text
    assert "  | 27\n" not in text
    assert f"its whole log: {run.log(1, 1)}\n" in text
    assert text.endswith(f"no checkpoint; go on with: tap train --resume '{run.path}'")


def test_a_node_that_died_is_the_cause_of_what_others_say(run):
    EventLog(run.events).record("checkpoint", step=4)
    EventLog(run.events).record("checkpoint", step=8)
    dead = WorkerHealthCheckFailedError("no answer", RayActorError(error_msg=NODE_DIED))
    text = told({0: ValueError("an echo of it"), 2: dead}, run)
    assert text.startswith("worker 2 (worker 2 of 3 on host-2, process 1) is gone: ")
    assert NODE_DIED in text
    assert "step 8 is in its last checkpoint; go on with" in text


def test_a_log_that_is_not_there_tells_of_storage(run):
    run.log(1, 1).unlink()
    assert "does not see the run directory; `storage` is a folder that all nodes share" in told(
        {1: OSError("no such folder")}, run
    )


def test_storage_that_a_node_does_not_see(run):
    error = ControllerError(RuntimeError("Unable to set up cluster storage with the following"))
    text = explain_failure(error, run, 1)
    assert text.startswith(f"a node of the cluster does not see the run directory {run.path}")
    assert "go on with: tap train --resume" in text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ControllerError(RuntimeError("too few resources")),
            "watch the workers: too few resources",
        ),
        (RayActorError(error_msg="The actor died\nand more"), "gone (The actor died)"),
        (PreemptionError(PreemptionInfo(None, {"0123": [1]})), "preempted_ranks=[1]"),
    ],
)
def test_failures_that_are_no_workers(run, error, message):
    text = explain_failure(error, run, 1)
    assert message in text
    assert "go on with: tap train --resume" in text
