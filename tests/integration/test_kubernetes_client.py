"""The client of Kubernetes against a real HTTP server that speaks its REST."""

import re
import threading
import time
from pathlib import Path

import pytest
import yaml
from kubernetes_api.server import ALL, Fault, api_server

from tap_platform.config.profile import KubernetesProfile
from tap_platform.places.kubernetes import names
from tap_platform.places.kubernetes.apply import apply
from tap_platform.places.kubernetes.client import Cluster, DroppedError
from tap_platform.places.kubernetes.errors import (
    ForbiddenError,
    GoneError,
    NotThereError,
    RefusedError,
    TakenError,
    UnknownKindError,
)
from tap_platform.places.kubernetes.objects import render
from tap_platform.places.kubernetes.place import KubernetesPlace
from tap_platform.places.kubernetes.resources import CONFIG_MAPS, PODS, RAY_JOBS
from tap_platform.places.kubernetes.watch import snapshots
from tap_platform.places.place import Submission

RUN = "tiny-20261122-101112-ab12"
RUN_SELECTOR = f"{names.RUN}={RUN}"
EVERYTHING = ("configmaps", "poddisruptionbudgets", "rayjobs")


@pytest.fixture
def api(tmp_path, monkeypatch):
    with api_server() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kube_config(tmp_path / "config")))
        server.put("serviceaccounts", "tap-run")
        server.put("persistentvolumeclaims", "tap-runs", spec=CLAIM)
        yield server


@pytest.fixture
def cluster(api):
    return Cluster(None, "tap")


@pytest.fixture
def quick(monkeypatch):
    """Pauses between tries, noted and not taken."""
    pauses = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    return pauses


CLAIM = {
    "accessModes": ["ReadWriteMany"],
    "resources": {"requests": {"storage": "1Ti"}},
}


def profile(**changes):
    tree = {
        "place": "kubernetes",
        "image": "registry.example.com/tap:1.0",
        "storage": {"claim": "tap-runs"},
        "groups": [{"name": "cpu", "cpus": 4, "memory": "8Gi", "most": 2}],
    }
    return KubernetesProfile.model_validate({**tree, **changes})


def submission(run=RUN):
    return Submission(
        run=run,
        project="tap",
        kind="data",
        command=("tap", "data", "verify", "/mnt/tap/coco"),
        files={"note.txt": "hello\n"},
        job=None,
        code=None,
        by="somebody@here",
    )


def pod(api, name, phase="Running", run=RUN, container="ray-job-submitter", **status):
    labels = {
        names.RUN: run,
        **({} if container == "ray-job-submitter" else {"ray.io/node-type": "worker"}),
    }
    spec = {"containers": [{"name": container, "image": "x:1"}]}
    return api.put(
        "pods", name, metadata={"labels": labels}, spec=spec, status={"phase": phase, **status}
    )


# What is made, and what is left.


def test_a_run_is_made_and_vanishes_as_a_whole(api, cluster):
    place = KubernetesPlace("cpu", profile())
    place.submit(submission())
    assert [len(api.names(plural)) for plural in EVERYTHING] == [1, 1, 1]
    state = place.state(RUN)
    assert (state.run, state.project, state.state, state.by) == (
        RUN,
        "tap",
        "starting",
        "somebody@here",
    )
    assert state.run_directory == f"/mnt/tap/runs/tap/{RUN}"
    cluster.delete(RAY_JOBS, names.object_name(RUN))
    assert [api.names(plural) for plural in EVERYTHING] == [[], [], []]
    assert place.state(RUN).state == "gone"


@pytest.mark.parametrize("failing", EVERYTHING)
@pytest.mark.parametrize("what", [403, 500, "lose"])
def test_an_error_leaves_nothing(api, quick, failing, what):
    def only_after_the_dry_runs():
        api.faults += [Fault("create", failing, what)] * (1 if what == 403 else 9)

    api.faults.append(Fault("create", "rayjobs", "note", then=only_after_the_dry_runs))
    place = KubernetesPlace("cpu", profile())
    if what == "lose":
        # The answer was lost, and the object was made: it is known by its mark.
        api.faults[0] = Fault(
            "create",
            "rayjobs",
            "note",
            then=lambda: api.faults.append(Fault("create", failing, "lose")),
        )
        place.submit(submission())
        assert api.names("rayjobs") == [names.object_name(RUN)]
        return
    with pytest.raises(RefusedError):
        place.submit(submission())
    api.faults.clear()
    assert [api.names(plural) for plural in EVERYTHING] == [[], [], []]


