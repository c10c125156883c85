"""What a cluster lacks is told before workers are scheduled."""

from __future__ import annotations

import pytest
import ray
from rich.console import Console

from tap_platform.config.load import merge, validate_job
from tap_platform.launch import workers
from tap_platform.launch.errors import RunStoppedError
from tap_platform.launch.workers import _budgets, _fit, _scaling, _use_gpu, run_workers
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.stop_request import StopRequest

TREE = {
    "checkpoint": {"every_steps": 5},
    "name": "small",
    "model": {"preset": "tiny"},
    "data": {"source": "scenes", "partitions": 4},
    "training": {"max_steps": 2, "global_batch": 4},
    "scale": {"workers": 2},
}


def uses_gpu(monkeypatch, gpus, **changes):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 9.0, "GPU": float(gpus)})
    return _use_gpu(validate_job(merge(TREE, changes), where="small"))


def test_gpus_are_taken_where_there_are_enough(monkeypatch):
    assert uses_gpu(monkeypatch, 2)
    assert not uses_gpu(monkeypatch, 0)
    assert not uses_gpu(monkeypatch, 2, scale={"device": "cpu"})


@pytest.mark.parametrize(
    ("gpus", "changes", "message"),
    [
        (1, {}, "workers 2 take a GPU each, the cluster has 1"),
        (0, {"scale": {"device": "gpu"}}, "workers 2 take a GPU each, the cluster has 0"),
        (0, {"training": {"precision": "fp16"}}, "fp16 needs a GPU, the cluster has none"),
    ],
)
def test_too_few_gpus_are_refused(monkeypatch, gpus, changes, message):
    with pytest.raises(ValueError, match=message):
        uses_gpu(monkeypatch, gpus, **changes)


def test_an_elastic_run_needs_gpus_for_its_fewest_workers(monkeypatch):
    assert uses_gpu(monkeypatch, 1, scale={"workers": [1, 2]})
    with pytest.raises(ValueError, match="workers 2 take a GPU each, the cluster has 1"):
        uses_gpu(monkeypatch, 1, scale={"workers": [2, 4]})


def test_workers_that_somebody_else_asked_to_end_have_not_finished(tmp_path):
    run = RunDirectory.create(tmp_path, "tap", "one")
    job = validate_job(TREE, where="small")

    class Asked:
        """Workers that end when somebody writes the request, as if all steps were done."""

        def fit(self):
            StopRequest(run).ask("a person")

    with pytest.raises(RunStoppedError, match="one was stopped by a person; no checkpoint; go on"):
        _fit(Asked(), job, run, Console())


def test_an_old_request_is_forgotten_before_nodes_are_waited_for(tmp_path, monkeypatch):
    """Else the hook of the driver's pod would take the run for one that is being stopped."""
    run = RunDirectory.create(tmp_path, "tap", "one")
    StopRequest(run).ask("SIGTERM")

    def wait(job, console):
        assert not StopRequest(run).asked()
        raise ValueError("too few nodes")

    monkeypatch.setattr(workers, "ray_session", wait)
    with pytest.raises(ValueError, match="too few nodes"):
        run_workers(validate_job(TREE, where="small"), run, 1, Console(quiet=True))


def test_ray_train_gets_the_sizes_and_the_budgets():
    scale = {"workers": [1, 2], "max_failures": 3, "max_preemptions": 4, "resize_check_seconds": 7}
    job = validate_job(merge(TREE, {"scale": scale}), where="small")
    scaling, failures = _scaling(job, use_gpu=False), _budgets(job)
    assert (scaling.num_workers, scaling.elastic_resize_monitor_interval_s) == ((1, 2), 7)
    assert (failures.max_failures, failures.max_preemption_failures) == (3, 4)
