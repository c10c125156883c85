"""What is rendered passes strict schemas, on every profile, for every kind of run."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from kubernetes_schemas import (
    CODE,
    REPOSITORY,
    job_of,
    needs_crds,
    of_kind,
    pod_templates,
    profile_with,
    schema_faults,
    submission_of,
)

from tap_platform.config.load_profile import load_profile, profile_files
from tap_platform.config.profile import KubernetesProfile
from tap_platform.places.kubernetes.objects import render, to_yaml

GPUS = {"name": "gpu", "gpu": {"type": "A100", "count": 4}, "cpus": 64, "memory": "512Gi"}
EVERYTHING = {
    "groups": [
        {
            **GPUS,
            "most": 4,
            "spot": True,
            "node_selector": {"pool": "spot"},
            "tolerations": [{"key": "spot", "operator": "Equal", "value": "yes"}, {}],
            "topology_spread": [{"topology_key": "topology.kubernetes.io/zone"}],
            "resources": {"rdma/hca": "4"},
            "environment": {"NCCL_DEBUG": "INFO"},
        },
        {**GPUS, "name": "paid", "most": 4},
    ],
    "head": {"topology_spread": [{"topology_key": "zone", "max_skew": 2}], "price_per_hour": 0.4},
    "autoscale": True,
    "image_pull_secrets": ["registry"],
    "priority": "tap-low",
    "queue": {"system": "volcano", "name": "vision"},
    "secrets": [
        {"name": "s3", "environment": {"AWS_ACCESS_KEY_ID": "id"}},
        {"name": "tracker"},
        {"name": "google", "mount": "/etc/google"},
    ],
    "redis": {"address": "redis://tap-redis:6379", "password_secret": "tap-redis"},
    "lifetime": {"most_seconds": 3600, "start_seconds": 600, "retries": 0, "keep_seconds": 0},
    "labels": {"team": "vision"},
    "storage": {"claim": "runs", "mirror": "s3://bucket/runs"},
}
PROFILES = {
    "everything": profile_with(**EVERYTHING),
    "plain": profile_with(),
    "gpus": profile_with(groups=[GPUS], queue={"system": "kueue", "name": "tap"}),
    **{
        name: profile
        for name, profile in (load_profile(file) for file in profile_files())
        if isinstance(profile, KubernetesProfile)
    },
}
JOBS = sorted(
    file.stem
    for file in (REPOSITORY / "jobs").glob("*.yaml")
    if "stages" not in yaml.safe_load(file.read_text())
)
KINDS = {
    "train": submission_of(job_of()),
    "sweep": submission_of(job_of(), kind="sweep", code=CODE),
    "evaluate": submission_of(None, kind="evaluate", run="evaluate-20261121-153000-a1b2"),
    "data": submission_of(None, code=CODE),
}


def faults_of(objects):
    return [f"{each['kind']}: {fault}" for each in objects for fault in schema_faults(each)]


@needs_crds
@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_rendered_passes_strict_schemas(name, kind):
    objects = render(KINDS[kind], PROFILES[name], name)
    assert [each["kind"] for each in objects] == ["ConfigMap", "PodDisruptionBudget", "RayJob"]
    assert faults_of(objects) == []


@needs_crds
@pytest.mark.parametrize("name", PROFILES)
def test_every_job_is_rendered_where_there_is_room(name):
    rendered = 0
    for job in JOBS:
        try:
            objects = render(submission_of(job_of(job)), PROFILES[name], name)
        except ValueError as error:
            assert "find no room" in str(error)  # noqa: PT017
            continue
        rendered += 1
        assert faults_of(objects) == [], job
    assert rendered


@pytest.mark.parametrize("kind", KINDS)
def test_the_yaml_reads_back_as_what_was_rendered(kind):
    objects = render(KINDS[kind], PROFILES["everything"], "everything")
    text = to_yaml(objects)
    assert list(yaml.safe_load_all(text)) == json.loads(json.dumps(objects))
    assert "&id" not in text
    assert "\\n" not in text


def test_printed_manifests_say_what_applying_them_by_hand_leaves_out():
    text = to_yaml(render(KINDS["train"], PROFILES["plain"]))
    comments, _, rest = text.partition("---\n")
    assert all(line.startswith("# ") for line in comments.splitlines())
    for words in ("owner", "kubectl delete", "kubectl create", "--server-side"):
        assert words in comments
    assert "\n# " not in rest


def test_the_yaml_is_the_same_every_time():
    texts = {to_yaml(render(KINDS["train"], PROFILES["everything"])) for _ in range(3)}
    assert len(texts) == 1


def broken_field(job):
    job["spec"]["entryPoint"] = "tap"


def broken_type(job):
    job["spec"]["ttlSecondsAfterFinished"] = "600"


def broken_mode(job):
    job["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "tokens"


def broken_group(job):
    del job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["groupName"]


def broken_pod(job):
    pod_templates(job)["head"]["spec"]["tolerations"] = [{"Key": "spot"}]


def broken_mount(job):
    pod_templates(job)["submitter"]["spec"]["containers"][0]["volumeMounts"] = [{"name": "tmp"}]


@needs_crds
@pytest.mark.parametrize(
    "break_it",
    [broken_field, broken_type, broken_mode, broken_group, broken_pod, broken_mount],
)
def test_a_broken_rayjob_fails(break_it):
    job = copy.deepcopy(of_kind(render(KINDS["train"], PROFILES["plain"]), "RayJob"))
    assert schema_faults(job) == []
    break_it(job)
    assert schema_faults(job)


@pytest.mark.parametrize(
    ("kind", "break_it"),
    [
        ("ConfigMap", lambda each: each.update(files={})),
        ("PodDisruptionBudget", lambda each: each["spec"].update(minimum=1)),
    ],
)
def test_a_broken_object_of_kubernetes_fails(kind, break_it):
    each = of_kind(render(KINDS["train"], PROFILES["plain"]), kind)
    assert schema_faults(each) == []
    break_it(each)
    assert schema_faults(each)
