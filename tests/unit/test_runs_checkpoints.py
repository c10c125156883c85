from __future__ import annotations

import json
import os

import pytest

from tap_platform.runs import checkpoints
from tap_platform.runs.checkpoints import CorruptCheckpointError


def write(folder, step, *, commit=True):
    checkpoint = checkpoints.prepare(folder, step)
    (checkpoint / "model.safetensors").write_bytes(os.urandom(1000))
    (checkpoint / "shards").mkdir()
    (checkpoint / "shards" / "rank-0.bin").write_bytes(f"state of {step}".encode() * 100)
    if commit:
        checkpoints.commit(checkpoint)
    return checkpoint


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


def latest(folder):
    skipped = []
    found = checkpoints.latest(folder, on_skipped=lambda path, why: skipped.append((path, why)))
    return found, skipped


def test_the_newest_by_number_is_the_latest(tmp_path):
    for step in (9, 100, 20):
        write(tmp_path, step)
    assert latest(tmp_path) == (tmp_path / "step-100", [])
    assert [checkpoints.step_of(path) for path in checkpoints.committed(tmp_path)] == [9, 20, 100]


def test_without_checkpoints_there_is_no_latest(tmp_path):
    assert latest(tmp_path / "missing") == (None, [])
    (tmp_path / "step-x").mkdir()
    assert latest(tmp_path) == (None, [])


def test_the_manifest_lists_every_file(tmp_path):
    manifest = json.loads((write(tmp_path, 1) / "manifest.json").read_text())
    assert list(manifest["files"]) == ["model.safetensors", "shards/rank-0.bin"]
    assert manifest["files"]["model.safetensors"]["size"] == 1000


@pytest.mark.parametrize("damage", [flip, truncate, grow, remove])
@pytest.mark.parametrize("name", ["model.safetensors", "shards/rank-0.bin", "manifest.json"])
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


def test_what_was_not_committed_does_not_exist(tmp_path):
    before = write(tmp_path, 1)
    torn = write(tmp_path, 2, commit=False)
    assert latest(tmp_path) == (before, [])
    with pytest.raises(CorruptCheckpointError, match="not committed"):
        checkpoints.verify(torn)


def test_a_manifest_without_the_mark_does_not_exist(tmp_path):
    (write(tmp_path, 1) / "COMMITTED").unlink()
    assert latest(tmp_path) == (None, [])


def test_prepare_leaves_nothing_of_an_earlier_attempt(tmp_path):
    stale = write(tmp_path, 1, commit=False) / "rank-7.bin"
    stale.touch()
    assert list(checkpoints.prepare(tmp_path, 1).iterdir()) == []
    checkpoints.verify(write(tmp_path, 1))


def test_prune_keeps_the_newest_and_what_is_being_written(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2, commit=False)
    for step in (3, 4, 5):
        write(tmp_path, step)
    write(tmp_path, 6, commit=False)
    checkpoints.prune(tmp_path, keep_last=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-4", "step-5", "step-6"]


def test_prune_before_the_first_commit_touches_nothing(tmp_path):
    write(tmp_path, 1, commit=False)
    checkpoints.prune(tmp_path, keep_last=1)
    assert (tmp_path / "step-1").is_dir()


def test_pruning_that_is_killed_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    write(tmp_path, 1)
    newest = write(tmp_path, 2)

    def killed(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.prune(tmp_path, keep_last=1)
    assert checkpoints.committed(tmp_path) == [newest]
