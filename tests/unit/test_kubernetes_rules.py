"""Rules of KubeRay and Kubernetes: each with a manifest that breaks it."""

from __future__ import annotations

import copy

import pytest
import yaml
from kubernetes_schemas import job_of, profile_with, submission_of

from tap_platform.places.kubernetes.objects import render
from tap_platform.places.kubernetes.patches import patched
from tap_platform.places.kubernetes.rules import check

OBJECTS = render(submission_of(job_of()), profile_with(lifetime={"keep_seconds": 600}))
RULES = {
    "a long name": ("metadata: {name: a%s}" % ("b" * 47), "47 characters at most"),
    "a name with a dot": ("metadata: {name: a.b}", "a letter first: 'a.b' is none"),
    "a name that begins with a digit": ("metadata: {name: 4a}", "a letter first"),
    "no name": ("metadata: {name: A_b}", "the name 'A_b' is none"),
    "a label": ("metadata: {labels: {team: computer vision}}", "team cannot be 'computer vision'"),
    "a label's key": ("metadata: {labels: {a b: c}}", "label 'a b' is none"),
    "an annotation": ("metadata: {annotations: {a/b/c: d}}", "annotation 'a/b/c' is none"),
    "a pod's label": (
        "spec: {submitterPodTemplate: {metadata: {labels: {team: ä}}}}",
        "team cannot be 'ä'",
    ),
    "a time to live of what stays": (
        "spec: {shutdownAfterJobFinishes: false}",
        "ttlSecondsAfterFinished 600 needs shutdownAfterJobFinishes: true",
    ),
    "a negative time to live": ("spec: {ttlSecondsAfterFinished: -1}", "-1 is below 0"),
    "a suspended one that stays": (
        "spec: {suspend: true, shutdownAfterJobFinishes: null, ttlSecondsAfterFinished: 0}",
        "suspend needs shutdownAfterJobFinishes",
    ),
    "a suspended one elsewhere": (
        "spec: {suspend: true, backoffLimit: 0, clusterSelector: {ray.io/cluster: c}}",
        "suspend does not go with a clusterSelector",
    ),
    "two ways of deletion": (
        "spec: {ttlSecondsAfterFinished: 0,"
        " deletionStrategy: {deletionRules: [{policy: DeleteSelf}]}}",
        "deletionRules does not go with shutdownAfterJobFinishes",
    ),
    "two times to live": (
        "spec: {shutdownAfterJobFinishes: false,"
        " deletionStrategy: {deletionRules: [{policy: DeleteSelf}]}}",
        "deletionRules does not go with ttlSecondsAfterFinished",
    ),
    "retries elsewhere": (
        "spec: {clusterSelector: {ray.io/cluster: c}}",
        "backoffLimit does not go with a clusterSelector",
    ),
    "retries by hand": ("spec: {submissionMode: InteractiveMode}", "not go with InteractiveMode"),
    "negative retries": ("spec: {backoffLimit: -1}", "backoffLimit -1 is below 0"),
    "an unknown mode": ("spec: {submissionMode: K8SJobMode}", "'K8SJobMode' is not known"),
    "a sidecar with a pod": ("spec: {submissionMode: SidecarMode}", "with submitterPodTemplate"),
    "a sidecar with settings": ("spec: {submissionMode: SidecarMode}", "with submitterConfig"),
    "a sidecar elsewhere": (
        "spec: {submissionMode: SidecarMode, clusterSelector: {ray.io/cluster: c}}",
        "SidecarMode does not go with clusterSelector",
    ),
    "a sidecar that starts again": (
        "spec: {submissionMode: SidecarMode, rayClusterSpec:"
        " {headGroupSpec: {template: {spec: {restartPolicy: Always}}}}}",
        "SidecarMode needs restartPolicy Never",
    ),
    "a submitter that starts again": (
        "spec: {submitterPodTemplate: {spec: {restartPolicy: Always}}}",
        "the submitter's pod has restartPolicy Always, and Kubernetes' Job",
    ),
    "two mounts on one path": (
        "spec: {rayClusterSpec: {headGroupSpec: {template: {spec: {containers: [{name: c,"
        " volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /a/}]}]}}}}}",
        "the head, c: /a is mounted more than once (volumes a, b)",
    ),
    "two mounts before the start": (
        "spec: {submitterPodTemplate: {spec: {initContainers: [{name: c,"
        " volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /a}]}]}}}",
        "the submitter, c: /a is mounted more than once",
    ),
    "a deadline": ("spec: {activeDeadlineSeconds: 0}", "activeDeadlineSeconds 0 is not above 0"),
    "no cluster": ("spec: {rayClusterSpec: null, backoffLimit: 0}", "neither a rayClusterSpec nor"),
    "an old Ray": ("spec: {rayClusterSpec: {rayVersion: 2.9.3}}", "rayVersion is '2.9.3'"),
    "no version of Ray": ("spec: {rayClusterSpec: {rayVersion: null}}", "rayVersion is ''"),
    "a token of Kubernetes": (
        "spec: {rayClusterSpec: {authOptions: {enableK8sTokenAuth: true}}}",
        "enableK8sTokenAuth is refused for RayJobs",
    ),
    "an autoscaler's pod": (
        "spec: {rayClusterSpec: {enableInTreeAutoscaling: true, autoscalerOptions: {version: v2},"
        " headGroupSpec: {template: {spec: {restartPolicy: OnFailure}}}}}",
        "the head: autoscaler v2 needs restartPolicy Never, or none, and it is OnFailure",
    ),
    "resources told twice": (
        "spec: {rayClusterSpec: {headGroupSpec: {resources: {CPU: '1'}}}}",
        "the head: resources stand in rayStartParams (num-cpus, num-gpus) too",
    ),
    "labels as parameters": (
        "spec: {rayClusterSpec: {headGroupSpec: {rayStartParams: {labels: a=b}}}}",
        "rayStartParams takes no labels",
    ),
    "no container": (
        "spec: {rayClusterSpec: {headGroupSpec: {template: {spec: {containers: null}}}}}",
        "the head: its pod has no container",
    ),
    "a variable of KubeRay": (
        "spec: {rayClusterSpec: {headGroupSpec: {template: {spec:"
        " {containers: [{name: ray-head, env: [{name: REDIS_PASSWORD, value: x}]}]}}}}}",
        "REDIS_PASSWORD is KubeRay's to set",
    ),
    "a parameter of KubeRay": (
        "spec: {rayClusterSpec: {headGroupSpec: {rayStartParams: {redis-password: x}}}}",
        "redis-password is KubeRay's",
    ),
}
GROUP_RULES = {
    "a priority without autoscaler": ({"priority": 1}, "group cpu: priority is read by autoscaler"),
    "an idle time without autoscaler": ({"idleTimeoutSeconds": 5}, "idleTimeoutSeconds is read by"),
    "too many replicas": ({"replicas": 9}, "group cpu: replicas 9 are not in 1 to 1"),
}


