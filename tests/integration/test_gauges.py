"""A run's numbers on the metrics port of a real Ray."""

from __future__ import annotations

import time
import urllib.request
from datetime import datetime

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from whole_runs import records, run_job

from tap_platform.estimate.traced_step import trace_step
from tap_platform.runs.events import read_events

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

TEN_SECONDS_AND_MORE = 60
"""Ray's processes tell its agent what is new every ten."""


def scraped(run):
    """The last values of a run, as Prometheus reads them."""
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as page:
        families = text_string_to_metric_families(page.read().decode())
        samples = [sample for family in families for sample in family.samples]
    tags = {"run": run.name, "project": run.project}
    return {s.name: s.value for s in samples if tags.items() <= s.labels.items()}


def at_step(run, step):
    """All that is told once that step is, and how it compares with the GPUs' peak."""
    deadline = time.monotonic() + TEN_SECONDS_AND_MORE
    while (found := scraped(run)).get("ray_tap_step") != step or "ray_tap_mfu" not in found:
        assert time.monotonic() < deadline, found
        time.sleep(1)
    return found


@pytest.mark.long
def test_prometheus_sees_what_the_run_directory_tells(make_job, monkeypatch):
    monkeypatch.setenv("TAP_PRICE_PER_HOUR", "36")
    monkeypatch.setenv("TAP_GPU_TFLOPS", "0.01")
    job = make_job("seen", training={"max_steps": 6})
    run = run_job(job)
    found = at_step(run, 6)
    last = records(run)[6]
    step_seconds = last["speed/seconds_per_step"]
    flops = trace_step(job, on_gpu=False).flops * job.accumulation
    (started,) = read_events(run.events, "started")
    ended = datetime.now().timestamp() - datetime.fromisoformat(started["time"]).timestamp()
    assert found.pop("ray_tap_mfu") == pytest.approx(flops / step_seconds / 1e10)
    assert 0 < found.pop("ray_tap_cost") < 0.01 * ended
    assert found == {
        "ray_tap_step": 6,
        "ray_tap_loss": last["loss"],
        "ray_tap_step_seconds": step_seconds,
        "ray_tap_images_per_second": last["speed/images_per_second"],
        "ray_tap_data_wait_share": last["speed/data_wait_share"],
        "ray_tap_failures_total": 0,
        "ray_tap_checkpoint_failures_total": 0,
        "ray_tap_gpu_hours": 0,
    }
