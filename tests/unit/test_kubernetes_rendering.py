"""Each thing that a profile and a submission say, where it belongs in the manifests."""

from __future__ import annotations

import base64
import shlex
import subprocess

import pytest
from kubernetes_schemas import (
    CODE,
    environment,
    job_of,
    of_kind,
    pod_templates,
    profile_with,
    submission_of,
)

from tap_platform.places.kubernetes.objects import render
from tap_platform.places.kubernetes.rayjob import entry_point

A100S = {"name": "a100", "gpu": {"type": "A100", "count": 4}, "cpus": 64, "memory": "512Gi"}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def rayjob(job=None, submission=None, **profile):
    submission = submission or submission_of(job or job_of())
    return of_kind(render(submission, profile_with(**profile), "here"), "RayJob")


def cluster(job=None, **profile):
    return rayjob(job, **profile)["spec"]["rayClusterSpec"]


def worker_pod(**profile):
    return pod_templates(rayjob(**profile))["cpu"]["spec"]


def mounted(pod, container=0):
    """Path of a container to the volume that lies there."""
    volumes = {each["name"]: each for each in pod["volumes"]}
    return {
        each["mountPath"]: volumes[each["name"]]
        for each in pod["containers"][container]["volumeMounts"]
    }


def test_objects_are_found_by_their_labels_and_told_by_their_annotations():
    job = job_of()
    submission = submission_of(job)
    profile = profile_with(
        labels={
            "team": "vision",
            "app.kubernetes.io/name": "ours",
            "app.kubernetes.io/managed-by": "us",
        },
        storage={"claim": "runs", "mirror": "s3://bucket/runs/"},
    )
    labels = {
        "team": "vision",
        "app.kubernetes.io/name": "tap-platform",
        "app.kubernetes.io/managed-by": "tap",
        "tap-platform/run": submission.run,
        "tap-platform/project": "tap",
        "tap-platform/kind": "train",
    }
    objects = render(submission, profile, "ours")
    templates = pod_templates(of_kind(objects, "RayJob")).values()
    for each in objects:
        assert each["metadata"]["labels"] == labels
    # KubeRay's services select by its own `app.kubernetes.io/name`, which ours would replace.
    del labels["app.kubernetes.io/name"]
    for each in templates:
        assert each["metadata"]["labels"] == labels
    assert {each["metadata"]["namespace"] for each in objects} == {"tap"}
    assert of_kind(objects, "RayJob")["metadata"]["annotations"] == {
        "tap-platform/run-directory": f"/mnt/tap/runs/tap/{submission.run}",
        "tap-platform/mirror": f"s3://bucket/runs/tap/{submission.run}",
        "tap-platform/identity": job.identity,
        "tap-platform/submitted-by": "somebody@laptop",
        "tap-platform/profile": "ours",
    }


def test_a_run_lives_and_ends_as_the_profile_says():
    spec = rayjob(
        lifetime={"keep_seconds": 60, "retries": 4, "most_seconds": 7200, "start_seconds": 900}
    )["spec"]
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] == 60
    assert spec["backoffLimit"] == 4
    assert spec["activeDeadlineSeconds"] == 7200
    assert spec["preRunningDeadlineSeconds"] == 900
    assert spec["submitterConfig"]["backoffLimit"] > 2
    assert "suspend" not in spec


def test_what_has_no_checkpoint_is_tried_once():
    for kind in ("data", "evaluate"):
        submission = submission_of(None, kind=kind)
        job = rayjob(submission=submission, lifetime={"retries": 4})
        assert job["spec"]["backoffLimit"] == 0


def test_deadlines_that_a_profile_does_not_set_are_not_there():
    assert not {"activeDeadlineSeconds", "preRunningDeadlineSeconds"} & rayjob()["spec"].keys()


def test_a_cluster_takes_commands_with_its_token_only():
    assert cluster()["authOptions"] == {"mode": "token"}
    assert cluster(ray_version="2.61.0")["rayVersion"] == "2.61.0"


