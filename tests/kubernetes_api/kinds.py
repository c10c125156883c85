"""The kinds that are served, and what Kubernetes says of an object of them."""

import copy
import functools
import re
from pathlib import Path
from typing import NamedTuple

import yaml

KUBERAY = Path(__file__).resolve().parents[3] / "shared" / "kuberay"
VERSION = "1.36"


class Kind(NamedTuple):
    group: str
    version: str
    plural: str
    kind: str
    singular: str
    short: tuple = ()

    @property
    def api_version(self):
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self):
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def people(self):
        return f"{self.plural}.{self.group}" if self.group else self.plural


KINDS = [
    Kind("", "v1", "configmaps", "ConfigMap", "configmap", ("cm",)),
    Kind("", "v1", "pods", "Pod", "pod", ("po",)),
    Kind("", "v1", "events", "Event", "event", ("ev",)),
    Kind("", "v1", "secrets", "Secret", "secret"),
    Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "persistentvolumeclaim"),
    Kind("", "v1", "serviceaccounts", "ServiceAccount", "serviceaccount", ("sa",)),
    Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", "poddisruptionbudget"),
    Kind("ray.io", "v1", "rayjobs", "RayJob", "rayjob"),
    Kind("ray.io", "v1", "rayclusters", "RayCluster", "raycluster"),
    Kind("kueue.x-k8s.io", "v1beta2", "localqueues", "LocalQueue", "localqueue"),
    Kind("kueue.x-k8s.io", "v1beta2", "workloads", "Workload", "workload"),
]
_WITHOUT_SCHEMA = {"LocalQueue", "Workload"}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class InvalidError(Exception):
    """What is wrong with an object, by field."""

    def __init__(self, status, causes):
        super().__init__(str(causes))
        self.status, self.causes = status, causes


def validate(kind, body):
    """Refuse what a strict server would; fills in defaults of CRDs."""
    if body.get("apiVersion") != kind.api_version or body.get("kind") != kind.kind:
        told = f"{body.get('apiVersion')} {body.get('kind')} is no {kind.api_version} {kind.kind}"
        raise InvalidError(400, [("apiVersion", told)])
    name = body.get("metadata", {}).get("name", "")
    if not _NAME.fullmatch(name) or len(name) > 253:
        raise InvalidError(
            422, [("metadata.name", f'InvalidError value: "{name}": a lowercase RFC 1123 name')]
        )
    for key, value in body["metadata"].get("labels", {}).items():
        if not re.fullmatch(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", value):
            raise InvalidError(422, [(f"metadata.labels[{key}]", f'InvalidError value: "{value}"')])
    if kind.kind in _WITHOUT_SCHEMA:
        return
    if kind.group == "ray.io":
        _by_crd(kind, body)
    else:
        _by_kubernetes(body)


def _by_kubernetes(body):
    import kubernetes_validate

    try:
        kubernetes_validate.validate(copy.deepcopy(body), VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(map(str, error.path))
        is_unknown = "Additional properties" in str(error.message)
        raise InvalidError(400 if is_unknown else 422, [(where, str(error.message))]) from None


def _by_crd(kind, body):
    if (found := _crd(kind.plural)) is None:
        return
    schema, validator, crd = found
    crd.prune_nulls_and_default(body, schema)
    errors = list(validator.iter_errors(body))
    unknown = [error for error in errors if error.validator == "additionalProperties"]
    if errors:
        causes = [(".".join(map(str, e.absolute_path)), e.message[:300]) for e in unknown or errors]
        raise InvalidError(400 if unknown else 422, causes)


@functools.cache
def _crd(plural):
    """KubeRay's schema made strict by the script beside it; None where it is not at hand."""
    file = KUBERAY / f"ray.io_{plural}.yaml"
    if not file.is_file():
        return None
    crd = _script()
    spec = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
    served = next(version for version in spec["versions"] if version["name"] == "v1")
    schema = served["schema"]["openAPIV3Schema"]
    from jsonschema import Draft202012Validator

    return schema, Draft202012Validator(crd.strict(schema)), crd


@functools.cache
def _script():
    """`crd_validate.py` without its last line, which runs it."""
    import types

    module = types.ModuleType("crd_validate")
    source = (KUBERAY / "crd_validate.py").read_text().rsplit("\nmain()", 1)[0]
    exec(compile(source, "crd_validate.py", "exec"), module.__dict__)
    return module
