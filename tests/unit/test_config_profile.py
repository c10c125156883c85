"""Profiles: files that come along, what they may say, and what is told of a wrong one."""

from __future__ import annotations

import re

import jsonschema
import pytest
import yaml

from tap_platform.config.load_profile import load_profile, profile_files, validate_profile
from tap_platform.config.machines import GPUS, quantity_bytes
from tap_platform.config.schema import profile_schema

GROUP = {"name": "gpu", "cpus": 8, "memory": "64Gi"}
KUBERNETES = {"place": "kubernetes", "image": "tap:1.0", "groups": [GROUP]}


def test_every_profile_that_comes_along_loads():
    assert {"local", "node_8xh100", "h100_32x8_rdma", "a100_spot", "cpu"} <= profile_files().keys()
    for name in profile_files():
        assert load_profile(name)[0] == name


def test_a_profile_extends_another(tmp_path):
    base = profile_files()["node_8xh100"]
    file = tmp_path / "ours.yaml"
    file.write_text(yaml.safe_dump({"extends": str(base), "image": "our/tap:2", "mfu": 0.41}))
    name, profile = load_profile(str(file))
    assert (name, profile.image, profile.mfu) == ("ours", "our/tap:2", 0.41)
    assert profile.groups == load_profile("node_8xh100")[1].groups


def test_known_gpus_bring_their_figures_and_others_must():
    gpu = (
        validate_profile({"groups": [{**GROUP, "gpu": {"type": "H100", "count": 8}}]}, "here")
        .groups[0]
        .gpu
    )
    assert (gpu.memory_gb, gpu.tflops) == GPUS["H100"]
    own = {"type": "H100", "count": 8, "tflops": 800}
    assert validate_profile({"groups": [{**GROUP, "gpu": own}]}, "here").groups[0].gpu.tflops == 800
    with pytest.raises(ValueError, match=r"gpu.type 'X9' is not known .*give memory_gb and tflops"):
        validate_profile({"groups": [{**GROUP, "gpu": {"type": "X9", "count": 1}}]}, "here")


@pytest.mark.parametrize(
    ("text", "count"),
    [("64Gi", 64 << 30), ("1.5Ti", 3 << 39), ("500M", 500_000_000), ("128", 128)],
)
def test_quantities_are_bytes(text, count):
    assert quantity_bytes(text) == count


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "tap"}, "has no tag or digest"),
        ({"image": "host:5000/tap"}, "has no tag or digest"),
        ({"image": "tap:latest"}, "`latest` changes without notice"),
        ({"groups": []}, "groups"),
        ({"groups": [GROUP, GROUP]}, "groups: gpu is there twice"),
        ({"groups": [{**GROUP, "memory": "64 GB"}]}, "'64 GB' is no quantity of memory"),
        ({"groups": [{**GROUP, "least": 3, "most": 2}]}, "least 3 is above most 2"),
        ({"namespace": "Team_A"}, "namespace"),
        ({"storrage": {}}, "did you mean 'storage'?"),
        ({"queue": {"system": "slurm", "name": "a"}}, "queue.system"),
        ({"place": ["a"]}, "place: no kind ['a']"),
        ({"place": None}, "place: no kind None"),
        (
            {"groups": [{**GROUP, "gpu": {"type": ["H100"], "count": 1}}]},
            "groups.0.gpu.type",
        ),
        ({"labels": ["a"]}, "labels"),
        ({"labels": {"a": 3}}, "labels.a"),
        ({"place": "slurm"}, "no kind 'slurm': choose one of local, ray, kubernetes"),
        ({"tracking": "http://me:secret@mlflow"}, "holds a key or password"),
    ],
)
def test_what_is_wrong_with_a_profile_is_told(change, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        validate_profile({**KUBERNETES, **change}, "ours.yaml")


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ({"spec": 5}, "pod_patch.head: spec is 5, and must be a mapping"),
        ({"metadata": ["a"]}, "metadata is ['a'], and must be a mapping"),
        ({"metadata": {"labels": ["a"]}}, "metadata.labels is ['a'], and must be a mapping"),
        ({"metadata": {"labels": {"a": 3}}}, "metadata.labels: 'a' is 3, and must be a text"),
        ({"metadata": {"annotations": {"a": True}}}, "metadata.annotations: 'a' is True"),
        ({"spec": {"nodeSelector": {"a": 3}}}, "spec.nodeSelector: 'a' is 3"),
        ({"spec": {"containers": 3}}, "spec.containers is 3, and must be a list"),
        ({"spec": {"containers": {"name": "a"}}}, "and must be a list"),
        ({"spec": {"containers": ["a"]}}, "spec.containers[0] has no name"),
        ({"spec": {"containers": [{"name": 3}]}}, "spec.containers[0].name is 3"),
        ({"spec": {"initContainers": [{"image": "x"}]}}, "spec.initContainers[0] has no name"),
        ({"spec": {"volumes": [{"emptyDir": {}}]}}, "spec.volumes[0] has no name"),
        (
            {"spec": {"containers": [{"name": "a", "env": [{"value": "b"}]}]}},
            "spec.containers.a.env[0] has no name",
        ),
        (
            {"spec": {"containers": [{"name": "a", "env": {"A": "b"}}]}},
            "spec.containers.a.env is {'A': 'b'}, and must be a list",
        ),
        (
            {"spec": {"containers": [{"name": "a", "volumeMounts": [{"name": "b"}]}]}},
            "spec.containers.a.volumeMounts[0] has no mountPath",
        ),
        (
            {"spec": {"containers": [{"name": "a", "resources": 3}]}},
            "spec.containers.a.resources is 3",
        ),
    ],
)
def test_a_pod_patch_has_the_shape_of_a_pod(patch, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        validate_profile({**KUBERNETES, "pod_patch": {"head": patch}}, "ours.yaml")


def test_null_takes_a_key_of_a_pod_away():
    patch = {
        "metadata": {"labels": {"a": None}, "annotations": None},
        "spec": {
            "containers": [{"name": "a", "env": None, "resources": {"limits": None}}],
            "volumes": None,
            "hostNetwork": True,
        },
    }
    told = validate_profile({**KUBERNETES, "pod_patch": {"workers": patch}}, "ours.yaml")
    assert told.pod_patch.workers == patch


def test_gpus_of_gddr_have_less_than_their_makers_say():
    """Bytes that torch tells of them, error correction on; of HBM it tells more than is sold."""
    there = {"L40S": 47.6, "L4": 23.6, "A10G": 23.6, "T4": 15.6, "H100": 84.9, "A100-40GB": 42.2}
    for kind, memory_gb in there.items():
        assert 0.94 * memory_gb <= GPUS[kind].memory_gb <= memory_gb


def test_a_name_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean a100_spot\?"):
        load_profile("a100_spots")
    with pytest.raises(ValueError, match="cannot be read"):
        load_profile("nowhere/ours.yaml")


def test_the_schema_takes_the_profiles_that_come_along_and_no_unknown_key():
    validator = jsonschema.Draft202012Validator(profile_schema())
    for file in profile_files().values():
        validator.validate(yaml.safe_load(file.read_text()))
    assert not validator.is_valid({**KUBERNETES, "storrage": {}})