@pytest.mark.parametrize(
    "words",
    [
        ("tap", "train", "/etc/tap/job.json", "--run", "a-1"),
        ("printf", "%s|", "two words", "it's", '"', "$HOME", "$(HOME)", "`id`", "a;b", "*", "$$"),
    ],
)
def test_a_command_comes_through_all_shells_as_it_was(words):
    in_the_pod = entry_point(words).replace("$$", "$")  # as Kubernetes reads `$$`
    seen = ["bash", "-c", f"printf '%s\\0' {in_the_pod}"]
    by_submitter = subprocess.run(seen, capture_output=True, text=True, check=True).stdout
    handed_on = by_submitter.split("\0")[:-1]
    assert handed_on == list(words)
    # Ray's command line joins what it was given and its job agent has a shell run it.
    seen = ["sh", "-c", f"printf '%s\\0' {shlex.join(handed_on)}"]
    by_ray = subprocess.run(seen, capture_output=True, text=True, check=True).stdout
    assert by_ray.split("\0")[:-1] == list(words)


def test_code_comes_along_when_it_is_packed():
    submission = submission_of(job_of(), code=CODE)
    files = of_kind(render(submission, profile_with()), "ConfigMap")
    assert base64.b64decode(files["binaryData"]["code.zip"]) == CODE.zip
    job = rayjob(submission=submission)
    assert job["spec"]["runtimeEnvYAML"] == "working_dir: /etc/tap/code.zip\n"
    assert "/etc/tap" in mounted(pod_templates(job)["submitter"]["spec"])


def test_without_code_the_image_has_it():
    job = rayjob()
    assert "runtimeEnvYAML" not in job["spec"]
    assert "/etc/tap" not in mounted(pod_templates(job)["submitter"]["spec"])
    assert "binaryData" not in of_kind(render(submission_of(job_of()), profile_with()), "ConfigMap")


def test_files_are_read_where_the_command_looks_for_them():
    submission = submission_of(job_of())
    files = of_kind(render(submission, profile_with()), "ConfigMap")
    assert files["data"] == dict(submission.files)
    assert files["immutable"] is True
    for name in ("head", "cpu"):
        pod = pod_templates(rayjob())[name]["spec"]
        assert mounted(pod)["/etc/tap"]["configMap"] == {"name": files["metadata"]["name"]}
        (mount,) = [
            each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == "/etc/tap"
        ]
        assert mount["readOnly"] is True


def test_too_many_files_are_refused_with_what_helps():
    files = {"job.json": "x" * 2**19, "scenes.json": "é" * (2**18 + 1)}
    submission = submission_of(job_of(), files=files)
    with pytest.raises(ValueError, match=r"scenes.json 524,290.*1,048,576: put the code into the"):
        render(submission, profile_with())
    packed = CODE.__class__(zip=bytes(2**20 + 1), files=1, revision=None, changed=())
    with pytest.raises(ValueError, match=r"code.zip 1,048,577"):
        render(submission_of(job_of(), files={}, code=packed), profile_with())
    whole = CODE.__class__(zip=bytes(2**20), files=1, revision=None, changed=())
    assert render(submission_of(job_of(), files={}, code=whole), profile_with())


def test_whoever_drains_nodes_leaves_a_run_what_it_needs():
    elastic = job_of("tap_tiny_scenes", "scale.workers=[1,4]", "data.partitions=4")
    group = {"name": "cpu", "cpus": 2, "memory": "8Gi", "most": 8}
    for job, needed in ((job_of(), 3), (elastic, 2)):
        objects = render(submission_of(job), profile_with(groups=[group]))
        spec = of_kind(objects, "PodDisruptionBudget")["spec"]
        assert spec["minAvailable"] == needed
        assert "maxUnavailable" not in spec
        run = of_kind(objects, "RayJob")["metadata"]["labels"]["tap-platform/run"]
        assert spec["selector"]["matchLabels"] == {"tap-platform/run": run}


def test_workers_are_as_many_pods_as_the_job_takes():
    group = {"name": "cpu", "cpus": 2, "memory": "8Gi", "most": 8}
    (workers,) = cluster(groups=[group])["workerGroupSpecs"]
    assert workers["groupName"] == "cpu"
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (2, 2, 2)
    assert "priority" not in workers


