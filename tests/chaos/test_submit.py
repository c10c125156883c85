"""A run from its submission to its report, on a real cluster that loses a host on the way."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml

from tap_platform.runs.checkpoints import committed
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import read_status
from tests.chaos.cluster import HostCluster
from tests.chaos.hosts import why_not
from tests.chaos.jobs import write_job
from tests.chaos.measure import last_step, lost_at_last_start, starts
from tests.chaos.processes import wait_until

needs_hosts = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
RUN = "told"
EVERY = 5
DASHBOARD_PORT = 8265


@pytest.fixture
def cluster():
    """Hosts with a dashboard, which know each other by a token."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="tap-submit-") as name:
        hosts = HostCluster(Path(name), dashboard=True)
        try:
            hosts.start()
            yield hosts
        finally:
            hosts.close()


class Desk:
    """Where a person sits: a host of the cluster's network without Ray."""

    def __init__(self, cluster: HostCluster) -> None:
        self.cluster = cluster
        self.calls = 0

    def start(self, *arguments, **variables):
        """`tap`, with the cluster's token unless the variables say otherwise."""
        self.calls += 1
        log = f"tap-{self.calls}"
        return self.cluster.run("desk", "tap", *arguments, log=log, **variables)

    def tap(self, *arguments, **variables):
        """What `tap` said, and its exit status."""
        process = self.start(*arguments, **variables)
        return process.wait(180), process.said()

    def told(self, *arguments):
        """What `tap` said; it went well."""
        status, said = self.tap(*arguments)
        assert status == 0, said
        return said


def write_profile(cluster: HostCluster) -> Path:
    """The cluster, as a person would write it down."""
    head = cluster.network.hosts["head"].address
    profile = {
        "place": "ray",
        "address": f"http://{head}:{DASHBOARD_PORT}",
        "storage": {"path": str(cluster.folder / "runs")},
        "groups": [{"name": "hosts", "cpus": 3, "memory": "4Gi", "least": 2, "most": 2}],
    }
    path = cluster.folder / "lab.yaml"
    path.write_text(yaml.safe_dump(profile))
    return path


def write_long_job(folder: Path) -> Path:
    """A job that does not end by itself; the profile says where it is kept."""
    changes = {"training": {"max_steps": 5000}, "checkpoint": {"every_steps": EVERY}}
    path = write_job(folder, RUN, changes)
    tree = yaml.safe_load(path.read_text())
    del tree["storage"]
    path.write_text(yaml.safe_dump(tree))
    return path


@needs_hosts
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_is_submitted_followed_broken_stopped_and_read_afterwards(cluster):
    desk = Desk(cluster)
    folder, lab = cluster.folder, write_profile(cluster)
    (folder / "runs").mkdir()
    submit = ("submit", write_long_job(folder), "--on", lab, "--run", RUN)

    status, said = desk.tap(*submit, RAY_AUTH_MODE="disabled")
    assert (status, "wants a token (401)" in said) == (2, True), said
    (folder / "theirs").write_text("of another cluster")
    status, said = desk.tap(*submit, RAY_AUTH_TOKEN_PATH=str(folder / "theirs"))
    assert (status, "refuses the token (403)" in said) == (2, True), said

    assert f"{RUN} is running on lab" in desk.told(*submit)
    log = desk.start("logs", RUN, "-f")
    run = RunDirectory(folder / "runs" / "chaos" / RUN)
    assert wait_until(lambda: last_step(run) > EVERY, seconds=240), log.said()
    assert f"{RUN}, attempt 1" in log.said()
    status, said = desk.tap(*submit)
    assert (status, f"{RUN} is on lab already" in said) == (2, True), said

    cluster.kill("b")
    broken_at = last_step(run)
    cluster.add("b")
    assert wait_until(lambda: last_step(run) > broken_at + EVERY, seconds=180), log.said()
    assert len(starts(run)) > 1
    assert lost_at_last_start(run) <= 2 * EVERY
    assert f"{RUN} " in desk.told("ps")

    assert "to write a checkpoint" in desk.told("stop", RUN)
    assert log.wait(120) == 0
    assert "SIGTERM: the workers write a checkpoint and end" in log.said()
    at_end = read_status(run.status)
    assert (at_end.state, at_end.step) == ("interrupted", last_step(run))
    assert max(map(step_of, committed(run.checkpoints))) == at_end.step

    for host in ("head", "a", "b"):
        cluster.kill(host)
    assert "SIGTERM: the workers write a checkpoint and end" in desk.told("logs", RUN)
    described = desk.told("describe", RUN)
    assert "stopped" in described
    assert f"{at_end.step:,} of 5,000" in described
    assert str(run.report) in desk.told("report", run.path)
    assert desk.told("logs", RUN, "--rank", "1")


def step_of(checkpoint: Path) -> int:
    """Of `step-N`."""
    return int(checkpoint.name.removeprefix("step-"))
