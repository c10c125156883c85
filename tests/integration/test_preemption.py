"""Runs that are asked to end, or lose a node with notice: no step is lost, no failure counted."""

from __future__ import annotations

import signal
import time

import psutil
import pytest
from whole_runs import losses, run_job, spec_of, starts, tap, the_run, wait_until

from tap_platform.runs import checkpoints
from tap_platform.runs.events import read_events
from tap_platform.runs.status import read_status

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]

STEPS = 40
CHANGES = {
    "data": {"reader_tasks": 0},
    "training": {"max_steps": STEPS},
    "scale": {"workers": 2, "max_failures": 0},
}


NODE = {"num_cpus": 2, "object_store_memory": 100_000_000}


@pytest.fixture(scope="module")
def unbroken(ray_cluster, make_job):
    return losses(run_job(make_job("unbroken", **CHANGES)))


def at_step(run, step):
    wait_until(lambda: run.metrics.exists() and max(losses(run), default=0) >= step, f"step {step}")


def newest_step(run):
    return checkpoints.step_of(checkpoints.committed(run.checkpoints)[-1])


def test_a_driver_that_is_sent_sigterm_loses_no_step(make_job, unbroken, tmp_path):
    job = make_job("asked", **CHANGES)
    driver = tap("train", spec_of(job, tmp_path))
    run = the_run(job)
    at_step(run, 5)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 1, output
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    step = newest_step(run)
    assert 5 <= step < STEPS
    assert max(losses(run)) == step
    assert "SIGTERM: the workers write a checkpoint and end" in output
    status = read_status(run.status)
    assert status.state == "interrupted"
    assert (
        f"stopped by SIGTERM; step {step} is in its last checkpoint; go on with" in status.message
    )
    assert not read_events(run.events, "preempted")

    resumed = tap("train", "--resume", run.path)
    output, _ = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, output
    assert starts(run) == [None, f"step-{step}"]
    assert losses(run) == unbroken


@pytest.fixture
def cluster():
    """A head that has no room for two workers, beside the Ray of the other tests."""
    from ray.cluster_utils import Cluster

    head = {**NODE, "num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


def drain(cluster, node, seconds):
    """What an autoscaler, or `ray start --block` at SIGTERM, does to a node; its deadline."""
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int(1000 * (time.time() + seconds))
    accepted, why = GcsClient(cluster.address).drain_node(node.node_id, reason, "test", deadline)
    assert accepted, why
    return deadline / 1000


def test_a_node_that_is_drained_loses_no_step(make_job, unbroken, cluster, tmp_path, monkeypatch):
    node = cluster.add_node(**NODE)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    job = make_job("drained", **CHANGES)
    driver = tap("train", spec_of(job, tmp_path))
    run = the_run(job)
    at_step(run, 5)
    assert driver.poll() is None
    deadline = drain(cluster, node, seconds=60)
    wait_until(lambda: read_events(run.events, "preempted"), "the preemption", seconds=30)
    cluster.add_node(**NODE)
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 0, output

    (event,) = read_events(run.events, "preempted")
    assert event["nodes"] == [node.node_id]
    assert event["ranks"] == [0, 1]
    assert event["deadline"] == pytest.approx(deadline, abs=1)
    assert starts(run) == [None, f"step-{event['step']}"]
    assert losses(run) == unbroken
    assert f"preempted at step {event['step']}: workers 0, 1 are taken away" in output
