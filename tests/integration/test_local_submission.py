"""A run on this computer, from `tap submit` to `tap resubmit`, by the program itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from whole_runs import wait_until

from tap_platform.runs.checkpoints import committed
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import read_status
from tests.chaos.jobs import write_job

pytestmark = pytest.mark.timeout(300)
STEPS = 2000
TAP = str(Path(sys.executable).with_name("tap"))


@pytest.fixture
def tap(tmp_path):
    """What `tap` said, in an environment that remembers nothing of others; drivers are ended."""
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "COLUMNS": "200"}

    def call(*arguments, status=0):
        done = subprocess.run(
            [TAP, *map(str, arguments)],
            check=False,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    yield call
    subprocess.run([TAP, "stop", "here", "--now"], check=False, env=environment, cwd=tmp_path)


@pytest.mark.long
def test_a_run_is_submitted_stopped_with_a_checkpoint_and_goes_on(tap, tmp_path):
    changes = {"training": {"max_steps": STEPS}, "checkpoint": {"every_steps": STEPS}}
    one = {"scale": {"workers": 1, "cpus_per_worker": 1}}
    spec = write_job(tmp_path, "tiny", {**changes, **one})
    assert "here is starting on local" in tap("submit", spec, "--on", "local", "--run", "here")
    said = tap("submit", spec, "--on", "local", "--run", "here", status=2)
    assert "here is being trained already, by process" in said

    run = RunDirectory(tmp_path / "runs" / "chaos" / "here")
    wait_until(lambda: run.status.is_file() and read_status(run.status).step > 2, "training", 150)
    assert "running" in tap("ps")
    tap("stop", "here")
    lines = tap("logs", "here", "-f").splitlines()
    assert "here, attempt 1" in lines
    assert any(line.startswith("SIGTERM: the workers write a checkpoint") for line in lines)
    status = read_status(run.status)
    assert status.state == "interrupted"
    assert [path.name for path in committed(run.checkpoints)] == [f"step-{status.step}"]

    tap("resubmit", "here")
    wait_until(lambda: read_status(run.status).attempt == 2, "the second attempt")
    assert "attempt        2" in tap("describe", "here")
