"""`tap submit`, `ps`, `logs`, `stop`, `resubmit` and `describe` against a Kubernetes API server."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from kubernetes_api.server import ALL, api_server

from tap_platform.cli import tap
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.status import RunStatus, write_status

TINY = str(Path(__file__).resolve().parents[2] / "jobs" / "tap_tiny_scenes.yaml")
CLAIM = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Ti"}}}


@pytest.fixture
def api(tmp_path, monkeypatch):
    with api_server() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kube_config(tmp_path / "config")))
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.chdir(tmp_path)
        server.put("serviceaccounts", "tap-run")
        server.put("persistentvolumeclaims", "tap-runs", spec=CLAIM)
        profile = {
            "place": "kubernetes",
            "image": "registry.example.com/tap:1.0",
            "storage": {"claim": "tap-runs", "seen_here": str(tmp_path / "seen")},
            "groups": [{"name": "cpu", "cpus": 8, "memory": "8Gi"}],
        }
        Path("site.yaml").write_text(yaml.safe_dump(profile))
        yield server


def call(*arguments):
    done = CliRunner().invoke(tap, arguments)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def stands():
    """The state of the only run."""
    return json.loads(call("ps", "--json"))


def submit(*more):
    return call("submit", TINY, "--on", "site.yaml", "--run", "smoke", *more)


def test_a_dry_run_sends_nothing_and_remembers_nothing(api):
    kinds = [each["kind"] for each in yaml.safe_load_all(submit("--dry-run"))]
    assert kinds == ["ConfigMap", "PodDisruptionBudget", "RayJob"]
    assert api.calls == []
    assert call("ps") == "no runs\n"


def test_what_is_refused_is_not_remembered(api):
    api.store.delete(api.kind("serviceaccounts"), "tap", "tap-run")
    with pytest.raises(ValueError, match="no ServiceAccount"):
        submit()
    assert call("ps") == "no runs\n"


def test_a_job_that_finds_no_room_is_refused_without_a_server(api):
    with pytest.raises(ValueError, match="find no room on the nodes of the profile"):
        submit("scale.workers=9", "data.partitions=9", "training.global_batch=9")
    assert api.calls == []


def test_the_job_goes_with_the_storage_of_the_place(api):
    submit()
    (files,) = api.store.list(api.kind("configmaps"), "tap")[0]
    job = json.loads(files["data"]["job.json"])
    assert (job["storage"], job["data"]["path"]) == ("/mnt/tap/runs", "/mnt/tap/data/scenes")
    (rayjob,) = api.store.list(api.kind("rayjobs"), "tap")[0]
    assert rayjob["spec"]["entrypoint"] == "tap train /etc/tap/job.json --run smoke"


def test_a_verb_is_submitted(api):
    call("submit", "--on", "site.yaml", "--run", "check", "--", "tap", "data", "verify", "/mnt/x")
    (rayjob,) = api.store.list(api.kind("rayjobs"), "tap")[0]
    assert rayjob["spec"]["entrypoint"] == "tap data verify /mnt/x"
    assert rayjob["metadata"]["labels"]["tap-platform/kind"] == "data"
    with pytest.raises(
        ValueError, match="`tap train` is not submitted: a job is submitted by its file"
    ):
        call("submit", "--on", "site.yaml", "--", "tap", "train", "x")


def test_the_life_of_a_run(api, tmp_path):
    assert "smoke is starting on site" in submit()
    run = RunDirectory.create(tmp_path / "seen", "tap", "smoke")
    write_status(run.status, RunStatus(state="running", step=40, max_steps=100, host="a-pod"))
    EventLog(run.events, attempt=1).record("started", workers=2)
    run.begin_attempt()
    run.log(1, 1).write_text("I am rank 1\n")
    api.set("rayjobs", "smoke", status={"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"})
    assert (stands()["state"], stands()["step"]) == ("running", 40)
    assert call("logs", "smoke", "--rank", "1") == "I am rank 1\n"
    with pytest.raises(ValueError, match=r"has not ended \(running\): stop it first"):
        call("resubmit", "smoke")

    # The head is lost, and KubeRay gives up.
    api.set("rayjobs", "smoke", status={"jobDeploymentStatus": "Failed", "message": "head lost"})
    assert stands()["state"] == "failed"
    told = call("describe", "smoke")
    for part in ("head lost (at step 40 of 100)", "tap resubmit smoke", "attempt 1  started"):
        assert part in told
    first = api.store.list(api.kind("rayjobs"), "tap")[0][0]["metadata"]["uid"]
    call("resubmit", "smoke")
    assert api.store.list(api.kind("rayjobs"), "tap")[0][0]["metadata"]["uid"] != first
    assert stands()["state"] == "starting"

    # It is stopped, and its cluster vanishes with it.
    assert "has 30 s to write a checkpoint" in call("stop", "smoke")
    assert api.names("rayjobs") == api.names("configmaps") == []
    assert stands()["state"] == "stopped"
    run.log(1, 0).write_text("I am rank 0\n")
    assert call("logs", "smoke") == "I am rank 0\n"
    with pytest.raises(ValueError, match=r"has ended \(stopped\)"):
        call("stop", "smoke")

    # It finished after all: its directory has the last word.
    write_status(run.status, RunStatus(state="finished", step=100, max_steps=100, host="a-pod"))
    assert stands()["state"] == "succeeded"
    with pytest.raises(ValueError, match="there is nothing to go on with"):
        call("resubmit", "smoke")


def test_an_earlier_end_is_not_this_ones(api, tmp_path):
    submit()
    run = RunDirectory.create(tmp_path / "seen", "tap", "smoke")
    old = {"host": "a-pod", "updated": "2020-01-01T00:00:00+00:00", "step": 40, "max_steps": 100}
    for end in ("interrupted", "finished"):
        write_status(run.status, RunStatus(state=end, **old))
        api.set("rayjobs", "smoke", status={"jobDeploymentStatus": "Failed", "message": "lost"})
        assert stands()["state"] == "failed"
        call("resubmit", "smoke")
    # Nobody answers: a run that may go on is not taken away.
    write_status(run.status, RunStatus(state="interrupted", **old))
    tokens, api.tokens = api.tokens, {}
    assert stands()["state"] == "unknown"
    with pytest.raises(ValueError, match="whether smoke goes on is not known, for site does not"):
        call("resubmit", "smoke")
    api.tokens = tokens
    assert stands()["state"] == "starting"


def test_a_run_goes_on_at_one_place(api):
    submit()
    profile = yaml.safe_load(Path("site.yaml").read_text())
    Path("other.yaml").write_text(yaml.safe_dump({**profile, "mfu": 0.4}))
    for arguments in (
        ("resubmit", "smoke", "--on", "other.yaml"),
        ("submit", TINY, "--on", "other.yaml", "--run", "smoke"),
    ):
        with pytest.raises(ValueError, match=r"has not ended at site \(starting\)"):
            call(*arguments)
    assert stands()["place"] == "site"


def test_the_drivers_log_outlives_its_cluster(api, tmp_path):
    submit()
    run = RunDirectory.create(tmp_path / "seen", "tap", "smoke")
    write_status(run.status, RunStatus(state="failed", message="no workers", host="a-pod"))
    run.begin_attempt()
    run.driver_log(1).write_text("no workers: no GPU\n")
    api.store.delete(api.kind("rayjobs"), "tap", "smoke")
    assert call("logs", "smoke", "-f") == call("logs", "smoke") == "no workers: no GPU\n"


def test_a_stop_is_remembered_though_pods_may_not_be_ended(api, tmp_path):
    submit()
    name = {"name": "ray-head", "image": "x:1"}
    pod = {"metadata": {"labels": {"tap-platform/run": "smoke"}}, "spec": {"containers": [name]}}
    api.put("pods", "head", **pod, status={"phase": "Running"})
    every = {(verb, kind.plural) for verb in ALL for kind in api.kinds}
    api.tokens["good"] = ("alice", every - {("delete", "pods")})
    with pytest.raises(ValueError, match="its pods take their grace"):
        call("stop", "smoke", "--now")
    assert stands()["state"] == "stopped"


def test_a_cluster_that_is_gone_without_a_word(api, tmp_path):
    submit()
    run = RunDirectory.create(tmp_path / "seen", "tap", "smoke")
    write_status(run.status, RunStatus(state="running", step=40, max_steps=100, host="a-pod"))
    api.store.delete(api.kind("rayjobs"), "tap", "smoke")
    assert stands()["state"] == "lost"
    assert "go on from its last checkpoint: tap resubmit smoke" in call("ps")


def test_a_place_that_does_not_answer_leaves_the_directory(api, tmp_path, monkeypatch):
    submit()
    run = RunDirectory.create(tmp_path / "seen", "tap", "smoke")
    write_status(run.status, RunStatus(state="finished", step=100, host="a-pod"))
    api.tokens.clear()
    assert stands()["state"] == "succeeded"
    write_status(run.status, RunStatus(state="running", step=40, host="a-pod"))
    assert stands()["state"] == "unknown"
    assert "log in again" in stands()["why"]
    with pytest.raises(ValueError, match="log in again"):
        call("ps", "--on", "site.yaml")


def test_a_run_of_somebody_else(api):
    submit()
    Path(call("ps", "--json") and "state/tap_platform/submitted/smoke.json").unlink()
    with pytest.raises(ValueError, match=r"no run 'smoke' was submitted from here: .* --on"):
        call("describe", "smoke")
    assert "smoke" in call("ps", "--on", "site.yaml")
    assert "starting" in call("describe", "smoke", "--on", "site.yaml")
