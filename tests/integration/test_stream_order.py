"""Ray Data tasks on other processes give the same batches as a worker that reads for itself."""

from __future__ import annotations

import hashlib

import pytest

from tap_platform.launch.prepare import prepare_data
from tap_platform.launch.worker_entry import Place, build_streams
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

STEPS = 8


@pytest.fixture(scope="module")
def read(make_job, shared_folder, tmp_path_factory):
    """Gives every batch of a rank from a step on, as a digest of all that is in it."""
    events = EventLog(
        RunDirectory.create(tmp_path_factory.mktemp("runs"), "tap", "order").events, 1
    )
    scenes = make_job("order").data
    prepare_data(scenes, 64)
    prepare_data(scenes.replaced(path=f"{shared_folder}/other", train_scenes=12, scene_seed=7), 64)
    parts = [{"path": scenes.path, "weight": 2}, {"path": f"{shared_folder}/other"}]
    sources = {
        "one set": {},
        "a mixture": {
            "source": "mixture",
            "mixture": parts,
            **scenes.model_dump(include={"partitions", "regions_per_image", "shuffle_window"}),
        },
    }

    def batches(source, reader_tasks, rank=0, world_size=1, start_step=0):
        job = make_job(
            "order",
            data={**sources[source], "reader_tasks": reader_tasks},
            training={"max_steps": STEPS},
            scale={"workers": world_size},
        )
        stream, _ = build_streams(job, Place(rank, world_size, start_step), events)
        return [digest(batch) for batch in stream]

    return batches


def digest(batch):
    """The position, and for each image of a batch its key and a hash of its content."""
    images = []
    for number, key in enumerate(batch.keys):
        own = batch.image_index == number
        parts = (batch.pixels[number], batch.masks[own], batch.priors[own], batch.seeds[number])
        content = b"".join(part.contiguous().numpy().tobytes() for part in parts)
        images.append((key, hashlib.sha256(content).hexdigest()))
    return tuple(batch.position), images


@pytest.mark.parametrize("source", ["one set", "a mixture"])
def test_readers_and_ranks_change_no_global_batch(read, source):
    alone = read(source, reader_tasks=0)
    assert len(alone) == STEPS
    assert all(len(images) == 4 for _, images in alone)
    for reader_tasks in (1, 2):
        assert read(source, reader_tasks) == alone
    for world_size, reader_tasks in ((2, 1), (4, 2)):
        ranks = [read(source, reader_tasks, rank, world_size) for rank in range(world_size)]
        for (position, whole), *parts in zip(alone, *ranks, strict=True):
            assert sorted(whole) == sorted(image for _, images in parts for image in images)
            assert {place for place, _ in parts} == {position}


@pytest.mark.parametrize("reader_tasks", [1, 2])
def test_after_a_kill_the_rest_is_the_same(read, reader_tasks):
    alone = read("a mixture", reader_tasks=0)
    for step in (1, 6):
        assert read("a mixture", reader_tasks, start_step=step) == alone[step:]
