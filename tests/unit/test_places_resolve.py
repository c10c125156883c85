"""Places by name, jobs as they run there, and what is remembered of submissions."""

from pathlib import Path

import pytest

from tap_platform.config.profile import KubernetesProfile, RayProfile
from tap_platform.places.find import find_place, find_profile
from tap_platform.places.place import CodePackage, Submission
from tap_platform.places.resolve import resolve_job
from tap_platform.places.submissions import Record, Submissions

JOBS = Path(__file__).resolve().parents[2] / "jobs"
TINY = JOBS / "tap_tiny_scenes.yaml"
GROUPS = [{"name": "cpu", "cpus": 4, "memory": "8Gi"}]


def kubernetes(**changes):
    tree = {"place": "kubernetes", "image": "tap:1", "groups": GROUPS, **changes}
    return KubernetesProfile.model_validate(tree)


@pytest.mark.parametrize(
    ("on", "kind"),
    [
        ("local", "LocalPlace"),
        ("http://head:8265", "RayJobsPlace"),
        ("ray://head:10001", "RayJobsPlace"),
        ("cpu", "KubernetesPlace"),
    ],
)
def test_places(on, kind):
    place = find_place(on)
    assert (type(place).__name__, place.name) == (kind, on)


@pytest.mark.parametrize("on", ["local", "http://head:8265"])
def test_queues_are_of_kubernetes(on):
    with pytest.raises(ValueError, match=f"--queue q: {on} has no queues"):
        find_place(on, "q")


def test_a_queue_has_a_name():
    for on in ("cpu", "local", "http://head:8265"):
        for queue in ("", " "):
            with pytest.raises(ValueError, match="--queue needs the name of a queue"):
                find_profile(on, queue)
    with pytest.raises(ValueError, match="queue"):
        kubernetes(queue={"system": "kueue", "name": ""})


def test_a_password_in_an_address_is_not_told():
    with pytest.raises(ValueError, match="head:8265 has no queues") as refused:
        find_place("http://me:secret@head:8265", "q")
    assert "secret" not in str(refused.value)


def test_another_queue_of_the_same_system():
    _, profile = find_profile("h100_32x8_rdma", "night")
    assert (profile.queue.system, profile.queue.name) == ("kueue", "night")
    assert find_profile("cpu", "q")[1].queue.system == "kueue"


def test_what_the_place_decides():
    storage = {"path": "/mnt/tap/runs", "mirror": "s3://bucket/runs"}
    profile = kubernetes(storage=storage, tracking="http://mlflow:5000")
    job = resolve_job(TINY, ["training.max_steps=30"], profile)
    assert job.storage == "/mnt/tap/runs"
    assert job.mirror.url == "s3://bucket/runs"
    assert job.tracking.mlflow.uri == "http://mlflow:5000"
    assert job.training.max_steps == 30
    # Data lie beside the runs, as they do here.
    assert job.data.path == "/mnt/tap/data/scenes"


def test_paths_there_are_not_looked_at_here():
    job = resolve_job(TINY, ["data.path=/nowhere/here"], kubernetes())
    assert job.data.path == "/nowhere/here"


def test_a_tracking_server_for_one_run():
    profile = kubernetes(tracking="http://mlflow:5000")
    job = resolve_job(TINY, ["tracking.mlflow.uri=http://mine:5000"], profile)
    assert job.tracking.mlflow.uri == "http://mine:5000"


def test_the_storage_is_the_profiles():
    with pytest.raises(ValueError, match="storage=/elsewhere: the profile says where runs lie"):
        resolve_job(TINY, ["storage=/elsewhere"], kubernetes())


def test_a_bare_address_needs_a_storage_that_all_nodes_see():
    with pytest.raises(ValueError, match="the storage runs is no folder that all nodes"):
        resolve_job(TINY, [], None)
    job = resolve_job(TINY, ["storage=/nfs/tap/runs"], None)
    assert (job.storage, job.data.path) == ("/nfs/tap/runs", "/nfs/tap/data/scenes")


def test_a_profile_of_a_ray_cluster():
    tree = {
        "place": "ray",
        "address": "http://h:8265",
        "groups": GROUPS,
        "storage": {"path": "/x/runs"},
    }
    assert resolve_job(TINY, [], RayProfile.model_validate(tree)).storage == "/x/runs"


def test_pipelines_are_not_submitted():
    with pytest.raises(
        ValueError, match="a pipeline of several jobs, and one at a time is submitted"
    ):
        resolve_job(JOBS / "scenes_pipeline.yaml", [], kubernetes())


def submission(**changes):
    told = {
        "run": "r-1",
        "project": "tap",
        "kind": "train",
        "command": ("tap", "train", "/etc/tap/job.json", "--run", "r-1"),
        "files": {"job.json": "{}"},
        "job": resolve_job(TINY, [], kubernetes()),
        "code": CodePackage(b"\x00zip", 3, "abc", ("a.py",)),
        "by": "me@here",
    }
    return Submission(**{**told, **changes})


def test_submissions_are_remembered_whole(tmp_path):
    records = Submissions(tmp_path)
    for wanted in (submission(), submission(run="r-2", job=None, code=None, kind="data")):
        records.write(Record.of(wanted, "cpu", kubernetes()))
        found = records.find(wanted.run)
        assert found.submission() == wanted
        assert (found.place, found.profile) == ("cpu", kubernetes())
    assert [each.run for each in records.all()] == ["r-1", "r-2"]
    assert "r-1" in records.like("r1")
    records.forget("r-1")
    assert records.find("r-1") is None


def test_a_broken_record_hides_no_other(tmp_path):
    records = Submissions(tmp_path)
    records.write(Record.of(submission(), "http://h:8265", None))
    (tmp_path / "old.json").write_text('{"run": "old"}')
    assert [each.run for each in records.all()] == ["r-1"]
    with pytest.raises(ValueError, match=r"old.json is no record of a submission"):
        records.find("old")


@pytest.mark.parametrize("name", ["../config", "", ".", "..", "-f", "a b", "a\nb", "a/b"])
def test_names_that_lead_elsewhere(tmp_path, name):
    with pytest.raises(ValueError, match="does not do as a folder name"):
        Submissions(tmp_path).find(name)


def test_what_is_remembered_is_for_its_owner_alone(tmp_path):
    folder = tmp_path / "tap" / "submitted"
    records = Submissions(folder)
    records.write(Record.of(submission(), "cpu", kubernetes()))
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)  # as an earlier version made it
    with records.held("r-1"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert [each.run for each in records.all()] == ["r-1"]
