"""A cluster that is too small for a job's data tasks is told before anything is scheduled."""

from __future__ import annotations

import io

import pytest
import ray
import ray.autoscaler.sdk
from rich.console import Console

from tap_platform.config.load import merge, validate_job
from tap_platform.launch import new_nodes
from tap_platform.launch.ray_session import check_room, cpus_needed, ray_session, start_ray

TREE = {
    "name": "small",
    "model": {"preset": "tiny"},
    "data": {"source": "scenes", "partitions": 4},
    "training": {"max_steps": 2, "global_batch": 4},
    "scale": {"workers": 2},
}


def job(workers=2, cpus=1, **data):
    changes = {
        "scale": {"workers": workers, "cpus_per_worker": cpus},
        "data": data,
        "checkpoint": {"every_steps": 1},
    }
    return validate_job(merge(TREE, changes), where="small")


@pytest.mark.parametrize("decode", ["consumer", "ray"])
@pytest.mark.parametrize(
    ("workers", "cpus", "readers", "needed"), [(1, 1, 1, 2), (2, 1, 1, 4), (4, 8, 3, 44)]
)
def test_every_data_task_holds_a_cpu_whoever_decodes(workers, cpus, readers, needed, decode):
    asked = job(workers, cpus, reader_tasks=readers, decode=decode)
    assert cpus_needed(asked) == needed
    check_room(asked, [needed])
    with pytest.raises(ValueError, match=f"has {needed - 1} CPUs, the job holds {needed}"):
        check_room(asked, [needed - 1])


def test_the_arithmetic_is_told():
    message = r"2 workers x \(1 for training \+ 3 for reading and decoding\); lower scale.workers"
    with pytest.raises(ValueError, match=message):
        check_room(job(reader_tasks=3, decode="ray"), [4, 3])
    with pytest.raises(ValueError, match=r"\+ 1 for reading\)"):
        check_room(job(), [3])


def test_a_job_that_reads_in_its_workers_needs_no_room_for_readers():
    check_room(job(reader_tasks=0), [2])


def test_a_worker_needs_its_cpus_on_one_node():
    check_room(job(workers=2, cpus=4), [5, 6])
    message = r"1 workers of 4 CPUs fit on the nodes.* 2, 3, 6 CPUs; the job asks for 2"
    with pytest.raises(ValueError, match=message):
        check_room(job(workers=2, cpus=4), [6, 3, 2])


def test_decoding_in_data_tasks_needs_data_tasks():
    with pytest.raises(ValueError, match="make reader_tasks 1 or more"):
        job(reader_tasks=0, decode="ray")


def test_a_cluster_that_exists_is_looked_at_before_the_job_begins(monkeypatch):
    nodes = [
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
        {"Alive": True, "Resources": {"GPU": 1.0}},
    ]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    with pytest.raises(ValueError, match="has 3 CPUs, the job holds 4"), ray_session(job()):
        pytest.fail("the job has begun")
    nodes.append({"Alive": True, "Resources": {"CPU": 1.0}})
    with ray_session(job()):
        pass


def test_an_elastic_run_needs_room_for_its_fewest_workers():
    elastic = job(workers=[1, 2])
    assert cpus_needed(elastic) == 4
    check_room(elastic, [2])
    with pytest.raises(ValueError, match=r"has 1 CPUs, the job holds 2: 1 workers x"):
        check_room(elastic, [1])


def test_a_cluster_is_joined_from_one_of_its_nodes(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ValueError, match="a driver runs on a node of its cluster"):
        start_ray(2)


def test_a_cluster_that_cannot_be_joined_is_named(monkeypatch):
    def refuse(address, **options):
        raise ConnectionError(f"nobody at {address}")

    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ValueError, match=r"RAY_ADDRESS head:6379 .nobody at .*RAY_AUTH_MODE"):
        start_ray(2)


NODE = {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}}