def test_an_owner_that_goes_meanwhile_leaves_nothing(api, cluster, quick):
    api.faults.append(
        Fault(
            "patch",
            "configmaps",
            "note",
            then=lambda: delete(api, "rayjobs", names.object_name(RUN)),
        )
    )
    place = KubernetesPlace("cpu", profile())
    place.submit(submission())
    # Both owned objects point to a RayJob that is gone: the collector takes them.
    assert [api.names(plural) for plural in EVERYTHING] == [[], [], []]


def delete(api, plural, name):
    api.store.delete(api.kind(plural), "tap", name)


def test_a_quota_that_is_used_up(api):
    api.quota["rayjobs"] = 0
    with pytest.raises(ForbiddenError, match="quota is used up"):
        KubernetesPlace("cpu", profile()).submit(submission())
    assert [api.names(plural) for plural in EVERYTHING] == [[], [], []]


def test_two_submissions_of_one_run(api):
    place = KubernetesPlace("cpu", profile())
    place.submit(submission())
    made = api.store.list(api.kind("rayjobs"), "tap")[0]
    with pytest.raises(
        RefusedError, match=r"has the run .* already .starting.: wait for its end, or tap stop"
    ):
        place.submit(submission())
    assert api.store.list(api.kind("rayjobs"), "tap")[0] == made


def test_objects_of_others_are_not_touched(api):
    name = names.files_name(RUN)
    api.put("configmaps", name, data={"mine": "1"})
    with pytest.raises(TakenError, match=r"already exists.*choose another"):
        KubernetesPlace("cpu", profile()).submit(submission())
    assert api.names("configmaps") == [name]
    assert not api.names("poddisruptionbudgets")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"secrets": [{"name": "tap-s3"}]},
            r"there is no Secret 'tap-s3' \(secrets of the profile\)",
        ),
        ({"image_pull_secrets": ["pull"]}, "no Secret 'pull' .image_pull_secrets"),
        ({"storage": {"claim": "nowhere"}}, "no PersistentVolumeClaim 'nowhere' .storage.claim"),
        ({"service_account": "nobody"}, "no ServiceAccount 'nobody'"),
        (
            {"queue": {"system": "kueue", "name": "tap"}},
            "there is no queue 'tap'; there are: other",
        ),
    ],
)
def test_what_is_missing_is_told_before_anything_is_made(api, changes, told):
    api.put("localqueues", "other", spec={"clusterQueue": "all"})
    with pytest.raises(ValueError, match=told):
        KubernetesPlace("cpu", profile(**changes)).submit(submission())
    assert not api.names("configmaps")
    assert not [call for call in api.calls if call[0] == "create"]