def test_a_small_job_takes_a_part_of_a_node_with_its_gpus():
    job = job_of("tap_tiny_scenes", "scale.workers=2", "scale.device=gpu")
    (workers,) = cluster(job, groups=[{**A100S, "resources": {"rdma/hca": "2"}}])[
        "workerGroupSpecs"
    ]
    (container,) = workers["template"]["spec"]["containers"]
    asked = {"cpu": "32", "memory": "256Gi", "nvidia.com/gpu": "2", "rdma/hca": "2"}
    assert container["resources"] == {"requests": asked, "limits": asked}
    assert workers["rayStartParams"] == {
        "num-cpus": "32",
        "num-gpus": "2",
        "object-store-memory": str(int(256 * 2**30 * 0.3)),
        "metrics-export-port": "8080",
    }


def test_what_trains_nothing_gets_a_node_of_the_first_kind():
    job = rayjob(submission=submission_of(None), groups=[A100S, {**A100S, "name": "other"}])
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (workers["groupName"], workers["replicas"]) == ("a100", 1)
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "4"}


def test_an_object_store_is_not_larger_than_ray_makes_any():
    huge = {**A100S, "memory": "2Ti"}
    job = job_of("tap_tiny_scenes", "scale.workers=4", "scale.device=gpu")
    (workers,) = cluster(job, groups=[huge])["workerGroupSpecs"]
    assert workers["rayStartParams"]["object-store-memory"] == str(200 * 10**9)


def test_the_head_trains_nothing_and_is_seen_by_its_cluster():
    head = cluster(head={"cpus": 6, "memory": "10Gi"})["headGroupSpec"]
    assert head["rayStartParams"] == {
        "dashboard-host": "0.0.0.0",
        "num-cpus": "0",
        "num-gpus": "0",
        "object-store-memory": str(3 * 2**30),
        "metrics-export-port": "8080",
    }
    (container,) = head["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "6", "memory": "10Gi"}
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}


SPOT = {**A100S, "spot": True, "most": 4, "least": 1}


def test_the_autoscaler_starts_small_and_prefers_the_first_group():
    job = job_of("tap_tiny_scenes", "scale.workers=2", "scale.device=gpu")
    spec = cluster(
        job, groups=[SPOT, {**A100S, "name": "paid", "most": 4}], autoscale=True, idle_seconds=90
    )
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] == 90
    first, second = spec["workerGroupSpecs"]
    assert (first["groupName"], first["replicas"], first["minReplicas"]) == ("a100", 1, 1)
    assert (second["groupName"], second["replicas"], second["minReplicas"]) == ("paid", 0, 0)
    assert first["priority"] > second["priority"]
    for group in (spec["headGroupSpec"], first, second):
        assert group["template"]["spec"]["restartPolicy"] == "Never"


def test_the_driver_is_told_of_the_autoscaler():
    """It asks for nodes: KubeRay hands the run over when the head is up."""

    def told(**profile):
        templates = pod_templates(rayjob(**profile))
        names = ("TAP_AUTOSCALED", "TAP_START_SECONDS")
        assert not {*names} & environment(templates["cpu"]).keys()
        return [environment(templates["head"]).get(name) for name in names]

    assert told() == [None, None]
    assert told(lifetime={"start_seconds": 900}) == [None, None]
    assert told(autoscale=True) == ["1", None]
    assert told(autoscale=True, lifetime={"start_seconds": 900}) == ["1", "900"]


def test_what_does_not_train_finds_its_node_whether_or_not_there_is_an_autoscaler():
    job = rayjob(submission=submission_of(None), autoscale=True)
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (1, 1, 1)


