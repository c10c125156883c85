"""Pods that are taken away from a run, each a host of its own with a real Ray on it."""

from __future__ import annotations

import signal

import pytest
from whole_runs import losses, starts, wait_until

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events
from tap_platform.runs.status import read_status
from tap_platform.runs.stop_request import StopRequest
from tests.chaos.cluster import WORKERS, HostCluster
from tests.chaos.hosts import why_not
from tests.chaos.jobs import write_job

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(900),
    pytest.mark.long,
]

STEPS = 300
CHANGES = {
    "training": {"max_steps": STEPS},
    "checkpoint": {"every_steps": STEPS},
    "scale": {"workers": 1, "max_failures": 0},
}


class Pods(HostCluster):
    """A head, which drives and does not train, and two that train."""

    drivers_host = "head"

    def start(self):
        self.remembers = False
        for name in ("head", *WORKERS):
            self.add(name)

    def leave(self, name, run):
        """What Kubernetes does in a pod before it ends it."""
        told = {"TAP_RUN_DIRECTORY": str(run.path), "TAP_PRE_STOP_SECONDS": "60"}
        return self.run(
            name, "python", "-m", "tap_platform.places.leave", log=f"leave-{name}", **told
        )


@pytest.fixture
def pods(tmp_path):
    pods = Pods(tmp_path)
    try:
        pods.start()
        yield pods
    finally:
        pods.close()


def at_step(run, step):
    wait_until(
        lambda: run.metrics.exists() and max(losses(run), default=0) >= step, f"step {step}", 300
    )


def host_of(run):
    """Where the worker runs, as the last line of its log's kind tells."""
    lines = run.log(run.attempt, 0).read_text().splitlines()
    return [line for line in lines if line.startswith("worker 0 of 1 on ")][-1].split()[5][:-1]


def test_pods_that_leave_lose_no_step(pods, tmp_path):
    spec = write_job(tmp_path, "job", CHANGES)
    run = RunDirectory(tmp_path / "runs" / "chaos" / "one")
    driver = pods.drive("train", spec, "--run", "one", log="driver")
    at_step(run, 5)

    first = host_of(run)
    leaving = pods.leave(first, run)
    assert leaving.wait(120) == 0
    assert "Ray is told that this node will be gone in 60 s: 1 workers end" in leaving.said()
    assert leaving.said().endswith("all have ended\n")
    log_of_the_pod = pods.network.hosts[first].process.stdout
    assert "leave: Ray is told" in log_of_the_pod.readline()
    (preempted,) = read_events(run.events, "preempted")
    assert preempted["ranks"] == [0]
    pods.kill(first)

    at_step(run, preempted["step"] + 5)
    (second,) = {*WORKERS} - {first}
    assert host_of(run) == second
    # All pods of a run that is deleted are told at once, and nobody knows in which order.
    leaving = [pods.leave(name, run) for name in (second, "head")]
    # KubeRay stops the job too: the driver is sent SIGTERM a second time.
    wait_until(StopRequest(run).asked, "the first SIGTERM", 60)
    driver.send(signal.SIGTERM)
    assert [each.wait(120) for each in leaving] == [0, 0]
    assert driver.wait(1) == 1
    assert "is being stopped, by SIGTERM: its workers end by themselves" in leaving[0].said()
    assert "SIGTERM to its driver" in leaving[1].said()
    assert all(each.said().endswith("all have ended\n") for each in leaving)
    status = read_status(run.status)
    assert (status.state, status.step) == ("interrupted", max(losses(run)))
    assert len(read_events(run.events, "preempted")) == 1

    again = pods.drive("train", spec, "--run", "one", log="driver")
    assert again.wait(300) == 0, again.said()
    assert starts(run) == [None, f"step-{preempted['step']}", f"step-{status.step}"]
    assert set(losses(run)) == set(range(1, STEPS + 1))
    done = pods.drive("train", spec, "--run", "one", log="driver")
    assert done.wait(60) == 0
    assert f"one is finished, at step {STEPS}: there is nothing to do" in done.said()
