"""What a run's gauges tell when something about them fails; Ray's are made up."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tap_platform.launch import gauges
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events
from tap_platform.runs.metrics import MetricsWriter


class Gauge:
    """The last value of each gauge, by name."""

    values: ClassVar[dict[str, float]] = {}

    def __init__(self, name, text, tags):
        self.name = name

    def set_default_tags(self, tags):
        pass

    def set(self, value):
        self.values[self.name] = value


class Flops:
    """Cannot be counted."""

    def __init__(self, job, use_gpu):
        self.asked, self.left = 0, 0

    def value(self, patience):
        self.asked += 1
        raise RuntimeError("no such kernel")

    def leave(self):
        self.left += 1


def test_flops_that_cannot_be_counted_silence_no_other_gauge(tmp_path, make_job, monkeypatch):
    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    monkeypatch.setattr(gauges, "StepFlops", Flops)
    monkeypatch.setattr(Gauge, "values", {})
    monkeypatch.setenv(gauges.PEAK, "100")
    run = RunDirectory.create(tmp_path, "tap", "r")
    told = gauges.RunGauges(run, make_job("r"), use_gpu=False)
    flops = told._flops
    for step in (1, 2, 3):
        MetricsWriter(run.metrics).write(
            step, {"train/loss": 1 / step, "speed/seconds_per_step": 1}
        )
        assert told._try_pass()
        assert Gauge.values["tap_step"] == step
        assert Gauge.values["tap_loss"] == pytest.approx(1 / step)
    assert "tap_mfu" not in Gauge.values
    (event,) = read_events(run.events)
    assert (event["kind"], event["error"]) == ("gauges_without_mfu", "no such kernel")
    assert (flops.asked, flops.left) == (1, 1)
    told._release()