def test_the_token_of_kubernetes_is_seen_by_the_autoscaler_alone():
    path = "/var/run/secrets/kubernetes.io/serviceaccount"
    templates = pod_templates(rayjob(autoscale=True))
    for template in templates.values():
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert path not in mounted(pod)
    options = cluster(autoscale=True)["autoscalerOptions"]
    (name,) = [each["name"] for each in options["volumeMounts"] if each["mountPath"] == path]
    volumes = {each["name"]: each for each in templates["head"]["spec"]["volumes"]}
    sources = volumes[name]["projected"]["sources"]
    assert [next(iter(each)) for each in sources] == [
        "serviceAccountToken",
        "configMap",
        "downwardAPI",
    ]
    assert name not in [each["name"] for each in templates["cpu"]["spec"]["volumes"]]
    assert name not in [each["name"] for each in pod_templates(rayjob())["head"]["spec"]["volumes"]]


def test_the_autoscaler_writes_where_it_may():
    options = cluster(autoscale=True)["autoscalerOptions"]
    assert options["securityContext"] == RESTRICTED
    head = pod_templates(rayjob(autoscale=True))["head"]["spec"]
    known = {each["name"] for each in head["volumes"]}
    assert {each["name"] for each in options["volumeMounts"]} <= known
    assert {"/tmp", "/home/tap"} <= {each["mountPath"] for each in options["volumeMounts"]}


def test_redis_remembers_what_the_head_knew():
    options = cluster(redis={"address": "redis://r:6379", "password_secret": "r"})[
        "gcsFaultToleranceOptions"
    ]
    key = {"secretKeyRef": {"name": "r", "key": "password"}}
    assert options == {"redisAddress": "redis://r:6379", "redisPassword": {"valueFrom": key}}
    assert cluster(redis={"address": "redis://r:6379"})["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis://r:6379"
    }
    assert "gcsFaultToleranceOptions" not in cluster()


