"""What RayJobs and pods say, in words for people."""

import pytest

from tap_platform.places.kubernetes.pod_problems import pod_problem
from tap_platform.places.kubernetes.status import Told, place_state


def job(spec=None, labels=None, metadata=None, **status):
    return {
        "metadata": {
            "name": "r-1",
            "labels": {"tap-platform/run": "r-1", "tap-platform/project": "tap", **(labels or {})},
            "creationTimestamp": "2026-11-22T04:00:00Z",
            **(metadata or {}),
        },
        "spec": spec or {},
        "status": status,
    }


KUEUE = {"kueue.x-k8s.io/queue-name": "tap"}


@pytest.mark.parametrize(
    ("rayjob", "state", "why"),
    [
        (job(), "starting", "its pods are coming"),
        (job(jobDeploymentStatus="Initializing"), "starting", "its pods are coming"),
        (job(jobDeploymentStatus="Running"), "starting", "Ray is taking it up"),
        (
            job(jobDeploymentStatus="Running", jobStatus="PENDING"),
            "starting",
            "Ray is taking it up",
        ),
        (job(jobDeploymentStatus="Running", jobStatus="RUNNING"), "running", ""),
        (
            job(jobDeploymentStatus="Running", jobStatus="SUCCEEDED"),
            "running",
            "its command has ended well; its cluster is ending",
        ),
        (
            job(jobDeploymentStatus="Running", jobStatus="FAILED"),
            "running",
            "its command failed; its cluster is ending",
        ),
        (
            job(jobDeploymentStatus="Running", jobStatus="STOPPED"),
            "running",
            "its command was stopped; its cluster is ending",
        ),
        (
            job(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", message="done"),
            "succeeded",
            "",
        ),
        (
            job(jobDeploymentStatus="Complete", jobStatus="STOPPED", message="by hand"),
            "stopped",
            "by hand",
        ),
        (
            job(jobDeploymentStatus="Complete", jobStatus="FAILED", message="exit 1"),
            "failed",
            "exit 1",
        ),
        (
            job(jobDeploymentStatus="Failed", reason="DeadlineExceeded"),
            "failed",
            "lifetime.most_seconds",
        ),
        (
            job(jobDeploymentStatus="Failed", reason="AppFailed", message="exit 1"),
            "failed",
            "tap logs tells how; exit 1",
        ),
        (job(jobDeploymentStatus="Failed", reason="NeverHeardOf"), "failed", "NeverHeardOf"),
        (
            job(jobDeploymentStatus="ValidationFailed", message="name too long"),
            "failed",
            "KubeRay refuses it: name too long",
        ),
        (
            job(jobDeploymentStatus="Retrying"),
            "starting",
            "a new one comes",
        ),
        (job(jobDeploymentStatus="Suspended", labels=KUEUE), "queued", "it waits in the queue tap"),
        (job(spec={"suspend": True}, labels=KUEUE), "queued", "it waits in the queue tap"),
        (job(jobDeploymentStatus="Suspending"), "queued", "somebody set suspend"),
        (job(jobDeploymentStatus="Transcending"), "unknown", "KubeRay says 'Transcending'"),
        (
            job(
                jobDeploymentStatus="Running",
                jobStatus="RUNNING",
                metadata={"deletionTimestamp": "x"},
            ),
            "stopping",
            "checkpoint",
        ),
    ],
)
def test_words_of_kuberay(rayjob, state, why):
    found = place_state(Told(rayjob), "cpu")
    assert found.state == state
    assert why in found.why
    assert bool(why) == bool(found.why)


def test_when_a_rayjob_was_made_is_when_it_was_submitted():
    assert place_state(Told(job()), "cpu").submitted == "2026-11-22T04:00:00Z"


def pod(phase="Pending", conditions=(), waiting=None, terminated=None, last=None, **status):
    container = {"name": "ray-worker", "image": "tap:1", "state": {}}
    if waiting:
        container["state"]["waiting"] = dict(zip(("reason", "message"), waiting, strict=True))
    if terminated:
        container["state"]["terminated"] = terminated
    if last:
        container["lastState"] = {"terminated": last}
    return {
        "metadata": {"name": "w-0", "uid": "u-0"},
        "status": {
            "phase": phase,
            "conditions": list(conditions),
            "containerStatuses": [container],
            **status,
        },
    }


def condition(kind, status, reason="", message=""):
    return {"type": kind, "status": status, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (pod(waiting=("ImagePullBackOff", "Back-off")), "the image tap:1 is not pulled"),
        (
            pod(waiting=("CreateContainerConfigError", 'secret "s3" not found')),
            "make it, or take it out",
        ),
        (pod(waiting=("CrashLoopBackOff", "back-off 5m")), "ends again and again"),
        (
            pod(conditions=[condition("PodScheduled", "False", "Unschedulable", "0/3 nodes")]),
            "no node takes it (0/3 nodes): wait for room",
        ),
        (
            pod(conditions=[condition("PodScheduled", "False", "SchedulingGated", "gate")]),
            "a queue holds it",
        ),
        (
            pod("Failed", reason="Evicted", message="disk pressure"),
            "evicted from its node (disk pressure)",
        ),
        (
            pod("Running", [condition("DisruptionTarget", "True", "Preempted", "by another")]),
            "taken from its node (by another)",
        ),
        (
            pod("Failed", terminated={"reason": "OOMKilled", "exitCode": 137}),
            "more memory than its limit",
        ),
        (
            pod("Running", last={"reason": "OOMKilled", "exitCode": 137}),
            "more memory than its limit",
        ),
        (
            pod("Failed", terminated={"reason": "Error", "exitCode": 2}),
            "ended with exit code 2 Error",
        ),
    ],
)
def test_words_of_pods(found, told):
    assert told in pod_problem(found)
    starting = place_state(Told(job(jobDeploymentStatus="Initializing"), [found]), "cpu")
    assert told in starting.why


def test_pods_that_are_well():
    assert pod_problem(pod(waiting=("ContainerCreating", ""))) is None
    assert pod_problem(pod("Running", [condition("PodScheduled", "True")])) is None
    assert pod_problem(pod("Succeeded", terminated={"exitCode": 0, "reason": "Completed"})) is None


def test_a_volume_that_does_not_come_is_told_by_events():
    event = {
        "involvedObject": {"uid": "u-0"},
        "reason": "FailedMount",
        "message": 'secret "s3" not found',
    }
    other = {**event, "involvedObject": {"uid": "u-1"}}
    assert pod_problem(pod(), [other]) is None
    assert "FailedMount: secret" in pod_problem(pod(), [other, event])


def test_pods_that_are_leaving_do_not_count():
    leaving = pod(waiting=("ImagePullBackOff", "x"))
    leaving["metadata"]["deletionTimestamp"] = "2026-11-22T04:00:00Z"
    found = place_state(
        Told(job(jobDeploymentStatus="Running", jobStatus="RUNNING"), [leaving]), "cpu"
    )
    assert (found.state, found.why) == ("running", "")