class Autoscaler:
    """Adds a node for each bundle that is asked for, once it was looked at some times."""

    def __init__(self, node, looks):
        self.asked = []
        self._nodes, self._node, self._looks = [{"Alive": True, "Resources": {}}], node, looks

    def request_resources(self, bundles):
        self.asked.append(bundles)

    def nodes(self):
        self._looks -= bool(self.asked)
        if self.asked and self._looks == 0:
            self._nodes += [self._node] * len(self.asked[0])
        return self._nodes


@pytest.fixture
def autoscaled(monkeypatch):
    """A cluster with an autoscaler that gives nodes after some looks."""

    def make(looks, node=NODE):
        autoscaler = Autoscaler(node, looks)
        monkeypatch.setenv("TAP_AUTOSCALED", "1")
        monkeypatch.delenv("TAP_START_SECONDS", raising=False)
        monkeypatch.delenv("TAP_GPU_TFLOPS", raising=False)
        monkeypatch.setattr(new_nodes, "LOOK_EVERY_SECONDS", 0.01)
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "nodes", autoscaler.nodes)
        monkeypatch.setattr(ray.autoscaler.sdk, "request_resources", autoscaler.request_resources)
        return autoscaler

    return make


def session_of(asked):
    """What is told until the job has room."""
    told = io.StringIO()
    with ray_session(asked, Console(file=told, width=200)):
        return told.getvalue()


def test_nodes_of_an_autoscaler_are_asked_for_and_waited_for(autoscaled):
    autoscaler = autoscaled(looks=5)
    told = session_of(job())
    assert "waiting for nodes for 2 workers of 2 CPUs: the Ray cluster has 0 CPUs, the job" in told
    assert "the nodes are there, after 0 s" in told
    assert autoscaler.asked == [[{"CPU": 2}] * 2, []]


@pytest.mark.parametrize("looks", [2, 5])
def test_an_elastic_run_asks_for_its_fewest_workers(autoscaled, looks):
    autoscaler = autoscaled(looks)
    session_of(job(workers=[1, 4]))
    assert autoscaler.asked == [[{"CPU": 2}], []]


@pytest.mark.parametrize(
    ("device", "peak", "gpus"),
    [("auto", "312", 1), ("auto", None, 0), ("cpu", "312", 0), ("gpu", None, 1)],
)
def test_nodes_with_gpus_are_asked_for_where_the_profile_has_them(
    autoscaled, monkeypatch, device, peak, gpus
):
    autoscaler = autoscaled(looks=2)
    if peak:
        monkeypatch.setenv("TAP_GPU_TFLOPS", peak)
    asked = job()
    asked = asked.model_copy(update={"scale": asked.scale.model_copy(update={"device": device})})
    told = session_of(asked)
    assert autoscaler.asked[0] == [{"CPU": 2, **({"GPU": 1} if gpus else {})}] * 2
    assert ("2 workers of 2 CPUs and 1 GPUs" in told) == bool(gpus)


def test_nodes_without_the_gpus_are_not_enough(autoscaled, monkeypatch):
    autoscaler = autoscaled(looks=2, node={"Alive": True, "Resources": {"CPU": 2.0}})
    monkeypatch.setenv("TAP_GPU_TFLOPS", "312")
    monkeypatch.setenv("TAP_START_SECONDS", "0.2")
    message = r"0.2 s after .*start_seconds.*has 0 GPUs, 2 workers take one each"
    with pytest.raises(ValueError, match=message):
        session_of(job())
    assert autoscaler.asked[-1] == []


def test_nodes_that_do_not_come_are_waited_for_as_long_as_is_said(autoscaled, monkeypatch):
    autoscaler = autoscaled(looks=10**9)
    monkeypatch.setenv("TAP_START_SECONDS", "0.2")
    with pytest.raises(ValueError, match=r"too few nodes: the Ray cluster has 0 CPUs, the job"):
        session_of(job())
    assert autoscaler.asked == [[{"CPU": 2}] * 2, []]


def test_nodes_that_are_there_are_not_asked_for(autoscaled):
    autoscaler = autoscaled(looks=1)
    autoscaler.nodes().extend([NODE, NODE])
    assert session_of(job()) == ""
    assert autoscaler.asked == []
