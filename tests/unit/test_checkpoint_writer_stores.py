"""Checkpoints in an S3 bucket, over the network by the real client: written, lost, found again."""

import functools
import http.server
import json
import logging
import threading
from types import SimpleNamespace

import pytest
import s3fs
import torch
from s3_server import s3_server
from safetensors.torch import save_file
from small_runs import make_run, small_job

from datamodules import remote
from datamodules.storage import exists, list_files, read_bytes, write_bytes
from tap_platform.launch.initial_weights import find_base
from tap_platform.launch.newest_checkpoint import (
    checkpoint_in_run,
    newest_checkpoint,
    newest_in_run,
)
from tap_platform.runs import checkpoints
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.files import write_json
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.training import checkpoint_writer
from tap_platform.training.checkpoint_writer import CheckpointFailedError, CheckpointWriter

TRAINING = {
    "lightning": {"global_step": 1, "loops": {}},
    "steps": {"a": 1.0},
    "learning_rates": [0.1],
    "counters": {},
}


def part_of(folder, rank=0):
    (path,) = list_files(folder, f"part-0000{rank}-*.safetensors")
    return path


def damaged(folder, name):
    return part_of(folder) if name == "part" else folder / name


@pytest.fixture(scope="module")
def server():
    with s3_server("checkpoints", AWS_MAX_ATTEMPTS="1") as server:
        yield server


