"""What was read, and what of it was bad: in the metrics, in checkpoints, and listed for people."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from small_runs import events_of, make_run, small_job, train_here, write_folder

from datamodules.shards.index import DataIndex
from datamodules.stream.quarantine import SampleCounts
from tap_platform.runs import checkpoints
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import read_json
from tap_platform.training.callbacks.sample_counts import CountSamples
from tap_platform.training.sliced_checkpoints import TRAINING_NAME

EPOCH = 6
"""Steps of 4 samples."""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """26 samples, 24 of them in an epoch; the pictures of one shard's first three are broken."""
    folder = write_folder(tmp_path_factory.mktemp("data"))
    index = DataIndex.load(folder / "train")
    content = bytearray(index.path(1).read_bytes())
    for number in range(3):
        offset, size = index.members(1, number).image
        content[offset + 2 : offset + size] = bytes(size - 2)
    index.path(1).write_bytes(content)
    return folder


def job_of(folder, steps, **changes):
    training = {"max_steps": steps, "micro_batch": 2}
    return small_job(folder, training=training, data={"shuffle_window": 1}, **changes)


def test_counts_are_recorded_and_go_on_after_a_kill(damaged, tmp_path, monkeypatch):
    checkpoint = {"checkpoint": {"every_steps": 3}}
    run = make_run(tmp_path)
    whole = train_here(job_of(damaged, 2 * EPOCH, **checkpoint), run, monkeypatch)
    assert [values["samples_seen"] for values in whole.values()] == list(range(4, 49, 4))
    bad = [values["samples_quarantined"] for values in whole.values()]
    assert bad == sorted(bad)
    assert 2 <= bad[-1] <= 6
    assert whole[12]["regions_dropped"] == 0
    killed = make_run(tmp_path, "killed")
    train_here(job_of(damaged, 5, **checkpoint), killed, monkeypatch)
    folder = killed.checkpoints / "step-3"
    assert folder in checkpoints.committed(killed.checkpoints)
    state = read_json(folder / TRAINING_NAME)["lightning"]
    assert state["sample_counts"]["samples_seen"] == 12
    again = train_here(
        job_of(damaged, 2 * EPOCH, **checkpoint), killed, monkeypatch, folder, start_step=3
    )
    names = SampleCounts._fields
    assert {s: [v[n] for n in names] for s, v in again.items()} == {
        s: [v[n] for n in names] for s, v in whole.items()
    }


def test_workers_are_added_up():
    logged = []
    module = SimpleNamespace(device="cpu", log_dict=logged.append)
    strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: 3 * tensor)
    trainer = SimpleNamespace(global_step=0, strategy=strategy)
    callback = CountSamples(log_every=2)
    callback.on_train_start(trainer, module)
    batch = SimpleNamespace(counts=SampleCounts(5, 2, 1, 4))
    for step in (0, 1, 1, 2, 2, 3):  # the first micro-batch of a step comes at the step before
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, batch, 0)
    assert logged == [SampleCounts(60, 24, 12, 48)._asdict()]
    state = {}
    callback.on_save_checkpoint(trainer, module, state)
    assert state == {"sample_counts": SampleCounts(90, 36, 18, 72)._asdict()}


@pytest.fixture
def listed(tap):
    """What `tap data quarantine` prints."""

    def run(*arguments):
        status, output, errors = tap("data", "quarantine", *arguments)
        assert status == 0, errors
        return output

    return run


def test_what_a_run_has_met_is_listed_once_with_the_attempts(
    damaged, tmp_path, monkeypatch, listed
):
    run = make_run(tmp_path)
    for _ in range(2):
        train_here(job_of(damaged, 2 * EPOCH), run, monkeypatch)
    later = EventLog(run.events, attempt=2)
    later.record("quarantined", split="val", shard="s.tar", key="k", reason="cut at byte 17")
    later.record("quarantined", split="val", shard="s.tar", key="k", reason="cut at byte 17")
    later.record("quarantined", split="val", shard="s.tar", key="l", reason="cut at byte 4")
    found = json.loads(listed(run.path, "--json"))
    *pictures, one, other = found["samples"]
    assert {(each["split"], each["shard"]) for each in pictures} == {("train", "shard-000001.tar")}
    assert 1 <= len(pictures) <= 3
    assert len({each["key"] for each in pictures}) == len(pictures)
    assert all(each["times"] % 2 == 0 and each["attempts"] == [1] for each in pictures)
    assert (one["times"], one["attempts"], other["times"]) == (2, [2], 1)
    assert found["by_reason"]["cut at byte N"] == 2
    text = listed(run.name, "--storage", tmp_path)
    assert "val  s.tar  k  met 2x in attempt 2: cut at byte 17" in text
    assert f"{len(pictures) + 2} bad samples in {run.name}" in text
    assert "     2  cut at byte N" in text


def test_a_run_without_bad_samples_lists_none(tmp_path, listed):
    run = make_run(tmp_path)
    events_of(run).record("started")
    assert listed(run.path) == f"0 bad samples in {run.name}\n"
