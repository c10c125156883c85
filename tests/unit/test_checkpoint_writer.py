"""Checkpoints on a disk: written in the background, by several workers, and when all goes wrong."""

import json
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import load_file

from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.runs import checkpoints
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.metrics import MetricsWriter, read_metrics
from tap_platform.training import checkpoint_writer
from tap_platform.training.checkpoint_writer import CheckpointFailedError, CheckpointWriter
from tap_platform.training.staging import HostBuffers

DOCUMENTS = {"training.json": {"step": 3, "lr": 0.1, "loss": 1e-310}}


@pytest.fixture
def make_writer(tmp_path, monkeypatch):
    """A worker's writer; all of one test are of one run, and of one group."""
    monkeypatch.setattr(checkpoint_writer, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(checkpoint_writer, "PATIENCE_SECONDS", 5.0)
    made = []

    def make(rank=0, world_size=1, place=tmp_path / "run/tap/checkpoints", **config):
        (tmp_path / "run").mkdir(exist_ok=True)
        events = EventLog(tmp_path / "run/events.jsonl", attempt=1, rank=rank)
        metrics = MetricsWriter(tmp_path / "run/metrics.jsonl")
        config = CheckpointConfig(**config)
        writer = CheckpointWriter(place, rank, world_size, events, metrics, config)
        writer.group = "these workers"
        made.append(writer)
        return writer

    yield make
    for writer in made:
        writer.close()


def tensors(value=1.0, size=1000):
    return {
        "weight/a@0": torch.full((size,), value),
        "exp_avg/a@0": torch.arange(size).float(),
        "buffer/count@0": torch.tensor([value]).to(torch.int64),
        "weight/b@0": torch.full((3,), value, dtype=torch.bfloat16),
    }


def save(writer, step, value=1.0, last=False):
    writer.save(step, tensors(value), {"shapes": "{}"}, DOCUMENTS, last)


def steps(writer):
    return [checkpoints.step_of(folder) for folder in checkpoints.committed(writer.place)]


def part_of(folder, rank=0):
    (path,) = folder.glob(f"part-0000{rank}-*.safetensors")
    return path


def events_of(writer, kind=None):
    return read_events(writer.events.path, kind)


@pytest.fixture
def gate(monkeypatch):
    """What is written waits until the gate is opened."""
    opened, write = threading.Event(), checkpoint_writer.write_files

    def write_later(*args):
        assert opened.wait(10)
        return write(*args)

    monkeypatch.setattr(checkpoint_writer, "write_files", write_later)
    yield opened
    opened.set()


def test_a_checkpoint_comes_back_as_it_was_saved(make_writer):
    writer = make_writer()
    save(writer, 3)
    writer.wait()
    folder = writer.place / "step-3"
    checkpoints.verify(folder)
    read = load_file(part_of(folder))
    assert read.keys() == tensors().keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors().items())
    assert json.loads((folder / "training.json").read_text()) == DOCUMENTS["training.json"]
    (event,) = events_of(writer)
    assert (event["kind"], event["step"]) == ("checkpoint", 3)
    assert 0 <= event["stall_seconds"] <= event["seconds"]
    assert event["bytes"] == checkpoints.read_manifest(folder).size


def test_training_goes_on_while_a_checkpoint_is_written(make_writer, gate):
    writer, state = make_writer(), tensors(1.0)
    writer.save(1, state, {}, DOCUMENTS, last=False)
    for tensor in state.values():
        tensor.zero_()
    assert writer.busy
    assert steps(writer) == []
    gate.set()
    writer.wait()
    assert not writer.busy
    assert (writer.committed_step, steps(writer)) == (1, [1])
    read = load_file(part_of(writer.place / "step-1"))
    assert torch.equal(read["weight/a@0"], torch.ones(1000))


