"""A cluster that is too small for a job's data tasks is told before anything is scheduled."""

from __future__ import annotations

import pytest
import ray

from tap_platform.config.load import merge, validate_job
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
    ("workers", "cpus", "readers", "needed"), [(1, 1, 1, 3), (2, 1, 1, 5), (4, 8, 3, 45)]
)
def test_every_data_task_holds_a_cpu_whoever_decodes(workers, cpus, readers, needed, decode):
    asked = job(workers, cpus, reader_tasks=readers, decode=decode)
    assert cpus_needed(asked) == needed
    check_room(asked, [needed])
    with pytest.raises(ValueError, match=f"has {needed - 1} CPUs, the job holds {needed}"):
        check_room(asked, [needed - 1])


def test_the_arithmetic_is_told():
    message = (
        r"2 workers x \(1 for training \+ 3 for reading and decoding\) \+ 1 for the controller"
    )
    with pytest.raises(ValueError, match=message):
        check_room(job(reader_tasks=3, decode="ray"), [4, 4])
    with pytest.raises(ValueError, match=r"\+ 1 for reading\)"):
        check_room(job(), [4])


def test_a_job_that_reads_in_its_workers_needs_no_room_for_readers():
    check_room(job(reader_tasks=0), [3])


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
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
        {"Alive": True, "Resources": {"GPU": 1.0}},
    ]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    with pytest.raises(ValueError, match="has 4 CPUs, the job holds 5"), ray_session(job()):
        pytest.fail("the job has begun")
    nodes.append({"Alive": True, "Resources": {"CPU": 1.0}})
    with ray_session(job()):
        pass


def test_an_elastic_run_needs_room_for_its_fewest_workers():
    elastic = job(workers=[1, 2])
    assert cpus_needed(elastic) == 5
    check_room(elastic, [3])
    with pytest.raises(ValueError, match=r"has 2 CPUs, the job holds 3: 1 workers x"):
        check_room(elastic, [2])


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