@pytest.mark.parametrize("name", ["head", "cpu", "submitter"])
def test_pods_may_do_nothing_that_they_need_not(name):
    pod = pod_templates(rayjob(run_as_user=2000))[name]["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 2000,
        "runAsGroup": 2000,
        "fsGroup": 2000,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == RESTRICTED
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    assert "hostNetwork" not in pod


@pytest.mark.parametrize("name", ["head", "cpu", "submitter"])
def test_everything_that_programs_write_lies_on_a_volume(name):
    template = pod_templates(rayjob())[name]
    folders = mounted(template["spec"])
    for path in ("/tmp", "/home/tap", "/var/cache/tap"):
        assert folders[path]["emptyDir"]["sizeLimit"]
    variables = environment(template)
    assert variables["HOME"] == "/home/tap"
    assert variables["USER"]
    written = [
        "TAP_CACHE",
        "XDG_CACHE_HOME",
        "MPLCONFIGDIR",
        "NUMBA_CACHE_DIR",
        "TRITON_CACHE_DIR",
        "TORCHINDUCTOR_CACHE_DIR",
    ]
    for variable in written:
        assert any(variables[variable].startswith(path) for path in folders), variable


def test_shared_memory_is_left_to_kuberay():
    for template in pod_templates(rayjob()).values():
        assert "/dev/shm" not in mounted(template["spec"])


def test_probes_are_left_to_kuberay():
    for template in pod_templates(rayjob()).values():
        assert not {"livenessProbe", "readinessProbe"} & template["spec"]["containers"][0].keys()


def test_a_pod_that_is_ended_writes_its_checkpoint_first():
    job = job_of("tap_tiny_scenes", "scale.grace_seconds=45.5")
    templates = pod_templates(rayjob(job))
    for name in ("head", "cpu"):
        pod, variables = templates[name]["spec"], environment(templates[name])
        (container,) = pod["containers"]
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["python", "-m", "tap_platform.places.leave"]
        hook = {"head": 156, "cpu": 76}[name]
        assert variables["TAP_PRE_STOP_SECONDS"] == str(hook)
        assert pod["terminationGracePeriodSeconds"] == hook + 30
        assert variables["TAP_RUN_DIRECTORY"].startswith("/mnt/tap/runs/tap/tap_tiny_scenes-")
    # The driver has its last records to bring to tracker and mirror, too.
    assert environment(templates["head"])["RAY_JOB_STOP_WAIT_TIME_S"] == "156"
    assert "lifecycle" not in templates["submitter"]["spec"]["containers"][0]


def test_the_price_of_the_run_is_told_to_it():
    group = {**A100S, "price_per_hour": 20.0, "most": 4}
    job = job_of("tap_tiny_scenes", "scale.workers=2", "scale.device=gpu")
    told = rayjob(job, groups=[group], head={"price_per_hour": 0.5})
    assert environment(pod_templates(told)["head"])["TAP_PRICE_PER_HOUR"] == "10.5"
    assert environment(pod_templates(told)["head"])["TAP_CURRENCY"] == "USD"
    assert environment(pod_templates(told)["head"])["TAP_OWNER"]
    assert environment(pod_templates(told)["head"])["TAP_GPU_TFLOPS"] == "312"
    on_cpus = environment(pod_templates(rayjob())["head"])
    assert not {"TAP_PRICE_PER_HOUR", "TAP_GPU_TFLOPS"} & on_cpus.keys()


def test_a_storage_claim_is_mounted_and_runs_lie_below_it():
    pod = worker_pod(storage={"claim": "runs", "mount": "/data", "path": "/data/tap/runs"})
    assert mounted(pod)["/data"] == {
        "name": "storage",
        "persistentVolumeClaim": {"claimName": "runs"},
    }
    assert all("persistentVolumeClaim" not in each for each in worker_pod(storage={})["volumes"])
    with pytest.raises(ValueError, match=r"storage.path /runs is not below storage.mount /mnt/tap"):
        rayjob(storage={"claim": "runs", "path": "/runs"})


def test_secrets_are_named_and_never_held():
    secrets = [
        {"name": "s3", "environment": {"AWS_ACCESS_KEY_ID": "id"}},
        {"name": "tracker"},
        {"name": "google", "mount": "/etc/google"},
    ]
    templates = pod_templates(rayjob(secrets=secrets))
    for name in ("head", "cpu"):
        container = templates[name]["spec"]["containers"][0]
        assert environment(templates[name])["AWS_ACCESS_KEY_ID"] == {
            "secretKeyRef": {"name": "s3", "key": "id"}
        }
        assert container["envFrom"] == [{"secretRef": {"name": "tracker"}}]
        files = mounted(templates[name]["spec"])["/etc/google"]["secret"]
        assert files == {"secretName": "google", "defaultMode": 0o440}
    assert not str(templates["submitter"]).count("ecret")


def test_a_pod_lands_where_its_group_says():
    group = {
        "name": "cpu",
        "cpus": 4,
        "memory": "16Gi",
        "node_selector": {"pool": "fast"},
        "tolerations": [{"key": "gpu", "effect": "NoSchedule"}],
        "topology_spread": [{"topology_key": "rack", "max_skew": 3}],
        "environment": {"NCCL_IB_HCA": "mlx5", "HOME": "/scratch"},
    }
    job = rayjob(groups=[group], image_pull_secrets=["registry"], priority="high")
    template = pod_templates(job)["cpu"]
    pod = template["spec"]
    assert pod["nodeSelector"] == {"pool": "fast"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    run = template["metadata"]["labels"]["tap-platform/run"]
    assert pod["topologySpreadConstraints"] == [
        {
            "topologyKey": "rack",
            "maxSkew": 3,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"tap-platform/run": run, "ray.io/group": "cpu"}},
        }
    ]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["priorityClassName"] == "high"
    assert pod["serviceAccountName"] == "tap-run"
    assert environment(template)["NCCL_IB_HCA"] == "mlx5"
    assert environment(template)["HOME"] == "/scratch"
    assert not {"nodeSelector", "tolerations"} & pod_templates(job)["head"]["spec"].keys()


def test_no_variable_stands_twice():
    for template in pod_templates(
        rayjob(secrets=[{"name": "s", "environment": {"A": "a"}}])
    ).values():
        variables = [each["name"] for each in template["spec"]["containers"][0]["env"]]
        assert len(variables) == len(set(variables))