def rayjob():
    return copy.deepcopy(OBJECTS[-1])


def test_what_is_rendered_breaks_no_rule():
    assert check(OBJECTS) == []


@pytest.mark.parametrize("broken", RULES)
def test_a_rule_finds_what_breaks_it(broken):
    patch, told = RULES[broken]
    job = patched(rayjob(), yaml.safe_load(patch))
    faults = check([job])
    assert any(told in fault for fault in faults), faults
    assert all(fault.startswith(f"RayJob {job['metadata']['name']}: ") for fault in faults)


@pytest.mark.parametrize("broken", GROUP_RULES)
def test_a_rule_of_groups_finds_what_breaks_it(broken):
    changes, told = GROUP_RULES[broken]
    job = rayjob()
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0] |= changes
    (fault,) = check([job])
    assert told in fault


def test_a_group_of_the_autoscaler_does_not_start_its_pods_again():
    job = rayjob()
    cluster = job["spec"]["rayClusterSpec"]
    cluster |= {"enableInTreeAutoscaling": True, "autoscalerOptions": {"version": "v2"}}
    cluster["workerGroupSpecs"][0]["template"]["spec"]["restartPolicy"] = "Always"
    (fault,) = check([job])
    assert "group cpu: autoscaler v2 needs restartPolicy Never" in fault


def test_a_secret_is_not_mounted_over_the_storage():
    profile = profile_with(secrets=[{"name": "s", "mount": "/mnt/tap"}])
    with pytest.raises(ValueError, match="/mnt/tap is mounted more than once") as caught:
        render(submission_of(job_of()), profile)
    told = str(caught.value)
    assert "the head, ray-head: /mnt/tap" in told
    assert "group cpu, ray-worker: /mnt/tap" in told
    assert "(volumes storage, secret-0): give a secret another mount" in told


@pytest.mark.parametrize("policy", ["Never", "OnFailure"])
def test_a_submitter_may_be_tried_again_in_its_pod(policy):
    job = rayjob()
    job["spec"]["submitterPodTemplate"]["spec"]["restartPolicy"] = policy
    assert check([job]) == []


@pytest.mark.parametrize("version", ["2.52.0", "2.60.0", "3.0.0", "2.100.1"])
def test_newer_versions_of_ray_have_tokens(version):
    job = rayjob()
    job["spec"]["rayClusterSpec"]["rayVersion"] = version
    assert check([job]) == []


def test_a_sidecar_may_be_written_by_hand():
    job = rayjob()
    for key in ("submitterPodTemplate", "submitterConfig"):
        del job["spec"][key]
    job["spec"]["submissionMode"] = "SidecarMode"
    assert check([job]) == []


def test_rendering_tells_all_faults_at_once():
    patch = {
        "head": {"metadata": {"labels": {"team": "computer vision"}}},
        "workers": {"spec": {"containers": None}},
    }
    profile = profile_with(ray_version="2.40.0", pod_patch=patch, labels={"a b": "c"})
    with pytest.raises(ValueError, match=r"needs Ray 2\.52") as caught:
        render(submission_of(job_of()), profile)
    lines = str(caught.value).splitlines()
    assert len(lines) > 3
    assert sum("computer vision" in line for line in lines) == 1