def test_the_memory_is_taken_once(make_writer):
    writer = make_writer()
    save(writer, 1)
    writer.wait()
    first = {name: tensor.data_ptr() for name, tensor in writer._buffers._buffers.items()}
    save(writer, 2, value=2.0)
    writer.wait()
    assert first == {name: tensor.data_ptr() for name, tensor in writer._buffers._buffers.items()}
    read = load_file(part_of(writer.place / "step-2"))
    assert torch.equal(read["weight/a@0"], torch.full((1000,), 2.0))
    writer.save(3, {"weight/a@0": torch.zeros(7)}, {}, {}, last=True)
    assert load_file(part_of(writer.place / "step-3"))["weight/a@0"].shape == (7,)


@pytest.mark.parametrize(("background", "last"), [(False, False), (True, True)])
def test_without_background_and_at_the_end_a_checkpoint_exists_at_once(
    make_writer, background, last
):
    writer = make_writer(background=background)
    save(writer, 5, last=last)
    assert not writer.busy
    assert steps(writer) == [5]
    (event,) = events_of(writer, "checkpoint")
    assert event["stall_seconds"] == event["seconds"]


def test_the_last_one_waits_for_the_one_under_way(make_writer, gate):
    writer = make_writer()
    save(writer, 1)
    threading.Timer(0.05, gate.set).start()
    save(writer, 2, last=True)
    assert steps(writer) == [1, 2]


def test_the_stall_is_counted_from_when_training_stopped(make_writer):
    writer = make_writer()
    writer.paused_since = checkpoint_writer.time.monotonic() - 100
    save(writer, 1)
    save(writer, 2, last=True)
    first, second = events_of(writer, "checkpoint")
    assert first["stall_seconds"] >= 100
    assert second["stall_seconds"] < 50


def test_all_workers_write_their_part_and_the_first_commits(make_writer):
    writers = [make_writer(rank, 3) for rank in range(3)]
    for rank in (1, 2):
        save(writers[rank], 4, value=rank)
        writers[rank].wait()
        assert steps(writers[0]) == []
    save(writers[0], 4, value=0)
    writers[0].wait()
    manifest = checkpoints.read_manifest(writers[0].place / "step-4")
    parts = [part_of(writers[0].place / "step-4", rank).name for rank in range(3)]
    assert sorted(manifest.files) == [*parts, "training.json"]
    assert manifest.world_size == 3
    folder = writers[0].place / "step-4"
    assert sorted(path.name for path in folder.iterdir()) == [
        "COMMITTED",
        "manifest.json",
        *parts,
        "training.json",
    ]
    for rank, part in enumerate(parts):
        assert load_file(folder / part)["weight/a@0"][0] == rank
    assert [event["rank"] for event in events_of(writers[0])] == [0]


def test_the_first_worker_waits_for_the_others(make_writer):
    first, second = make_writer(0, 2), make_writer(1, 2)
    save(first, 4)
    assert first.busy
    save(second, 4)
    second.wait()
    first.wait()
    assert steps(first) == [4]


def test_what_other_workers_left_of_an_attempt_is_no_part_of_the_next(make_writer):
    before = [make_writer(rank, 4) for rank in range(4)]
    for writer in before[1:]:
        writer.group = "workers before"
        save(writer, 4, value=9.0)
        writer.wait()
    first, second = make_writer(0, 2), make_writer(1, 2)
    save(first, 4)
    first._thread.join(0.2)
    assert first.busy, "the receipt of another write must not be taken"
    save(second, 4, value=2.0)
    first.wait()
    manifest = checkpoints.read_manifest(first.place / "step-4")
    parts = [name for name in manifest.files if name.startswith("part")]
    assert [name[:10] for name in parts] == ["part-00000", "part-00001"]
    assert len(list((first.place / "step-4").glob("part-*"))) == 2
    checkpoints.verify(first.place / "step-4")


def test_a_worker_that_died_is_given_up(make_writer, monkeypatch):
    monkeypatch.setattr(checkpoint_writer, "PATIENCE_SECONDS", 0.1)
    writer = make_writer(0, 2)
    save(writer, 4)
    writer.wait()
    assert steps(writer) == []
    (event,) = events_of(writer)
    assert (event["kind"], event["step"]) == ("checkpoint_failed", 4)
    assert event["reason"] == "no word of worker 1 within 0.1 s"


