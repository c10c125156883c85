import hashlib
import json
import os

import pytest

from tap_platform.config.checkpoint import CheckpointConfig
from tap_platform.runs import checkpoint_manifest, checkpoints
from tap_platform.runs.checkpoint_manifest import OUTAGES, FileEntry
from tap_platform.runs.checkpoint_receipts import (
    PartMissingError,
    Receipt,
    put_receipt,
    wait_for_receipts,
)
from tap_platform.runs.checkpoint_scores import Scores
from tap_platform.runs.checkpoints import CorruptCheckpointError
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.metrics import MetricsWriter

PART = "part-00000.safetensors"


def write(place, step, *, commit=True):
    folder = checkpoints.prepare(place, step)
    (folder / PART).write_bytes(os.urandom(1000))
    (folder / "training.json").write_bytes(f"state of {step}".encode() * 100)
    if commit:
        checkpoints.commit(folder)
    return folder


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def grow(path):
    with path.open("ab") as file:
        file.write(b"\0")


def remove(path):
    path.unlink()


def latest(place):
    skipped = []
    found = checkpoints.latest(place, on_skipped=lambda path, why: skipped.append((path, why)))
    return found, skipped


def names(place):
    return sorted(path.name for path in place.iterdir())


def forge(folder, change):
    """Change the manifest as somebody would who knows how it is bound to its mark."""
    manifest = json.loads((folder / "manifest.json").read_text())
    text = change(manifest)
    text = text if isinstance(text, str) else json.dumps(manifest)
    (folder / "manifest.json").write_text(text)
    (folder / "COMMITTED").write_text(hashlib.sha256(text.encode()).hexdigest())


def test_the_newest_by_number_is_the_latest(tmp_path):
    for step in (9, 100, 20):
        write(tmp_path, step)
    assert latest(tmp_path) == (tmp_path / "step-100", [])
    assert [checkpoints.step_of(path) for path in checkpoints.committed(tmp_path)] == [9, 20, 100]


@pytest.mark.parametrize("name", ["step-x", "step-007", "step-", "step--1", "step-" + "9" * 200])
def test_other_folders_are_no_checkpoints(tmp_path, name):
    assert latest(tmp_path / "missing") == (None, [])
    (tmp_path / name).mkdir()
    (tmp_path / name / "COMMITTED").touch()
    assert latest(tmp_path) == (None, [])


def test_a_run_keeps_its_checkpoints_unless_told_where(tmp_path):
    run = RunDirectory(tmp_path / "runs/tap/mine")
    assert checkpoints.checkpoint_place(run, CheckpointConfig()) == run.checkpoints
    elsewhere = CheckpointConfig(storage=f"{tmp_path}/disk")
    assert checkpoints.checkpoint_place(run, elsewhere) == tmp_path / "disk/tap/mine"
    remote = CheckpointConfig(storage="memory://bucket/path")
    assert str(checkpoints.checkpoint_place(run, remote)) == "memory://bucket/path/tap/mine"


def test_the_manifest_lists_every_file(tmp_path):
    manifest = checkpoints.read_manifest(write(tmp_path, 1))
    assert list(manifest.files) == [PART, "training.json"]
    assert manifest.files[PART].size == 1000
    assert (manifest.step, manifest.world_size, manifest.size) == (1, 1, 2000)


@pytest.mark.parametrize("damage", [flip, truncate, grow, remove])
@pytest.mark.parametrize("name", [PART, "training.json", "manifest.json"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path, damage, name):
    before = write(tmp_path, 1)
    damaged = write(tmp_path, 2)
    damage(damaged / name)
    with pytest.raises(CorruptCheckpointError, match=r"step-2"):
        checkpoints.verify(damaged)
    found, ((path, reason),) = latest(tmp_path)
    assert (found, path) == (before, damaged)
    assert name in reason


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_mark_is_corrupt(tmp_path, damage):
    damage(write(tmp_path, 1) / "COMMITTED")
    found, ((_, reason),) = latest(tmp_path)
    assert found is None
    assert "COMMITTED" in reason


def rename_part(name):
    def change(manifest):
        manifest["files"][name] = manifest["files"].pop(PART)

    return change


def set_size(size):
    def change(manifest):
        manifest["files"][PART]["size"] = size

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (rename_part("../step-1/" + PART), "manifest.json is none"),
        (rename_part("/etc/passwd"), "manifest.json is none"),
        (rename_part("s3://bucket/part"), "manifest.json is none"),
        (rename_part(".."), "manifest.json is none"),
        (rename_part("a" * 5000), "manifest.json is none"),
        (set_size(-1), "manifest.json is none"),
        (set_size(10**18), "has 1000 bytes instead of 1000000000000000000"),
        (set_size("much"), "manifest.json is none"),
        (lambda manifest: manifest["files"][PART].update(sha256="../x"), "manifest.json is none"),
        (lambda manifest: manifest.pop("files"), "files"),
        (lambda manifest: "no JSON", "Invalid JSON"),
        (lambda manifest: "[" * 100_000, "manifest.json is none"),
        (lambda manifest: "null", "manifest.json is none"),
        (lambda manifest: manifest.update(step=1), "step-2 holds a checkpoint of step 1"),
    ],
)
def test_a_forged_manifest_is_refused(tmp_path, change, reason):
    before = write(tmp_path, 1)
    forge(write(tmp_path, 2), change)
    found, ((_, told),) = latest(tmp_path)
    assert found == before
    assert reason in told
    assert len(told) < 1000


