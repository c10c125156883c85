"""What a person reads while a run goes on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tap_platform.launch.progress import RunProgress
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.status import read_status


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "runs", "tap", "one")


def printed(run, happen):
    """What is said of what happens in the second attempt."""
    EventLog(run.events, attempt=1).record("quarantined", shard="old", key="old", reason="old")
    output = io.StringIO()
    with RunProgress(run, 20, Console(file=output, width=80)):
        happen(EventLog(run.events, attempt=2, rank=0), MetricsWriter(run.metrics, attempt=2))
    return output.getvalue()


def test_steps_are_told_and_kept_in_the_status(run):
    text = printed(run, lambda events, metrics: metrics.write(10, {"loss": 2.5}))
    assert text == "step 10/20  loss 2.5\n"
    assert read_status(run.status).step == 10


def test_what_is_wrong_is_told_and_not_only_recorded(run):
    def happen(events, metrics):
        reason = "step-10/[state] was changed after the commit"
        events.record("checkpoint_skipped", checkpoint="step-10", reason=reason)
        events.record("training", pid=1, goes_on_from="step-6")
        for key in ("a", "b", "a"):
            events.record("quarantined", shard="0.tar", key=key, reason="cut")

    text = printed(run, happen)
    assert "checkpoint step-10 is skipped: step-10/[state] was changed after the commit" in text
    assert "going on from step-6\n" in text
    assert f"bad samples met and left out: 2, listed in {run.events}" in text


def test_metrics_are_read_once(run):
    output = io.StringIO()
    progress = RunProgress(run, 20, Console(file=output, width=80))
    writer = MetricsWriter(run.metrics)
    writer.write(10, {"loss": 2.5})
    writer.write(10, {"second/actual_iou": 0.5})
    progress._look()
    run.metrics.write_bytes(b" " * run.metrics.stat().st_size)
    writer.write(4, {"loss": 9.0})
    progress._look()
    writer.write(20, {"loss": 1.5})
    progress._look()
    assert output.getvalue() == "step 10/20  loss 2.5  iou 0.5\nstep 20/20  loss 1.5\n"


def test_a_status_that_cannot_be_written_ends_nothing_and_is_told_once(run, caplog):
    away = run.status.rename(run.path / "away")

    def happen(events, metrics):
        metrics.write(10, {"loss": 2.5})

    assert printed(run, happen) == "step 10/20  loss 2.5\n"
    assert len(caplog.records) == 1
    assert "is not kept" in caplog.text
    away.rename(run.status)
    printed(run, lambda events, metrics: metrics.write(12, {"loss": 2.5}))
    assert read_status(run.status).step == 12
