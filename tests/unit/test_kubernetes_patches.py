"""A site's fragment laid over pod templates."""

from __future__ import annotations

import copy

import pytest
import yaml
from kubernetes_schemas import (
    environment,
    job_of,
    needs_crds,
    of_kind,
    pod_templates,
    profile_with,
    schema_faults,
    submission_of,
)

from tap_platform.places.kubernetes.objects import render
from tap_platform.places.kubernetes.patches import patched

BASE = {
    "metadata": {"labels": {"a": "1"}},
    "spec": {
        "containers": [
            {
                "name": "ray-head",
                "image": "ours:1",
                "args": ["x"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                "securityContext": {"readOnlyRootFilesystem": True, "privileged": False},
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        "tolerations": [{"key": "a"}],
        "imagePullSecrets": [{"name": "ours"}],
    },
}


def laid_over(text):
    before = copy.deepcopy(BASE)
    merged = patched(BASE, yaml.safe_load(text))
    assert before == BASE
    return merged


def test_mappings_are_merged_and_null_takes_a_key_away():
    merged = laid_over("metadata: {labels: {b: '2'}}\nspec: {tolerations: null, hostNetwork: true}")
    assert merged["metadata"]["labels"] == {"a": "1", "b": "2"}
    assert "tolerations" not in merged["spec"]
    assert merged["spec"]["hostNetwork"] is True


def test_a_container_is_merged_by_its_name_and_a_new_one_comes_last():
    merged = laid_over("""
spec:
  containers:
    - {name: sidecar, image: log:1}
    - name: ray-head
      image: theirs:2
      args: [y]
      securityContext: {readOnlyRootFilesystem: false, runAsUser: null}
""")
    head, sidecar = merged["spec"]["containers"]
    assert (head["name"], head["image"], head["args"]) == ("ray-head", "theirs:2", ["y"])
    assert head["securityContext"] == {"readOnlyRootFilesystem": False, "privileged": False}
    assert sidecar == {"name": "sidecar", "image": "log:1"}


def test_variables_are_replaced_by_name_never_with_two_values():
    merged = laid_over("""
spec:
  containers:
    - name: ray-head
      env:
        - {name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}
        - {name: C, value: '3'}
""")
    a, b, c = merged["spec"]["containers"][0]["env"]
    assert a == {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    assert (b["value"], c["value"]) == ("2", "3")


def test_a_volume_has_one_source():
    merged = laid_over("spec: {volumes: [{name: tmp, hostPath: {path: /scratch}}, {name: x}]}")
    assert merged["spec"]["volumes"] == [
        {"name": "tmp", "hostPath": {"path": "/scratch"}},
        {"name": "x"},
    ]


def test_mounts_are_merged_by_their_path():
    merged = laid_over("""
spec:
  containers:
    - name: ray-head
      volumeMounts: [{name: disk, mountPath: /tmp}, {name: tmp, mountPath: /other}]
""")
    assert merged["spec"]["containers"][0]["volumeMounts"] == [
        {"name": "disk", "mountPath": "/tmp"},
        {"name": "tmp", "mountPath": "/other"},
    ]


def test_lists_without_names_are_replaced():
    merged = laid_over("spec: {tolerations: [{key: b}], imagePullSecrets: [{name: theirs}]}")
    assert merged["spec"]["tolerations"] == [{"key": "b"}]
    assert merged["spec"]["imagePullSecrets"] == [{"name": "ours"}, {"name": "theirs"}]


def test_what_was_not_there_is_added():
    merged = laid_over("spec: {initContainers: [{name: fetch, image: f:1}], affinity: {a: {}}}")
    assert merged["spec"]["initContainers"] == [{"name": "fetch", "image": "f:1"}]
    assert merged["spec"]["affinity"] == {"a": {}}


HOST_CODE = """
spec:
  volumes:
    - {name: host-venv, hostPath: {path: /opt/venv, type: Directory}}
    - {name: host-code, hostPath: {path: /srv/tap, type: Directory}}
    - {name: storage, hostPath: {path: /srv/runs, type: DirectoryOrCreate}}
  containers:
    - name: CONTAINER
      image: python:3.11-slim
      securityContext: {runAsUser: 0, runAsNonRoot: false}
      env:
        - {name: PATH, value: /opt/venv/bin:/usr/local/bin:/usr/bin:/bin}
        - {name: PYTHONPATH, value: /srv/tap}
      volumeMounts:
        - {name: host-venv, mountPath: /opt/venv, readOnly: true}
        - {name: host-code, mountPath: /srv/tap, readOnly: true}
        - {name: storage, mountPath: /mnt/tap}
"""
PATCHED = {"head": "ray-head", "workers": "ray-worker", "submitter": "ray-job-submitter"}


@needs_crds
def test_a_site_runs_code_and_environment_of_its_nodes():
    patch = {
        kind: yaml.safe_load(HOST_CODE.replace("CONTAINER", name)) for kind, name in PATCHED.items()
    }
    objects = render(submission_of(job_of()), profile_with(storage={}, pod_patch=patch))
    job = of_kind(objects, "RayJob")
    assert schema_faults(job) == []
    for template in pod_templates(job).values():
        pod = template["spec"]
        (container,) = pod["containers"]
        assert container["image"] == "python:3.11-slim"
        assert container["securityContext"]["runAsUser"] == 0
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert environment(template)["PYTHONPATH"] == "/srv/tap"
        assert environment(template)["HOME"] == "/home/tap"
        assert {"/tmp", "/opt/venv", "/srv/tap", "/mnt/tap"} <= {
            each["mountPath"] for each in container["volumeMounts"]
        }
        names = [each["name"] for each in pod["volumes"]]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", PATCHED)
def test_each_kind_of_pod_has_its_own_patch(kind):
    patch = {kind: {"metadata": {"annotations": {"site": "here"}}}}
    job = of_kind(render(submission_of(job_of()), profile_with(pod_patch=patch)), "RayJob")
    told = {
        name: "annotations" in template["metadata"] for name, template in pod_templates(job).items()
    }
    name = {"workers": "cpu"}.get(kind, kind)
    assert told == {"head": False, "submitter": False, "cpu": False, name: True}
