"""Queues: labels that each scheduler reads, and pairs that are refused."""

from __future__ import annotations

import pytest
from kubernetes_schemas import job_of, of_kind, profile_with, submission_of

from tap_platform.places.kubernetes.objects import render
from tap_platform.places.kubernetes.rules import check

RUN = "tap-tiny-scenes-20261121-153000-a1b2"
LABELS = {
    "kueue": {"kueue.x-k8s.io/queue-name": "vision"},
    "volcano": {"volcano.sh/queue-name": "vision", "ray.io/priority-class-name": "tap-high"},
    "yunikorn": {
        "ray.io/gang-scheduling-enabled": "true",
        "yunikorn.apache.org/app-id": RUN,
        "yunikorn.apache.org/queue": "vision",
    },
    "kai": {"kai.scheduler/queue": "vision"},
}
CPU = {"cpus": 4, "memory": "16Gi"}


def rayjob(system, **changes):
    queue = {"system": system, "name": "vision"}
    profile = profile_with(queue=queue, priority="tap-high", **changes)
    return of_kind(render(submission_of(job_of()), profile), "RayJob")


@pytest.mark.parametrize("system", LABELS)
def test_a_run_has_the_labels_of_its_queue(system):
    labels = rayjob(system)["metadata"]["labels"]
    of_others = {key for other in LABELS.values() for key in other} - LABELS[system].keys()
    assert labels.items() >= LABELS[system].items()
    assert not of_others & labels.keys()


@pytest.mark.parametrize("system", LABELS)
def test_only_kueue_has_runs_made_without_pods(system):
    assert rayjob(system)["spec"].get("suspend", False) is (system == "kueue")


def test_without_a_queue_there_is_no_label_of_one():
    job = of_kind(render(submission_of(job_of()), profile_with()), "RayJob")
    known = {key for labels in LABELS.values() for key in labels}
    assert not known & job["metadata"]["labels"].keys()


def test_kueue_does_not_go_with_the_autoscaler():
    with pytest.raises(ValueError, match="Kueue does not go with Ray's autoscaler: it admits"):
        rayjob("kueue", autoscale=True)
    assert rayjob("volcano", autoscale=True)


def test_kueue_keeps_two_names_of_groups():
    for name in ("head", "submitter"):
        with pytest.raises(ValueError, match=f"group '{name}': Kueue keeps this name"):
            rayjob("kueue", groups=[{**CPU, "name": name}])
    assert rayjob("kai", groups=[{**CPU, "name": "head"}])


def test_kueue_takes_six_groups():
    job = rayjob("kueue")
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    groups *= 6
    assert check([job]) == []
    groups.append(groups[0])
    (fault,) = check([job])
    assert "Kueue takes 6 groups of workers beside head and submitter, the RayJob has 7" in fault


def test_kueue_has_its_room_given_back():
    job = rayjob("kueue")
    job["spec"] |= {"shutdownAfterJobFinishes": False, "ttlSecondsAfterFinished": 0}
    assert any("Kueue needs shutdownAfterJobFinishes" in fault for fault in check([job]))


def test_kueue_makes_a_cluster_for_every_run():
    job = rayjob("kueue")
    job["spec"] |= {"clusterSelector": {"ray.io/cluster": "c"}, "backoffLimit": 0}
    assert any("Kueue takes no RayJob with a clusterSelector" in fault for fault in check([job]))