@pytest.fixture
def store(server, tmp_path, monkeypatch):
    """A run whose checkpoints lie in the bucket, and writers of its workers."""
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(checkpoint_writer, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(checkpoint_writer, "PATIENCE_SECONDS", 5.0)
    run = make_run(tmp_path, tmp_path.name)
    job = small_job(tmp_path, checkpoint={"storage": "s3://checkpoints/runs", "keep_last": 2})

    def writer(rank=0, world_size=1):
        place = checkpoints.checkpoint_place(run, job.checkpoint)
        events, metrics = EventLog(run.events, 1, rank), MetricsWriter(run.metrics)
        made = CheckpointWriter(place, rank, world_size, events, metrics, job.checkpoint)
        made.group = "these workers"
        return made

    return SimpleNamespace(run=run, job=job, writer=writer, place=writer().place)


def save(writer, step, last=False):
    tensors = {"weight/a@0": torch.full((5000,), float(step))}
    writer.save(step, tensors, {"a": "[5000]"}, {"training.json": TRAINING}, last)
    if writer.rank:
        writer.wait()


def steps(place):
    return [checkpoints.step_of(folder) for folder in checkpoints.committed(place)]


def newest(store, rank=0, agree=None):
    return newest_checkpoint(store.job, store.run, EventLog(store.run.events, 1, rank), agree)


def skipped(store):
    return [e["reason"] for e in read_events(store.run.events, "checkpoint_skipped")]


def test_two_workers_write_to_a_bucket_and_old_ones_go(store):
    first, second = store.writer(0, 2), store.writer(1, 2)
    for step in (1, 2, 3):
        save(second, step)
        save(first, step)
    first.wait()
    assert steps(store.place) == [2, 3]
    assert str(store.place) == f"s3://checkpoints/runs/tap/{store.run.name}"
    names = [place.name for place in list_files(store.place / "step-3")]
    parts = [part_of(store.place / "step-3", rank).name for rank in range(2)]
    assert names == ["COMMITTED", "manifest.json", *parts, "training.json"]
    checkpoints.verify(store.place / "step-3")
    assert not exists(store.place / "step-1")
    assert [event["step"] for event in read_events(store.run.events)] == [1, 2, 3]


def test_a_run_without_checkpoints_begins_at_the_start(store):
    assert newest(store) is None
    assert newest_in_run(store.job, store.run, on_skipped=pytest.fail) is None


def test_the_newest_is_copied_once_and_alone(store):
    writer = store.writer()
    save(writer, 1, last=True)
    first = newest(store)
    checkpoints.verify(first)
    assert first.name == "step-1"
    made = part_of(first).stat().st_ino
    assert newest(store) == first
    assert part_of(first).stat().st_ino == made
    save(writer, 2, last=True)
    second = newest(store)
    assert [path.name for path in first.parent.glob("step-*")] == ["step-2"]
    assert checkpoints.read_manifest(second).step == 2
    part_of(second).write_bytes(b"rotten")
    assert newest(store) == second
    checkpoints.verify(second)


def test_another_checkpoint_of_the_same_step_is_copied_anew(store):
    writer = store.writer()
    save(writer, 1, last=True)
    before = read_bytes(newest(store) / "COMMITTED")
    save(writer, 1, last=True)
    assert read_bytes(newest(store) / "COMMITTED") != before


def flip(place):
    data = bytearray(read_bytes(place))
    data[len(data) // 2] ^= 1
    write_bytes(place, bytes(data))


def cut(place):
    write_bytes(place, read_bytes(place)[:-1])


def lose(place):
    place.fs.rm(place.path)


@pytest.mark.parametrize("damage", [flip, cut, lose])
@pytest.mark.parametrize("name", ["part", "manifest.json"])
def test_what_is_damaged_in_the_store_is_skipped_for_the_one_before(store, damage, name):
    writer = store.writer()
    save(writer, 1, last=True)
    save(writer, 2, last=True)
    place = damaged(store.place / "step-2", name)
    damage(place)
    assert newest(store).name == "step-1"
    (reason,) = skipped(store)
    assert f"step-2/{place.name}" in reason or "do not agree" in reason
    found = newest_in_run(store.job, store.run, lambda *told: None)
    assert found == store.run.checkpoints / "step-1"


def test_one_that_was_never_committed_does_not_exist(store):
    writer = store.writer()
    save(writer, 1, last=True)
    save(writer, 2, last=True)
    lose(store.place / "step-2/COMMITTED")
    assert newest(store).name == "step-1"
    assert not skipped(store)


def test_workers_take_what_the_first_has_found(store):
    writer = store.writer()
    save(writer, 1, last=True)
    save(writer, 2, last=True)
    flip(part_of(store.place / "step-2"))
    said = []
    assert newest(store, agree=lambda step: said.append(step) or step).name == "step-1"
    assert said == [1]
    assert newest(store, rank=1, agree=lambda step: 1).name == "step-1"
    assert newest(store, rank=1, agree=lambda step: None) is None
    assert len(skipped(store)) == 1
    with pytest.raises(checkpoints.CorruptCheckpointError):
        newest(store, rank=1, agree=lambda step: 2)


def fill(folder, parts=(0,), training=TRAINING):
    """Parts that begin at an element each, of the same thousand elements."""
    for rank, start in enumerate(parts):
        tensors = {f"weight/a@{start}": torch.zeros(1000 - start)}
        save_file(tensors, folder / f"part-0000{rank}.safetensors", {"a": "[1000]"})
    text = training if isinstance(training, str) else json.dumps(training)
    (folder / "training.json").write_text(text)


@pytest.fixture
def local(tmp_path):
    """A run whose checkpoints lie in a local folder."""
    run, job = make_run(tmp_path), small_job(tmp_path)
    place = checkpoints.checkpoint_place(run, job.checkpoint)
    return SimpleNamespace(run=run, job=job, place=place)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"parts": (0, 500)}, "begins before 1000"),
        ({"parts": ()}, "holds no state"),
        ({"training": {**TRAINING, "lightning": {}}}, "lightning.global_step"),
        ({"training": {}}, "learning_rates"),
        ({"training": {**TRAINING, "steps": {"$": "pairs"}}}, "is not what training writes"),
        ({"training": "["}, "is not valid JSON"),
        ({"training": "[" * 100_000}, "is not what training writes"),
    ],
)
def test_what_is_sound_but_cannot_be_loaded_is_skipped_for_the_one_before(local, content, reason):
    for step, written in ((1, {}), (2, content)):
        folder = checkpoints.prepare(local.place, step)
        fill(folder, **written)
        checkpoints.commit(folder)
    assert newest(local) == local.place / "step-1"
    (told,) = skipped(local)
    assert reason in told


