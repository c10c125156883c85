"""Whoever reads and whoever decodes, the batches, the quarantine and the counts are the same."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import closing
from itertools import islice

import pytest
import torch

from datamodules.shards.index import DataIndex
from datamodules.stream import ray_reading
from datamodules.stream.prefetch import Prefetch
from datamodules.stream.quarantine import TooManyBadSamplesError
from tap_platform.launch.prepare import prepare_data
from tap_platform.launch.worker_entry import Place, build_streams
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog, read_events

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

WAYS = {
    "local": {"reader_tasks": 0},
    "consumer": {"reader_tasks": 2, "decode": "consumer", "decode_threads": 3},
    "ray": {"reader_tasks": 2, "decode": "ray"},
}


@pytest.fixture(scope="module")
def damaged(make_job, shared_folder):
    """Scenes, two pictures of which cannot be decoded and one annotation is no JSON."""
    scenes = make_job("modes").data
    prepare_data(scenes, 64)
    folder = shared_folder / "damaged"
    shutil.copytree(scenes.path, folder)
    index = DataIndex.load(folder / "train")
    content = bytearray(index.path(0).read_bytes())
    for number, kind in ((1, "image"), (4, "image"), (6, "annotation")):
        offset, size = getattr(index.members(0, number), kind)
        content[offset + 4 : offset + size] = bytes(size - 4)
    index.path(0).write_bytes(content)
    return folder


@pytest.fixture
def streams(make_job, damaged, tmp_path):
    """Makes the stream of a way, and what it has written to its events."""

    def make(way, **data):
        job = make_job(
            "modes",
            data={
                **{"source": "shards", "path": str(damaged), "partitions": 2},
                **{"regions_per_image": 4, "max_bad_fraction": 1.0},
                **WAYS[way],
                **data,
            },
            training={"max_steps": 12, "global_batch": 4, "micro_batch": 2},
        )
        run = RunDirectory.create(tmp_path, "tap", f"{way}-{len(list(tmp_path.rglob('*')))}")
        stream, _ = build_streams(job, Place(0, 1, 1), EventLog(run.events, 1))
        return stream, run

    return make


def quarantined(run):
    return [
        (event["shard"], event["key"], event["reason"])
        for event in read_events(run.events, "quarantined")
    ]


def assert_equal(batches, expected):
    assert len(batches) == len(expected) == 22
    for one, other in zip(batches, expected, strict=True):
        for field in dataclasses.fields(one):
            value, wanted = getattr(one, field.name), getattr(other, field.name)
            if torch.is_tensor(value):
                assert value.dtype == wanted.dtype, field.name
                assert torch.equal(value, wanted), field.name
            else:
                assert value == wanted, field.name


@pytest.mark.parametrize("way", ["consumer", "ray"])
def test_every_way_gives_the_same_batches_and_the_same_quarantine(streams, monkeypatch, way):
    # Small tasks and sections: blocks end inside of steps, and sections follow each other.
    monkeypatch.setattr(ray_reading, "SAMPLES_PER_TASK", 5)
    monkeypatch.setattr(ray_reading, "TASKS_PER_SECTION", 3)
    local, local_run = streams("local")
    other, run = streams(way)
    expected = list(local)
    assert_equal(list(other), expected)
    found = quarantined(run)
    assert found == quarantined(local_run)
    assert len(found) >= 3
    assert sum(batch.counts.samples_seen for batch in expected) == 44
    assert any(batch.step_phrased for batch in expected)
    assert len({phrases for batch in expected for phrases in batch.phrases}) > 20
    assert sum(batch.counts.samples_quarantined for batch in expected) == len(found)


@pytest.mark.parametrize("way", ["consumer", "ray"])
def test_too_much_damage_stops_every_way_alike(streams, way):
    def message(stream):
        with (
            closing(Prefetch(stream, depth=2)) as batches,
            pytest.raises(TooManyBadSamplesError) as told,
        ):
            list(batches)
        return str(told.value)

    limits = {"max_bad_fraction": 0.0, "bad_sample_grace": 1}
    assert message(streams(way, **limits)[0]) == message(streams("local", **limits)[0])


def test_a_stream_that_is_left_early_ends(streams):
    stream, _ = streams("consumer")
    with closing(Prefetch(stream, depth=2)) as batches:
        assert len(list(islice(batches, 3))) == 3
    assert not batches._thread.is_alive()


def test_blocks_of_decoded_samples_are_not_too_large(streams, monkeypatch):
    stream, _ = streams("ray")
    work = ray_reading.ReadWork(stream.index, stream.decoder.samples)
    size = 3 * 64**2 + 4 * (16**2 // 8 + 2 * 64)
    for fitting in (1, 3):
        monkeypatch.setattr(ray_reading, "BLOCK_BYTES", fitting * size)
        assert work.samples_per_task == fitting
    assert ray_reading.ReadWork(stream.index, None).samples_per_task == 64