def full(*args, **named):
    raise OSError(28, "No space left on device", "/somewhere")


def test_a_failure_is_told_once_counted_and_survived(make_writer, monkeypatch):
    writers = [make_writer(rank, 2) for rank in range(2)]
    for writer in writers[::-1]:
        save(writer, 1)
        writer.wait()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_writer, "write_files", full)
        save(writers[1], 2)
        writers[1].wait()
    save(writers[0], 2)
    writers[0].wait()
    assert steps(writers[0]) == [1]
    (event,) = events_of(writers[0], "checkpoint_failed")
    assert (event["rank"], event["step"]) == (0, 2)
    assert event["reason"] == "worker 1: No space left on device"
    (record,) = read_metrics(writers[0].metrics.path)
    assert record.named_values == {"checkpoint/failed": 1}
    for writer in writers[::-1]:
        save(writer, 3)
        writer.wait()
    assert steps(writers[0]) == [1, 3]
    assert not (writers[0].place / "step-2").exists()


def test_failures_are_counted_on_after_a_restart(make_writer, monkeypatch):
    monkeypatch.setattr(checkpoint_writer, "write_files", full)
    for attempt in (1, 2):
        writer = make_writer()
        save(writer, attempt)
        writer.wait()
    assert [r.values for r in read_metrics(writer.metrics.path)] == [{"failed": 1}, {"failed": 2}]


def test_the_last_one_is_tried_again(make_writer, monkeypatch):
    write, faults = checkpoint_writer.write_files, [1, 2, 3]

    def write_at_last(*args):
        return full() if faults and faults.pop() else write(*args)

    monkeypatch.setattr(checkpoint_writer, "write_files", write_at_last)
    writer = make_writer()
    save(writer, 1, last=True)
    assert steps(writer) == [1]
    assert not events_of(writer, "checkpoint_failed")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_whose_last_one_cannot_be_written_fails_and_says_why(make_writer, monkeypatch, rank):
    monkeypatch.setattr(checkpoint_writer, "write_files", full)
    writer = make_writer(rank, 2)
    with pytest.raises(CheckpointFailedError) as told:
        save(writer, 7, last=True)
    assert str(told.value).startswith(
        f"the last checkpoint, of step 7, cannot be written to {writer.place}: No space left"
    )
    assert "resume the run" in str(told.value)


