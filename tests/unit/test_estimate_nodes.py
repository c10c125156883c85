from __future__ import annotations

from pathlib import Path

import pytest

from tap_platform.config.load import load_job
from tap_platform.config.load_profile import validate_profile
from tap_platform.estimate.nodes import nodes_for

ROOT = Path(__file__).resolve().parents[2]
GPUS = {"name": "h100", "gpu": {"type": "H100", "count": 8}, "cpus": 160, "memory": "1600Gi"}
SPOT = {**GPUS, "name": "spot", "spot": True, "most": 4}
CPUS = {"name": "cpu", "cpus": 8, "memory": "32Gi", "most": 4}


def job(*overrides, workers=1):
    changes = [f"scale.workers={workers}", "training.global_batch=256", "data.partitions=256"]
    changes += ["checkpoint.every_steps=10", *overrides]
    return load_job(ROOT / "jobs/tap_tiny_scenes.yaml", changes)


def profile(*groups, **more):
    tree = {"place": "kubernetes", "image": "tap:1", "groups": list(groups), **more}
    return validate_profile(tree, where="profile.yaml")


@pytest.mark.parametrize(
    ("workers", "pods", "each", "cpus", "gibi"),
    [
        (1, 1, 1, 20, 200),
        (3, 1, 3, 60, 600),
        (8, 1, 8, 160, 1600),
        (12, 2, 6, 120, 1200),
        (256, 32, 8, 160, 1600),
    ],
)
def test_pods_take_whole_nodes_or_the_part_that_a_small_job_needs(workers, pods, each, cpus, gibi):
    (share,) = nodes_for(job(workers=workers), profile({**GPUS, "most": 32}))
    assert (share.pods_least, share.pods_most) == (pods, pods)
    assert share.workers_per_pod == share.gpus_per_pod == each
    assert share.cpus_per_pod == cpus
    assert share.memory_bytes_per_pod == gibi * 2**30


def test_cpu_workers_share_a_node_with_their_data_tasks():
    (share,) = nodes_for(job("scale.cpus_per_worker=2", workers=5), profile(CPUS))
    # 8 // (2 + 1) = 2 workers fit a node; five go to three.
    assert (share.pods_most, share.workers_per_pod, share.gpus_per_pod) == (3, 2, 0)
    assert share.cpus_per_pod == 8


def test_a_job_for_cpus_takes_no_gpus():
    (share,) = nodes_for(job("scale.device=cpu", workers=2), profile(GPUS))
    assert share.gpus_per_pod == 0


def test_the_first_group_that_holds_all_workers_is_taken():
    two = profile({**GPUS, "name": "few", "most": 1}, {**GPUS, "most": 4})
    assert nodes_for(job(workers=8), two)[0].group.name == "few"
    assert nodes_for(job(workers=16), two)[0].group.name == "h100"
    assert len(nodes_for(job(workers=8), two)) == 1


def test_a_job_for_gpus_passes_groups_without():
    shares = nodes_for(job("scale.device=gpu", workers=8), profile(CPUS, GPUS))
    assert [share.group.name for share in shares] == ["h100"]


def test_an_elastic_job_has_least_and_most_pods():
    (share,) = nodes_for(job(workers="[4, 12]"), profile({**GPUS, "most": 2}))
    assert (share.pods_least, share.pods_most, share.workers_per_pod) == (1, 2, 6)


def test_an_elastic_job_takes_what_there_is_when_its_most_is_not():
    (share,) = nodes_for(job(workers="[8, 64]"), profile({**GPUS, "most": 2}))
    assert (share.pods_least, share.pods_most) == (1, 2)


@pytest.mark.parametrize(
    ("workers", "most", "there_are"),
    [("[8, 64]", 2, 16), ("[4, 12]", 2, 12), (5, 2, 5), ("[8, 64]", 8, 64)],
)
def test_workers_that_find_room(workers, most, there_are):
    wanted = job(workers=workers)
    (share,) = nodes_for(wanted, profile({**GPUS, "most": most}))
    assert share.workers_of(wanted) == there_are


def test_nodes_that_are_kept_are_the_least():
    (share,) = nodes_for(job(workers=8), profile({**GPUS, "least": 2, "most": 4}))
    assert (share.pods_least, share.pods_most) == (2, 2)


def test_groups_behind_spot_nodes_stand_in_where_nodes_are_added():
    first, other = nodes_for(job(workers=16), profile(SPOT, {**GPUS, "most": 4}, autoscale=True))
    assert (first.group.name, first.pods_least, first.pods_most) == ("spot", 2, 2)
    assert (other.group.name, other.pods_least, other.pods_most) == ("h100", 0, 2)
    assert len(nodes_for(job(workers=16), profile(SPOT, GPUS))) == 1
    steady = profile({**SPOT, "spot": False}, {**GPUS, "most": 4}, autoscale=True)
    assert len(nodes_for(job(workers=16), steady)) == 1


def test_nodes_without_gpus_do_not_stand_in_for_those_with():
    shares = nodes_for(job(workers=16), profile(SPOT, CPUS, autoscale=True))
    assert [share.group.name for share in shares] == ["spot"]


def test_a_laptop_runs_more_workers_than_it_has_cores():
    here = validate_profile({"groups": [{"name": "here", "cpus": 2, "memory": "16Gi"}]}, "local")
    (share,) = nodes_for(job(workers=4), here)
    assert (share.pods_most, share.workers_per_pod, share.gpus_per_pod) == (1, 4, 0)


@pytest.mark.parametrize(
    ("overrides", "workers", "groups", "said"),
    [
        (["scale.device=gpu"], 16, [GPUS], "1 nodes x 8 = 8 H100 GPUs, the job wants 16"),
        (["scale.device=gpu"], 1, [CPUS], "group cpu has no GPUs"),
        (["scale.cpus_per_worker=9"], 1, [CPUS], "nodes of 8 CPUs: lower scale.cpus_per_worker"),
        ([], 64, [CPUS], "4 nodes x 4 = 16 workers, the job wants 64"),
        (["scale.cpus_per_worker=50"], 8, [GPUS], "160 CPUs a node hold no more, of 8 GPUs"),
        ([], 256, [GPUS, CPUS], "group h100 has"),
    ],
)
def test_what_a_profile_lacks_is_told(overrides, workers, groups, said):
    with pytest.raises(ValueError, match="find no room") as refused:
        nodes_for(job(*overrides, workers=workers), profile(*groups))
    assert said in str(refused.value)
    assert str(refused.value).count("  group") == len(groups)