def test_a_manifest_that_is_a_flood_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("tap_platform.runs.checkpoint_manifest.LONGEST_MANIFEST", 1000)
    forge(write(tmp_path, 2), lambda manifest: "x" * 2000)
    assert "do not agree" in latest(tmp_path)[1][0][1]


def test_a_part_that_is_no_file_is_corrupt(tmp_path):
    folder = write(tmp_path, 1)
    (folder / PART).unlink()
    (folder / PART).mkdir()
    assert latest(tmp_path)[0] is None


def test_files_beside_those_of_the_manifest_are_nobodys(tmp_path):
    folder = write(tmp_path, 1)
    (folder / "part-00001.safetensors").touch()
    assert latest(tmp_path) == (folder, [])


def test_what_was_not_committed_does_not_exist(tmp_path):
    before = write(tmp_path, 1)
    torn = write(tmp_path, 2, commit=False)
    assert latest(tmp_path) == (before, [])
    with pytest.raises(CorruptCheckpointError, match="not committed"):
        checkpoints.verify(torn)


def test_a_manifest_without_the_mark_does_not_exist(tmp_path):
    (write(tmp_path, 1) / "COMMITTED").unlink()
    assert latest(tmp_path) == (None, [])


def test_a_commit_leaves_nothing_of_an_earlier_attempt(tmp_path):
    folder = write(tmp_path, 1, commit=False)
    (folder / "part-00007.safetensors").touch()
    files = {PART: FileEntry.of(folder / PART)}
    checkpoints.commit(folder, files, world_size=1)
    assert names(folder) == ["COMMITTED", "manifest.json", PART]
    checkpoints.verify(folder)