def test_a_fault_of_any_other_kind_is_a_failure_too(make_writer, monkeypatch):
    def broken(*args):
        raise AssertionError

    writer = make_writer()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_writer.Scores, "newest", broken)
        patch.setattr(checkpoints, "prune", broken)
        save(writer, 1)
        writer.wait()
    assert steps(writer) == [1]
    monkeypatch.setattr(checkpoints, "commit", broken)
    with pytest.raises(CheckpointFailedError, match="AssertionError"):
        save(writer, 2, last=True)
    assert [event["step"] for event in events_of(writer, "checkpoint_failed")] == [2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_copies_to_pinned_memory():
    buffers, state = HostBuffers(), {"a": torch.arange(1000.0, device="cuda")}
    first = buffers.copy(state)["a"]
    assert first.is_pinned()
    state["a"].add_(1)
    assert torch.equal(first, torch.arange(1000.0))
    assert buffers.copy(state)["a"].data_ptr() == first.data_ptr()
    assert torch.equal(first, torch.arange(1000.0) + 1)


def test_a_folder_that_nobody_may_write_to(make_writer, tmp_path):
    (tmp_path / "file").touch()
    writer = make_writer(place=tmp_path / "file/checkpoints")
    save(writer, 1)
    writer.wait()
    assert events_of(writer)[0]["reason"] == "Not a directory"


def test_old_ones_go_and_the_best_stay(make_writer):
    writer = make_writer(keep_last=1, keep_best=1, keep_every=5)
    for step in range(1, 9):
        writer.metrics.write(step, {"box_iou": {2: 0.9}.get(step, 0.1)}, kind="val")
        save(writer, step)
    writer.wait()
    assert steps(writer) == [2, 5, 8]


def test_old_ones_that_cannot_be_deleted_spoil_nothing(make_writer, monkeypatch):
    monkeypatch.setattr(checkpoints, "prune", full)
    writer = make_writer()
    save(writer, 1, last=True)
    assert steps(writer) == [1]
    assert not events_of(writer, "checkpoint_failed")


def test_a_run_that_went_back_keeps_what_it_writes_and_loses_what_it_abandoned(make_writer):
    earlier = make_writer(keep_last=2)
    for step in (10, 20, 30):
        save(earlier, step, last=True)
    writer = make_writer(keep_last=1)
    writer.begin("after it", 10)
    save(writer, 15, last=True)
    assert steps(writer) == [15, 20, 30]
    checkpoints.verify(writer.place / "step-15")
    save(writer, 25, last=True)
    assert steps(writer) == [25, 30]


def test_what_was_abandoned_takes_no_place_of_what_stays(make_writer):
    earlier = make_writer(keep_last=2)
    for step in (10, 20):
        save(earlier, step, last=True)
    writer = make_writer(keep_last=2)
    writer.begin("after it", 10)
    save(writer, 25, last=True)
    assert steps(writer) == [10, 25]


def test_what_an_earlier_start_is_late_with_changes_nothing(make_writer):
    earlier, late = make_writer(0, 2), make_writer(1, 2)
    for writer in (earlier, late):
        writer.begin("before", 0)
    now = [make_writer(rank, 2) for rank in range(2)]
    for writer in now[::-1]:
        writer.begin("now", 0)
        save(writer, 4, value=1.0)
        writer.wait()
    before = (now[0].place / "step-4/COMMITTED").read_bytes()
    save(late, 4, value=2.0)
    late.wait()
    save(earlier, 4, value=2.0)
    earlier.wait()
    (event,) = events_of(earlier, "checkpoint_failed")
    assert event["reason"] == "a later start of the run writes its checkpoints now"
    assert (now[0].place / "step-4/COMMITTED").read_bytes() == before
    checkpoints.verify(now[0].place / "step-4")
    assert len(list((now[0].place / "step-4").glob("part-00001-*"))) == 2


def test_a_late_receipt_hides_none_of_the_write_under_way(make_writer):
    first, second, late = make_writer(0, 2), make_writer(1, 2), make_writer(1, 2)
    late.group = "before"
    for writer in (second, late):
        save(writer, 4)
        writer.wait()
    save(first, 4)
    first.wait()
    assert steps(first) == [4]


def test_a_place_that_cannot_be_taken_at_once_is_taken_later(make_writer, tmp_path):
    (tmp_path / "file").touch()
    writer = make_writer(place=tmp_path / "file/checkpoints")
    writer.begin("these", 0)
    (tmp_path / "file").unlink()
    save(writer, 1, last=True)
    assert (writer.place / ".writer").read_bytes() == b"these"


def test_urgent_ones_have_more_tries_and_others_are_waited_for_as_often(make_writer, monkeypatch):
    write, faults = checkpoint_writer.write_files, [1, 2]

    def write_at_last(*args):
        return full() if faults and faults.pop() else write(*args)

    monkeypatch.setattr(checkpoint_writer, "write_files", write_at_last)
    writer = make_writer()
    writer.tries = 3
    save(writer, 1)
    writer.wait()
    assert (steps(writer), writer.tries) == ([1], 1)
    monkeypatch.setattr(checkpoint_writer, "PATIENCE_SECONDS", 0.05)
    writer = make_writer(0, 2)
    writer.tries = 3
    save(writer, 2)
    writer.wait()
    assert events_of(writer)[-1]["reason"] == "no word of worker 1 within 0.15 s"


def test_what_cannot_be_told_is_committed_all_the_same(make_writer, monkeypatch, caplog):
    writer = make_writer(keep_last=1)
    monkeypatch.setattr(writer.events, "record", full)
    for step in (1, 2):
        save(writer, step, last=True)
    assert (steps(writer), writer.committed_step) == ([2], 2)
    assert "the checkpoint of step 2 exists, but is not told: No space left" in caplog.text
    monkeypatch.setattr(checkpoint_writer, "write_files", full)
    save(writer, 3)
    writer.wait()
    assert "this is not told: No space left" in caplog.text


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.runs.events import EventLog
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.training import checkpoint_writer

run = Path(sys.argv[1])
events, metrics = EventLog(run / "events.jsonl", 1, 0), MetricsWriter(run / "metrics.jsonl")
writer = checkpoint_writer.CheckpointWriter(
    run / "checkpoints", 0, 1, events, metrics, CheckpointConfig()
)

def save(step):
    writer.save(step, {"a": torch.full((100_000,), float(step))}, {}, {"training.json": {}}, False)
    writer.wait()

save(1)
roomy = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in (100_000, 10):  # room for records alone, then for nothing
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, roomy[1]))
    save(2)
    metrics.write(2, {"loss": limit})
    events.record("tick", limit=limit)
