"""A run's small files in an S3 bucket, over the network by the real client: kept up, lost, read."""

import time
from types import SimpleNamespace

import pytest
import s3fs
from moto.server import ThreadedMotoServer
from tracking_servers import free_port

from datamodules import remote
from datamodules.storage import location, read_bytes, remove_tree, write_bytes
from tap_platform.config.mirror import MirrorConfig
from tap_platform.report.records import RunRecords
from tap_platform.runs import mirrored as reading
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.files import write_json
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.mirror import Mirror
from tap_platform.runs.mirrored import fetch_run, mirrored_runs
from tap_platform.runs.status import read_status, update_status

MEGABYTE = 1_000_000


def started(port):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    return server


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A bucket of a server that a test may stop and start again; moto keeps what it was given."""
    port = free_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "TAP_CACHE": str(tmp_path / "cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.05)
    servers = [started(port)]
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(f"mirror-{port}")
    yield SimpleNamespace(
        url=f"s3://mirror-{port}/runs",
        start=lambda: servers.append(started(port)),
        stop=lambda: servers.pop().stop(),
    )
    s3fs.S3FileSystem.clear_instance_cache()
    for server in servers:
        server.stop()


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path / "runs", "tap", "one")
    write_json(run.config, {"name": "one"})
    update_status(run.status, state="running", attempt=run.begin_attempt())
    MetricsWriter(run.metrics).write(1, {"loss": 0.5})
    run.log(1, 0).write_text("worker 0 of 1\n")
    (run.checkpoints / "step-1").mkdir()
    (run.checkpoints / "step-1" / "part").write_bytes(b"weights")
    (run.path / "ray" / "attempt-1").mkdir(parents=True)
    (run.path / "ray" / "attempt-1" / "state").write_bytes(b"of Ray Train")
    (run.report / "index.html").write_text("<html>")
    (run.path / "stop").write_text("train on\n")
    (run.path / ".driver.lock").touch()
    (run.path / "wandb").mkdir()
    (run.path / "wandb" / "latest").symlink_to(run.log(1, 0))
    return run


def mirror_of(run, url, **config):
    return Mirror(run, MirrorConfig(url=url, interval=0.02, **config))


def kinds(run):
    return [event["kind"] for event in read_events(run.events)]


def copies(place):
    """The paths of everything that lies there."""
    there = str(place)
    return {str(each)[len(there) + 1 :] for each in place.rglob("*") if each.is_file()}


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_small_files_are_copied_and_read_back_without_their_storage(run, bucket):
    mirror = mirror_of(run, bucket.url)
    mirror.start()
    update_status(run.status, state="finished", step=1)
    assert mirror.stop(20)
    there = copies(location(bucket.url) / "tap" / "one")
    assert there == {
        "config.json",
        "logs/attempt-1/rank-0.log",
        "metrics.jsonl",
        "mirror.json",
        "report/index.html",
        "status.json",
    }
    (listed,) = mirrored_runs(bucket.url)
    assert listed[:2] == ("tap", "one")
    assert listed.status == read_status(run.status)
    fetched = fetch_run(bucket.url, "tap", "one")
    assert not fetched.path.is_relative_to(run.storage)
    records = RunRecords.read(fetched)
    assert (records.status.state, records.metrics[0].values) == ("finished", {"loss": 0.5})
    assert fetched.log(1, 0).read_text() == "worker 0 of 1\n"
    assert not records.faults


def test_what_has_not_changed_is_neither_copied_nor_fetched_again(run, bucket, monkeypatch):
    mirror_of(run, bucket.url)._pass()
    fetch_run(bucket.url, "tap", "one")
    place = location(bucket.url) / "tap" / "one"
    write_bytes(place / "config.json", b"not to be touched")
    fetched_names = []

    def noted(place):
        fetched_names.append(place.name)
        return read_bytes(place)

    monkeypatch.setattr(reading, "read_bytes", noted)
    with run.log(1, 0).open("a") as log:
        log.write("more\n")
    mirror_of(run, bucket.url)._pass()  # another attempt, in another process
    assert read_bytes(place / "config.json") == b"not to be touched"
    assert fetch_run(bucket.url, "tap", "one").log(1, 0).read_text() == "worker 0 of 1\nmore\n"
    assert fetched_names == ["rank-0.log"]


def test_a_store_that_is_down_is_two_events_and_loses_nothing(run, bucket):
    bucket.stop()
    mirror = mirror_of(run, bucket.url)
    mirror.start()
    wait_for(lambda: "mirror_failed" in kinds(run))
    MetricsWriter(run.metrics).write(2, {"loss": 0.25})
    bucket.start()
    wait_for(lambda: "mirror_recovered" in kinds(run))
    update_status(run.status, state="finished")
    assert mirror.stop(20)
    assert kinds(run) == ["mirror_failed", "mirror_recovered"]
    fetched = fetch_run(bucket.url, "tap", "one")
    assert fetched.metrics.read_bytes() == run.metrics.read_bytes()
    assert read_status(fetched.status).state == "finished"
    assert [event["kind"] for event in read_events(fetched.events)] == kinds(run)


def test_a_store_that_stays_down_does_not_hold_up_the_end(run, bucket):
    bucket.stop()
    mirror = mirror_of(run, bucket.url)
    mirror.start()
    assert not mirror.stop(0.01)
    assert kinds(run)[-1] == "mirror_behind"
    mirror._thread.join()


def test_large_files_are_left_out_with_one_event(run, tmp_path):
    run.log(1, 1).write_bytes(bytes(2 * MEGABYTE))
    mirror = mirror_of(run, str(tmp_path / "mirror"), largest_megabytes=1)
    for _ in range(3):
        mirror._pass()
    (event,) = read_events(run.events, "mirror_left_out")
    assert (event["file"], event["bytes"]) == ("logs/attempt-1/rank-1.log", 2 * MEGABYTE)
    there = copies(tmp_path / "mirror" / "tap" / "one")
    assert {"logs/attempt-1/rank-0.log", "events.jsonl"} <= there
    assert "logs/attempt-1/rank-1.log" not in there


def test_a_large_log_that_grows_waits_and_is_complete_at_the_end(run, tmp_path):
    log = run.log(1, 0)
    log.write_bytes(bytes(2 * MEGABYTE))
    mirror = Mirror(run, MirrorConfig(url=str(tmp_path / "mirror"), interval=3600))
    copy = tmp_path / "mirror" / "tap" / "one" / "logs/attempt-1/rank-0.log"
    mirror._pass()
    with log.open("ab") as file:
        file.write(b"more")
    update_status(run.status, step=7)
    mirror._pass()
    assert copy.stat().st_size == 2 * MEGABYTE
    assert fetch_run(str(tmp_path / "mirror"), "tap", "one").status.read_bytes() == (
        run.status.read_bytes()
    )
    mirror.start()
    assert mirror.stop(20)
    assert copy.stat().st_size == 2 * MEGABYTE + 4


def test_the_status_comes_last_so_that_an_end_is_the_end_of_all(run, tmp_path, monkeypatch):
    from tap_platform.runs import mirror as writing

    names = []

    def noted(place, data):
        names.append(place.name)
        write_bytes(place, data)

    monkeypatch.setattr(writing, "write_bytes", noted)
    mirror_of(run, str(tmp_path / "mirror"))._pass()
    assert names[-2:] == ["status.json", "mirror.json"]
    assert len(names) == 6


def test_all_runs_of_a_mirror_are_listed_and_broken_ones_passed_over(tmp_path, run, caplog):
    url = str(tmp_path / "mirror")
    for project, name, state in (("b", "two", "failed"), ("a", "three", "running")):
        other = RunDirectory.create(tmp_path / "runs", project, name)
        update_status(other.status, state=state)
        mirror_of(other, url)._pass()
    mirror_of(run, url)._pass()
    (tmp_path / "mirror" / "tap" / "one" / "status.json").write_text("{}}")
    (tmp_path / "mirror" / "a" / "empty").mkdir()
    found = [(r.project, r.run, r.status.state) for r in mirrored_runs(url)]
    assert found == [("a", "three", "running"), ("b", "two", "failed")]
    assert "tap/one/status.json is passed over" in caplog.text


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"no run tap/two in .*mirror: is it mirrored there"):
        fetch_run(str(tmp_path / "mirror"), "tap", "two")
    assert list(mirrored_runs(str(tmp_path / "mirror"))) == []


def test_a_list_leads_nowhere_else(run, tmp_path):
    url = str(tmp_path / "mirror")
    mirror_of(run, url)._pass()
    secret = tmp_path / "mirror" / "tap" / "x"
    secret.write_text("x")
    for name in ("../x", "../../../x", "/etc/x"):
        write_json(tmp_path / "mirror/tap/one/mirror.json", {name: "1"})
        with pytest.raises(ValueError, match="leads out of the run"):
            fetch_run(url, "tap", "one")
    remove_tree(tmp_path / "mirror/tap/one/mirror.json")


def test_the_events_of_a_mirror_are_of_its_attempt(run, tmp_path):
    update_status(run.status, attempt=run.begin_attempt())
    EventLog(run.events, attempt=2).record("started")
    run.log(2, 0).write_bytes(bytes(2 * MEGABYTE))
    mirror_of(run, str(tmp_path), largest_megabytes=1)._pass()
    assert [event["attempt"] for event in read_events(run.events)] == [2, 2]