def test_a_run_that_has_had_checkpoints_never_begins_anew(local):
    assert newest(local) is None
    EventLog(local.run.events, 1, 0).record("checkpoint", step=7)
    advice = rf"the last at step 7, but no sound one lies in {local.place}: mount or restore it"
    with pytest.raises(OSError, match=advice):
        newest(local)
    folder = checkpoints.prepare(local.place, 7)
    fill(folder, training={})
    checkpoints.commit(folder)
    with pytest.raises(OSError, match=advice):
        newest(local)


def test_in_a_local_folder_only_the_first_worker_reads_all(tmp_path):
    job = small_job(tmp_path, checkpoint={"storage": str(tmp_path / "disk")})
    run = make_run(tmp_path)
    place = checkpoints.checkpoint_place(run, job.checkpoint)
    folder = checkpoints.prepare(place, 4)
    fill(folder)
    checkpoints.commit(folder)
    events = EventLog(run.events, 1, 1)
    assert newest_checkpoint(job, run, events, agree=lambda step: 4) == place / "step-4"
    assert newest_checkpoint(job, run, EventLog(run.events, 1, 0)) == place / "step-4"
    linked = newest_in_run(job, run, on_skipped=pytest.fail)
    assert linked == run.checkpoints / "step-4"
    assert linked.resolve() == place / "step-4"
    assert newest_in_run(job, run, on_skipped=pytest.fail) == linked
    checkpoints.verify(linked)


def test_a_checkpoint_of_one_step_is_brought_to_its_run(store):
    writer = store.writer()
    for step in (1, 2):
        save(writer, step, last=True)
    assert checkpoint_in_run(store.job, store.run, 1) == store.run.checkpoints / "step-1"
    checkpoints.verify(store.run.checkpoints / "step-1")
    assert checkpoint_in_run(store.job, store.run, 3) is None


def test_another_run_may_start_from_what_lies_in_the_store(store):
    write_json(store.run.config, store.job.model_dump(mode="json"))
    writer = store.writer()
    for step in (1, 2):
        save(writer, step, last=True)
    newest_one = find_base(str(store.run.path), "elsewhere")
    assert newest_one.path == store.run.checkpoints / "step-2"
    assert newest_one.sha256 == read_bytes(store.place / "step-2/COMMITTED").decode()
    older = find_base(str(store.run.checkpoints / "step-1"), "elsewhere")
    assert (older.path.name, older.step) == ("step-1", 1)
    with pytest.raises(ValueError, match="no committed checkpoint step-9; there: step-1, step-2"):
        find_base(str(store.run.checkpoints / "step-9"), "elsewhere")
    part_of(store.run.checkpoints / "step-2").write_bytes(b"")
    with pytest.raises(ValueError, match="has 0 bytes instead of"):
        find_base(str(store.run.checkpoints / "step-2"), "elsewhere")


class Refusing(http.server.BaseHTTPRequestHandler):
    """A store that is there and answers every request with an error."""

    def answer(self):
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *_):
        pass


@pytest.fixture
def refused(monkeypatch):
    """From the moment that it is called, the store answers with that status."""
    servers = []

    def begin(status):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
        server.status = status
        servers.append(server)
        run = functools.partial(server.serve_forever, poll_interval=0.01)
        threading.Thread(target=run).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        s3fs.S3FileSystem.clear_instance_cache()

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()
    monkeypatch.undo()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("status", "reason"), [(503, "the store answers 503"), (403, "Permission denied")]
)
def test_a_store_that_refuses_is_survived(store, refused, status, reason, caplog):
    caplog.set_level(logging.CRITICAL)
    writer = store.writer()
    save(writer, 1)
    writer.wait()
    refused(status)
    away = store.writer()
    save(away, 2)
    away.wait()
    (event,) = read_events(store.run.events, "checkpoint_failed")
    assert event["step"] == 2
    assert reason in event["reason"]
    with pytest.raises(OSError, match=reason):
        newest(store)
    with pytest.raises(CheckpointFailedError, match=r"s3://checkpoints/runs/.*" + reason):
        save(away, 3, last=True)