def test_a_secret_that_lacks_a_key(api):
    api.put("secrets", "tap-s3", data={"id": "eA=="})
    secrets = [
        {
            "name": "tap-s3",
            "environment": {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"},
        }
    ]
    with pytest.raises(ValueError, match=r"the Secret 'tap-s3' has no key 'key' .*: id"):
        KubernetesPlace("cpu", profile(secrets=secrets)).submit(submission())


def test_secrets_that_one_may_not_read_are_not_asked_for_twice(api):
    allowed = {(verb, plural) for verb in ALL for plural in EVERYTHING}
    api.tokens["good"] = (
        "alice",
        allowed | {("get", "serviceaccounts"), ("get", "persistentvolumeclaims"), ("list", "pods")},
    )
    KubernetesPlace("cpu", profile(secrets=[{"name": "tap-s3"}])).submit(submission())
    assert api.names("rayjobs")


@pytest.mark.parametrize(
    ("queue", "told"),
    [
        ({"spec": {"clusterQueue": "all", "stopPolicy": "Hold"}}, "is closed by its administrator"),
        (
            {
                "status": {
                    "conditions": [
                        {"type": "Active", "status": "False", "message": "no ClusterQueue"}
                    ]
                }
            },
            "is not active: no ClusterQueue",
        ),
    ],
)
def test_a_queue_that_lets_nothing_through(api, queue, told):
    api.put("localqueues", "tap", **queue)
    with pytest.raises(ValueError, match=told):
        KubernetesPlace("cpu", profile(queue={"system": "kueue", "name": "tap"})).submit(
            submission()
        )


def test_a_full_queue_is_waited_in_and_says_why(api):
    api.put("localqueues", "tap", spec={"clusterQueue": "all"})
    place = KubernetesPlace("cpu", profile(queue={"system": "kueue", "name": "tap"}))
    place.submit(submission())
    job = api.store.list(api.kind("rayjobs"), "tap")[0][0]
    said = "couldn't assign flavors to pod set head: insufficient unused quota for cpu"
    api.put(
        "workloads",
        "rayjob-tiny",
        metadata={"labels": {"kueue.x-k8s.io/job-uid": job["metadata"]["uid"]}},
        status={"conditions": [{"type": "QuotaReserved", "status": "False", "message": said}]},
    )
    state = place.state(RUN)
    assert (state.state, state.why) == ("queued", f"it waits in the queue tap: {said}")


# What the server refuses.


def test_no_kube_config(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(
        ValueError, match=r"no Kubernetes to ask .*: name a kube config in KUBECONFIG"
    ):
        Cluster(None, "tap")


@pytest.mark.parametrize(
    "text", ["a: [", "- 1\n- 2", "just words", "contexts: 3\ncurrent-context: a", "\x00"]
)
def test_a_broken_kube_config_is_named(monkeypatch, tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        Cluster(None, "tap")


def test_a_context_that_is_not_there(api):
    with pytest.raises(ValueError, match=r"no Kubernetes to ask .*other"):
        Cluster("other", "tap")


def test_an_expired_token(api, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(api.kube_config(tmp_path / "old", token="expired")))
    with pytest.raises(
        RefusedError, match=r"\(401\): the token .* has expired or is wrong; log in again"
    ):
        KubernetesPlace("cpu", profile()).submit(submission())


@pytest.mark.parametrize("plural", EVERYTHING)
def test_a_role_that_lacks_a_verb(api, plural):
    every = {
        (verb, each)
        for verb in ALL
        for each in (*EVERYTHING, "serviceaccounts", "persistentvolumeclaims")
    }
    api.tokens["good"] = ("alice", every - {("create", plural)})
    with pytest.raises(
        ForbiddenError, match=rf"may not create {plural}.*ask for the role tap-submitter"
    ):
        KubernetesPlace("cpu", profile()).submit(submission())
    assert [api.names(each) for each in EVERYTHING] == [[], [], []]


def test_a_namespace_that_is_not_there(api):
    with pytest.raises(NotThereError, match="there is no such namespace"):
        apply(
            Cluster(None, "elsewhere"), render(submission(), profile(namespace="elsewhere"), "cpu")
        )


def test_kuberay_that_is_not_installed(api):
    api.kinds = [kind for kind in api.kinds if kind.group != "ray.io"]
    with pytest.raises(
        UnknownKindError, match=r"does not know rayjobs.ray.io .404.: install KubeRay"
    ):
        KubernetesPlace("cpu", profile()).submit(submission())


def test_kueue_that_is_not_installed(api):
    api.kinds = [kind for kind in api.kinds if "kueue" not in kind.group]
    with pytest.raises(ValueError, match="Kueue is not installed"):
        KubernetesPlace("cpu", profile(queue={"system": "kueue", "name": "tap"})).submit(
            submission()
        )


def broken(kind, change):
    objects = render(submission(), profile(), "cpu")
    change(next(each for each in objects if each["kind"] == kind))
    return objects


def test_fields_that_the_server_does_not_know(api, cluster):
    from kubernetes_api.kinds import KUBERAY

    if not KUBERAY.is_dir():
        pytest.skip("KubeRay's schemas are not here")
    objects = broken("RayJob", lambda job: job["spec"].update(entryPoint="x"))
    with pytest.raises(
        RefusedError, match=r"RayJob .* is refused:\n.*strict decoding error.*entryPoint"
    ):
        apply(cluster, objects)
    assert [api.names(plural) for plural in EVERYTHING] == [[], [], []]


def test_values_that_the_server_does_not_take(api, cluster):
    from kubernetes_api.kinds import KUBERAY

    if not KUBERAY.is_dir():
        pytest.skip("KubeRay's schemas are not here")
    objects = broken("RayJob", lambda job: job["spec"].update(ttlSecondsAfterFinished="soon"))
    with pytest.raises(
        RefusedError, match=r"is refused:\n  spec.ttlSecondsAfterFinished: 'soon' is not"
    ):
        apply(cluster, objects)


def test_a_name_that_kubernetes_refuses(api, cluster):
    objects = broken("ConfigMap", lambda files: files["metadata"].update(name="No_Name"))
    with pytest.raises(RefusedError, match=r"ConfigMap No_Name is refused:\n  metadata.name"):
        apply(cluster, objects)


# What passes.


def test_a_busy_server_is_asked_again_when_it_says(api, cluster, quick):
    api.faults += [
        Fault("list", "rayjobs", 429, {"Retry-After": "7"}),
        Fault("list", "rayjobs", 503),
    ]
    assert cluster.list(RAY_JOBS) == []
    assert quick[0] == 7
    assert len(quick) == 2


def test_a_server_that_stays_busy(api, cluster, quick):
    api.faults += [Fault("list", "rayjobs", 429, {"Retry-After": "7"})] * 9
    with pytest.raises(RefusedError, match=r"cannot list rayjobs .429."):
        cluster.list(RAY_JOBS)
    assert quick == [7] * 5


def test_a_connection_that_drops(api, cluster, quick):
    api.faults += [Fault("get", "rayjobs", "drop")] * 3
    with pytest.raises(NotThereError):
        cluster.get(RAY_JOBS, "x")
    assert len(quick) == 3


def test_no_server(tmp_path, monkeypatch, quick):
    with api_server() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kube_config(tmp_path / "config")))
    with pytest.raises(RefusedError, match="the API server gives no answer to list rayjobs"):
        Cluster(None, "tap").list(RAY_JOBS)


def test_a_patch_of_an_object_that_was_deleted(api, cluster):
    with pytest.raises(NotThereError, match="there is no ConfigMap gone"):
        cluster.patch(CONFIG_MAPS, "gone", {"metadata": {"labels": {"a": "b"}}})


# Looking on.


def test_a_watch_goes_on_where_it_broke(api, cluster):
    api.faults.append(Fault("watch", "pods", "cut", lines=1))
    pod(api, "one")
    looks = snapshots(cluster, PODS, RUN_SELECTOR)
    assert list(next(looks)) == ["one"]
    threading.Timer(0.2, pod, (api, "two")).start()
    assert list(next(looks)) == ["one", "two"]
    threading.Timer(0.2, pod, (api, "three")).start()
    assert next(list(look) for look in looks if len(look) == 3) == ["one", "two", "three"]
    assert [call[0] for call in api.calls if call[1] == "pods"] == ["list", "watch", "watch"]


def test_a_watch_from_too_long_ago_lists_again(api, cluster):
    pod(api, "one")
    looks = snapshots(cluster, PODS, RUN_SELECTOR)
    next(looks)
    pod(api, "two")
    api.store.forget_history()
    assert list(next(looks)) == ["one", "two"]
    with pytest.raises(GoneError):
        list(cluster.watch(PODS, RUN_SELECTOR, "1"))


def test_a_watch_sees_what_is_deleted(api, cluster):
    pod(api, "one")
    looks = snapshots(cluster, PODS, RUN_SELECTOR)
    next(looks)
    api.store.delete(api.kind("pods"), "tap", "one", grace=0)
    assert list(next(looks)) == []


# Logs.


def follow(api):
    place = KubernetesPlace("cpu", profile())
    api.put("rayjobs", names.object_name(RUN), metadata={"labels": {names.RUN: RUN}}, spec={})
    return place.logs(RUN, True, None)


def finish(api, pod_name):
    api.log(pod_name).ended = True
    api.set("pods", pod_name, status={"phase": "Succeeded"})
    api.set(
        "rayjobs",
        names.object_name(RUN),
        status={"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"},
    )


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_log_that_breaks_off_is_taken_up_again_without_loss(api, after):
    pod(api, "submitter")
    moment = None
    for number in range(6):
        api.log("submitter").print(f"line {number}", when=moment)
        # Two lines may have one time.
        moment = api.log("submitter").lines[-1][0] if number % 2 == 0 else None
    api.faults += [Fault("log", "pods", "cut", lines=after)] * 3
    threading.Timer(0.5, finish, (api, "submitter")).start()
    assert list(follow(api)) == [f"line {number}" for number in range(6)]


def test_a_log_is_waited_for_until_its_pod_begins(api, monkeypatch):
    monkeypatch.setattr("tap_platform.places.kubernetes.logs.LOOK_EVERY_SECONDS", 0.05)
    lines = follow(api)

    def begin():
        pod(api, "submitter")
        api.log("submitter").print("hello")
        finish(api, "submitter")

    threading.Timer(0.2, begin).start()
    assert list(lines) == ["hello"]


def test_a_pod_that_is_deleted_while_its_log_is_read(api, monkeypatch):
    monkeypatch.setattr("tap_platform.places.kubernetes.logs.LOOK_EVERY_SECONDS", 0.05)
    pod(api, "submitter")
    api.log("submitter").print("one")
    lines = follow(api)
    assert next(lines) == "one"
    delete(api, "rayjobs", names.object_name(RUN))
    api.store.delete(api.kind("pods"), "tap", "submitter", grace=0)
    assert list(lines) == []


def test_a_cluster_of_its_own_for_each_try_has_a_log_each(api, monkeypatch):
    monkeypatch.setattr("tap_platform.places.kubernetes.logs.LOOK_EVERY_SECONDS", 0.05)
    pod(api, "first", phase="Failed")
    api.log("first").print("one")
    api.log("first").ended = True
    lines = follow(api)
    assert next(lines) == "one"
    pod(api, "second")
    api.log("second").print("two")
    threading.Timer(0.2, finish, (api, "second")).start()
    assert list(lines) == ["two"]


@pytest.fixture
def hasty(monkeypatch):
    """Looks that come quickly."""
    monkeypatch.setattr("tap_platform.places.kubernetes.logs.LOOK_EVERY_SECONDS", 0.02)
    monkeypatch.setattr("tap_platform.places.kubernetes.pod_log.PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("tap_platform.places.kubernetes.pod_log.WAIT_SECONDS", 0.02)


@pytest.mark.parametrize("job_is_there", [True, False])
def test_a_log_that_is_followed_when_all_is_over_is_not_there(api, job_is_there):
    lines = follow(api)
    status = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    api.set("rayjobs", names.object_name(RUN), status=status)
    if not job_is_there:
        delete(api, "rayjobs", names.object_name(RUN))
    with pytest.raises(NotThereError, match="no pod has the log of"):
        list(lines)


def log_lines(monkeypatch, *connections):
    """Let a log's connections bring these lines, one list after the other."""
    left = list(connections)

    def pod_log(self, pod, container, since, follow):
        yield from left.pop(0)
        if left:
            raise DroppedError

    monkeypatch.setattr(Cluster, "pod_log", pod_log)


def test_lines_without_a_time_swallow_nothing(api, monkeypatch, hasty):
    first = "2026-11-22T10:00:00.1Z one", "a kubelet's own word", "2026-11-22T10:00:00.123456Z two"
    then = "2026-11-22T12:00:00.2+02:00 three", "", "2026-11-22T10:00:01Z four"
    log_lines(monkeypatch, first, [*first, *then])
    pod(api, "submitter", phase="Succeeded")
    lines = list(KubernetesPlace("cpu", profile()).logs(RUN, False, None))
    assert lines == ["one", "a kubelet's own word", "two", "three", "", "four"]


@pytest.mark.parametrize(
    ("verb", "plural"), [("get", "rayjobs"), ("list", "pods"), ("log", "pods")]
)
def test_a_server_that_is_away_for_a_while_ends_no_log(api, quick, hasty, verb, plural):
    pod(api, "submitter")
    api.log("submitter").print("one")
    api.faults += [Fault(verb, plural, 503)] * 14
    threading.Timer(0.5, finish, (api, "submitter")).start()
    assert list(follow(api)) == ["one"]
    assert not api.faults


def test_a_server_that_stays_away_ends_a_log(api, quick, hasty, monkeypatch):
    monkeypatch.setattr("tap_platform.places.kubernetes.pod_log.PATIENCE_SECONDS", 0.1)
    api.faults += [Fault("list", "pods", 503)] * 500
    with pytest.raises(RefusedError, match=r"cannot list pods .503."):
        list(follow(api))


def test_who_may_not_read_a_log_is_told_at_once(api, hasty):
    everything = {(verb, each) for verb in ALL for each in (*EVERYTHING, "pods")}
    api.tokens["good"] = ("alice", everything)
    pod(api, "submitter")
    with pytest.raises(ForbiddenError, match="may not get pods"):
        list(follow(api))


def test_a_submitter_in_the_place_of_another_repeats_nothing(api, hasty):
    job = api.put("configmaps", "stands-for-a-job")
    owned = {"metadata": {"ownerReferences": [owner(job)]}}
    pod(api, "first")
    api.set("pods", "first", **owned)
    api.log("first").print("first says hello", "one", "two", "two", "three")
    api.log("first").ended = True
    lines = follow(api)
    told = [next(lines) for _ in range(5)]
    api.set("pods", "first", status={"phase": "Failed"})
    pod(api, "second")
    api.set("pods", "second", **owned)
    api.log("second").print("second says hello", "one", "two", "two", "three", "two", "four")
    threading.Timer(0.3, finish, (api, "second")).start()
    told += list(lines)
    assert told == [
        "first says hello",
        *("one", "two", "two", "three"),
        "second says hello",
        *("two", "four"),
    ]


def test_a_log_that_nobody_has(api):
    with pytest.raises(NotThereError, match="no pod has the log of"):
        list(KubernetesPlace("cpu", profile()).logs(RUN, False, None))


def test_a_log_of_a_container_that_waits(api, cluster):
    pod(api, "submitter", phase="Pending")
    with pytest.raises(RefusedError, match="waiting to start") as refused:
        list(cluster.pod_log("submitter", "ray-job-submitter", None, follow=False))
    assert refused.value.status == 400


def test_a_stream_that_drops_says_so(api, cluster):
    pod(api, "submitter")
    api.log("submitter").print("one", "two")
    api.faults.append(Fault("log", "pods", "cut", lines=1))
    lines = cluster.pod_log("submitter", "ray-job-submitter", None, follow=True)
    assert next(lines).endswith(" one")
    with pytest.raises(DroppedError):
        list(lines)


# Stopping.


def test_stopping_keeps_the_job_until_its_cluster_is_gone(api):
    place = KubernetesPlace("cpu", profile())
    place.submit(submission())
    job = api.store.list(api.kind("rayjobs"), "tap")[0][0]
    api.put("rayclusters", "cluster", metadata={"ownerReferences": [owner(job)]}, spec=CLUSTER)
    ray = api.store.list(api.kind("rayclusters"), "tap")[0][0]
    head = pod(api, "head", container="ray-head")
    api.set("pods", "head", metadata={"ownerReferences": [owner(ray)]})
    place.stop(RUN, grace=30)
    assert place.state(RUN).state == "stopping"
    assert api.store.get(api.kind("pods"), "tap", head["metadata"]["name"])["metadata"][
        "deletionTimestamp"
    ]
    api.store.end_pod("tap", "head")
    assert place.state(RUN).state == "gone"
    assert [api.names(plural) for plural in (*EVERYTHING, "rayclusters", "pods")] == [[]] * 5


CLUSTER = {
    "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "x"}]}}}
}


def owner(each):
    return {
        "apiVersion": each["apiVersion"],
        "kind": each["kind"],
        "name": each["metadata"]["name"],
        "uid": each["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def test_stopping_now_leaves_no_pod(api):
    place = KubernetesPlace("cpu", profile())
    place.submit(submission())
    pod(api, "head", container="ray-head")
    place.stop(RUN, grace=0)
    assert (api.names("pods"), api.names("rayjobs")) == ([], [])


def people(*roles):
    """What the documented roles allow."""
    file = Path(__file__).resolve().parents[2] / "cluster" / "namespace" / "people.yaml"
    rules = [
        rule
        for each in yaml.safe_load_all(file.read_text())
        if each["kind"] == "Role" and each["metadata"]["name"] in roles
        for rule in each["rules"]
    ]
    return {(verb, what) for rule in rules for what in rule["resources"] for verb in rule["verbs"]}


def test_submitters_may_do_all_that_tap_does(api, monkeypatch):
    monkeypatch.setattr("tap_platform.places.kubernetes.place.LOOK_EVERY_SECONDS", 0.02)
    api.tokens["good"] = ("alice", people("tap-viewer", "tap-submitter"))
    place = KubernetesPlace("cpu", profile())
    place.submit(submission())
    pod(api, "submitter")
    api.log("submitter").print("hello")
    assert list(place.logs(RUN, False, None)) == ["hello"]
    place.stop(RUN, grace=0)
    assert (api.names("pods"), api.names("rayjobs")) == ([], [])
    place.clear(RUN)
    place.submit(submission())


def test_who_may_not_end_pods_is_told_that_the_run_is_stopped(api):
    submitter = people("tap-viewer", "tap-submitter") - {("delete", "pods")}
    api.tokens["good"] = ("alice", submitter)
    place = KubernetesPlace("cpu", profile())
    place.submit(submission())
    pod(api, "head", container="ray-head")
    with pytest.raises(ForbiddenError, match="The run is being stopped, but its pods take"):
        place.stop(RUN, grace=0)
    assert place.state(RUN).state == "gone"


def test_an_ended_run_is_cleared_when_nothing_of_it_is_left(api, monkeypatch):
    monkeypatch.setattr("tap_platform.places.kubernetes.place.LOOK_EVERY_SECONDS", 0.02)
    place = KubernetesPlace("cpu", profile())
    place.submit(submission())
    pod(api, "head", container="ray-head")
    labels = {"labels": {names.RUN: RUN}}
    delete(api, "rayjobs", names.object_name(RUN))
    api.put("configmaps", names.files_name(RUN), metadata=labels)
    api.store.delete(api.kind("pods"), "tap", "head")  # it has its grace
    gone = []

    def vanish():
        gone.append("configmap")
        delete(api, "configmaps", names.files_name(RUN))
        time.sleep(0.2)
        gone.append("pod")
        api.store.end_pod("tap", "head")

    threading.Timer(0.2, vanish).start()
    place.clear(RUN)
    assert gone == ["configmap", "pod"]
    place.submit(submission())


def test_what_does_not_vanish_is_named(api, monkeypatch):
    monkeypatch.setattr("tap_platform.places.kubernetes.place.LOOK_EVERY_SECONDS", 0.02)
    monkeypatch.setattr("tap_platform.places.kubernetes.place.CLEARED_WITHIN_SECONDS", 0.1)
    labels = {"labels": {names.RUN: RUN}}
    api.put("configmaps", names.files_name(RUN), metadata=labels)
    with pytest.raises(ValueError, match=f"still there after .*ConfigMap {names.files_name(RUN)}"):
        KubernetesPlace("cpu", profile()).clear(RUN)


def test_a_run_that_goes_on_is_not_cleared(api):
    place = KubernetesPlace("cpu", profile())
    place.submit(submission())
    with pytest.raises(ValueError, match=r"goes on at cpu .starting.: stop it first"):
        place.clear(RUN)
    assert api.names("rayjobs")


def test_a_lost_answer_to_a_deletion_is_no_refusal(api, cluster, quick):
    place = KubernetesPlace("cpu", profile())
    place.submit(submission())
    api.faults.append(Fault("delete", "rayjobs", "lose"))
    place.stop(RUN, grace=0)
    assert api.names("rayjobs") == []
    with pytest.raises(NotThereError):
        cluster.delete(RAY_JOBS, names.object_name(RUN))


def test_all_runs_of_a_namespace(api):
    place = KubernetesPlace("cpu", profile())
    for run in ("a-1", "b-2"):
        place.submit(submission(run))
    api.put("rayjobs", "of-somebody-else", spec={})
    assert [(state.run, state.state) for state in place.states()] == [
        ("a-1", "starting"),
        ("b-2", "starting"),
    ]