resource.setrlimit(resource.RLIMIT_FSIZE, roomy)
save(3)
metrics.write(3, {"loss": 3})
"""


def test_a_full_disk_is_survived_and_what_happened_is_told_later(tmp_path):
    """A limit on the size of files stands for a disk that is full, of the kernel's own making."""
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    kinds = [event["kind"] for event in read_events(tmp_path / "events.jsonl")]
    assert kinds == ["checkpoint", *["checkpoint_failed", "tick"] * 2, "checkpoint"]
    reasons = {e["reason"] for e in read_events(tmp_path / "events.jsonl", "checkpoint_failed")}
    assert reasons == {"File too large"}
    records = [(r.step, r.kind, r.values) for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert records == [
        (2, "checkpoint", {"failed": 2}),
        (2, "train", {"loss": 10}),
        (3, "train", {"loss": 3}),
    ]
    assert "records wait in memory" in ended.stderr
    kept = checkpoints.committed(tmp_path / "checkpoints")
    assert [checkpoints.step_of(folder) for folder in kept] == [1, 3]
    for folder in kept:
        checkpoints.verify(folder)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        ".writer",
        "step-1",
        "step-3",
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.runs import checkpoints
from tap_platform.runs.events import EventLog
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.training import checkpoint_parts
from tap_platform.training.checkpoint_writer import CheckpointWriter

MODULES = {"checkpoints": checkpoints, "parts": checkpoint_parts}

def train(run, where):
    run.mkdir()
    events, metrics = EventLog(run / "events"), MetricsWriter(run / "metrics")
    config = CheckpointConfig(keep_last=1)
    writer = CheckpointWriter(run / "checkpoints", 0, 1, events, metrics, config)
    writer.save(1, {"a": torch.ones(1000)}, {}, {"training.json": {}}, True)
    module, name = where.split("-")
    setattr(MODULES[module], name, lambda *args, **named: os.kill(os.getpid(), signal.SIGKILL))
    writer.save(2, {"a": torch.ones(1000)}, {}, {"training.json": {}}, True)

for where in sys.argv[2:]:
    child = os.fork()
    if not child:
        train(Path(sys.argv[1]) / where, where)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


def test_a_kill_at_any_moment_leaves_a_sound_checkpoint(tmp_path):
    moments = ["parts-save_file", "parts-flush_to_disk", "checkpoints-_write", "checkpoints-prune"]
    subprocess.run([sys.executable, "-c", KILLED, tmp_path, *moments], check=True)
    found = [
        checkpoints.latest(tmp_path / moment / "checkpoints", on_skipped=pytest.fail).name
        for moment in moments
    ]
    assert found == ["step-1", "step-1", "step-1", "step-2"]