def test_the_mark_of_an_earlier_attempt_goes_before_anything_changes(tmp_path, monkeypatch):
    folder = write(tmp_path, 1)

    def killed(place, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.commit(folder)
    assert latest(tmp_path) == (None, [])


def test_prune_keeps_the_newest_and_what_is_being_written(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2, commit=False)
    for step in (3, 4, 5):
        write(tmp_path, step)
    write(tmp_path, 6, commit=False)
    checkpoints.prune(tmp_path, keep_last=2)
    assert names(tmp_path) == ["step-4", "step-5", "step-6"]


def test_prune_does_not_count_what_is_later_than_the_newest(tmp_path):
    for step in (10, 15, 20):
        write(tmp_path, step)
    checkpoints.prune(tmp_path, keep_last=1, newest=15)
    assert names(tmp_path) == ["step-15", "step-20"]


def test_prune_does_not_count_what_was_abandoned(tmp_path):
    for step in (10, 20, 25):
        write(tmp_path, step)
    checkpoints.prune(
        tmp_path, keep_last=2, keep_every=20, newest=25, abandoned=lambda step: step == 20
    )
    assert names(tmp_path) == ["step-10", "step-25"]


@pytest.mark.parametrize("number", sorted(OUTAGES))
@pytest.mark.parametrize("reader", ["read_range", "size_of", "read_blocks"])
def test_a_mounted_store_that_is_down_makes_nothing_corrupt(tmp_path, monkeypatch, number, reader):
    folder = write(tmp_path, 1)

    def down(*args):
        raise OSError(number, os.strerror(number), str(folder))

    monkeypatch.setattr(checkpoint_manifest, reader, down)
    with pytest.raises(OSError, match=os.strerror(number)):
        checkpoints.verify(folder)


def test_prune_keeps_every_so_many_steps(tmp_path):
    for step in (10, 15, 20, 25, 30, 35):
        write(tmp_path, step)
    checkpoints.prune(tmp_path, keep_last=1, keep_every=20)
    assert names(tmp_path) == ["step-20", "step-35"]


def test_prune_keeps_the_best_by_the_last_score_before_them(tmp_path):
    for step in (10, 20, 30, 40, 50):
        write(tmp_path, step)
    scores = {15: 0.9, 25: 0.5, 38: 0.7, 45: 0.1, 60: 1.0}
    checkpoints.prune(tmp_path, keep_last=1, keep_best=2, scores=scores)
    assert names(tmp_path) == ["step-20", "step-40", "step-50"]


def test_of_equals_the_newest_is_best(tmp_path):
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
    checkpoints.prune(tmp_path, keep_last=1, keep_best=1, scores={1: 0.5, 4: 0.1})
    assert names(tmp_path) == ["step-3", "step-4"]


def test_scores_are_read_from_the_metrics(tmp_path):
    metrics = MetricsWriter(tmp_path / "metrics.jsonl")
    for step, value in ((2, 0.3), (4, float("nan")), (6, 0.5)):
        metrics.write(step, {"box_iou": value, "loss": 1}, kind="val")
        metrics.write(step, {"loss": 2 * value})
    assert Scores(metrics.path, "val/box_iou", "highest").newest() == {2: 0.3, 6: 0.5}
    assert Scores(metrics.path, "train/loss", "lowest").newest() == {2: -0.6, 6: -1.0}
    assert Scores(metrics.path, "val/none", "lowest").newest() == {}


def test_scores_go_on_from_where_they_were_read_to(tmp_path):
    path = tmp_path / "metrics.jsonl"
    scores = Scores(path, "val/box_iou", "highest")
    assert scores.newest() == {}
    MetricsWriter(path).write(2, {"box_iou": 0.3}, kind="val")
    MetricsWriter(path).write(4, {"box_iou": 0.4}, kind="val")
    MetricsWriter(path).write(4, {"mask_iou": 0.9}, kind="val")
    assert scores.newest() == {2: 0.3, 4: 0.4}
    path.write_bytes(b" " * path.stat().st_size)
    MetricsWriter(path, attempt=2).write(4, {"mask_iou": 0.9}, kind="val")
    MetricsWriter(path, attempt=2).write(6, {"box_iou": 0.6}, kind="val")
    assert scores.newest() == {2: 0.3, 6: 0.6}


def test_prune_before_the_first_commit_touches_nothing(tmp_path):
    write(tmp_path, 1, commit=False)
    checkpoints.prune(tmp_path, keep_last=1)
    assert (tmp_path / "step-1").is_dir()


def test_a_sweep_takes_what_was_never_committed_but_for_what_is_written_or_later(tmp_path):
    write(tmp_path, 1)
    for step in (2, 3, 4):
        write(tmp_path, step, commit=False)
    checkpoints.sweep(tmp_path, writing=3)
    assert names(tmp_path) == ["step-1", "step-3", "step-4"]


def test_pruning_that_is_killed_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    write(tmp_path, 1)
    newest = write(tmp_path, 2)
    take_away = checkpoints.remove_tree

    def killed(place):
        if place.name.startswith("step-"):
            raise KeyboardInterrupt
        take_away(place)

    monkeypatch.setattr(checkpoints, "remove_tree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.prune(tmp_path, keep_last=1)
    assert checkpoints.committed(tmp_path) == [newest]


def test_a_fetched_checkpoint_is_the_same_and_has_nothing_else(tmp_path):
    folder = write(tmp_path / "there", 3)
    (folder / "stray").touch()
    copy = tmp_path / "step-3"
    checkpoints.fetch(folder, copy)
    assert names(copy) == ["COMMITTED", "manifest.json", PART, "training.json"]
    checkpoints.verify(copy)
    assert (copy / PART).read_bytes() == (folder / PART).read_bytes()


@pytest.mark.parametrize("damage", [flip, truncate, grow, remove])
def test_what_is_damaged_is_not_fetched(tmp_path, damage):
    folder = write(tmp_path / "there", 3)
    damage(folder / PART)
    (tmp_path / "here").mkdir()
    with pytest.raises(CorruptCheckpointError, match=PART):
        checkpoints.fetch(folder, tmp_path / "here/step-3")
    assert names(tmp_path / "here") == []


def test_what_has_no_room_is_not_fetched(tmp_path, monkeypatch):
    folder = write(tmp_path / "there", 3)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(ValueError, match=r"does not fit in .*here.*TAP_CACHE"):
        checkpoints.fetch(folder, tmp_path / "here/step-3")


ENTRY = FileEntry(size=1, sha256="0" * 64)


def test_receipts_of_this_write_are_gathered(tmp_path):
    for rank in (1, 2):
        put_receipt(tmp_path, rank, Receipt(write="now", files={f"part-{rank}": ENTRY}))
    files = wait_for_receipts(tmp_path, "now", range(1, 3), patience=0)
    assert files == {"part-1": ENTRY, "part-2": ENTRY}


def test_receipts_of_another_write_or_torn_ones_are_none(tmp_path):
    put_receipt(tmp_path, 1, Receipt(write="now", files={"part-1": ENTRY}))
    put_receipt(tmp_path, 2, Receipt(write="before", files={"part-2": ENTRY}))
    put_receipt(tmp_path, 3, Receipt(write="now"))
    for path in tmp_path.glob("receipt-00003-*"):
        path.write_text("{")
    with pytest.raises(PartMissingError, match="no word of worker 2, 3, 4 within 0 s"):
        wait_for_receipts(tmp_path, "now", range(1, 5), patience=0)


def test_a_worker_that_failed_is_not_waited_for(tmp_path):
    put_receipt(tmp_path, 2, Receipt(write="now", failure="No space left on device"))
    with pytest.raises(PartMissingError, match="worker 2: No space left on device"):
        wait_for_receipts(tmp_path, "now", range(1, 3), patience=1000)
