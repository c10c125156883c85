"""Submissions to render, and the strict schemas that what is rendered must pass."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tap_platform.config.job import JobConfig
from tap_platform.config.load import load_job
from tap_platform.config.profile import KubernetesProfile
from tap_platform.places.place import CodePackage, Submission

REPOSITORY = Path(__file__).resolve().parents[2]
KUBERAY = REPOSITORY.parent / "shared" / "kuberay"
KUBERNETES_VERSION = "1.36.0"
CODE = CodePackage(zip=b"PK\x05\x06" + bytes(18), files=0, revision=None, changed=())
BASE: dict[str, Any] = {
    "place": "kubernetes",
    "image": "registry.example.com/tap-platform:0.1.0",
    "storage": {"claim": "tap-runs"},
    "groups": [{"name": "cpu", "cpus": 4, "memory": "16Gi", "most": 8}],
}
needs_crds = pytest.mark.skipif(not KUBERAY.is_dir(), reason="KubeRay's schemas are not here")


def profile_with(**changes: Any) -> KubernetesProfile:
    """A small profile with some keys changed."""
    return KubernetesProfile.model_validate({**BASE, **changes})


@cache
def job_of(name: str = "tap_tiny_scenes", *overrides: str) -> JobConfig:
    """One of the jobs that come along."""
    return load_job(REPOSITORY / "jobs" / f"{name}.yaml", overrides)


def submission_of(job: JobConfig | None, **changes: Any) -> Submission:
    """A run of a job, or of none, as `tap submit` makes it."""
    run = f"{job.name if job else 'prepare'}-20261121-153000-a1b2"
    told: dict[str, Any] = {
        "run": run,
        "project": "tap",
        "kind": "train" if job else "data",
        "command": ("tap", "train", "/etc/tap/job.json", "--run", run),
        "files": {"job.json": job.model_dump_json(indent=1) + "\n"} if job else {},
        "job": job,
        "code": None,
        "by": "somebody@laptop",
    }
    return Submission(**{**told, **changes})


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The one object of a kind."""
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def pod_templates(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pods of a RayJob: `head`, `submitter` and the groups of workers by their names."""
    cluster = job["spec"]["rayClusterSpec"]
    return {
        "head": cluster["headGroupSpec"]["template"],
        "submitter": job["spec"]["submitterPodTemplate"],
        **{each.get("groupName"): each["template"] for each in cluster["workerGroupSpecs"]},
    }


def environment(template: dict[str, Any]) -> dict[str, Any]:
    """The variables of a pod's first container; those from secrets are mappings."""
    container = template["spec"]["containers"][0]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def schema_faults(manifest: dict[str, Any]) -> list[str]:
    """What strict schemas find wrong: KubeRay's for its kinds, Kubernetes' for the rest."""
    if manifest["apiVersion"].startswith("ray.io/"):
        pods = [_as_pod(template) for template in pod_templates(manifest).values()]
        return [*_crd_faults(manifest), *(fault for pod in pods for fault in _core_faults(pod))]
    return _core_faults(manifest)


def _as_pod(template: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "pod", **template.get("metadata", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _core_faults(manifest: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


def _crd_faults(manifest: dict[str, Any]) -> list[str]:
    """As an API server: nulls are dropped and defaults filled in before it looks."""
    validator = _crd_validator()
    schema, checks = validator["kinds"][manifest["apiVersion"], manifest["kind"]]
    seen = copy.deepcopy(manifest)
    validator["prune_nulls_and_default"](seen, schema)
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in checks.iter_errors(seen)]


@cache
def _crd_validator() -> dict[str, Any]:
    """The functions of the validator that lies beside the schemas; as a program it would exit."""
    file = KUBERAY / "crd_validate.py"
    functions: dict[str, Any] = {}
    exec(compile(file.read_text().rpartition("main()")[0], file, "exec"), functions)
    return {**functions, "kinds": functions["load_crds"](str(KUBERAY))}
