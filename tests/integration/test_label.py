"""`tap data label` killed and called again, and through Ray: the same bytes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from io import StringIO

import pytest
import torch
from rich.console import Console
from saved_weights import save_weights
from tiny_clip import TINY_CLIP, write_clip
from tiny_model import MODEL

from datamodules.importers import shard_tasks
from datamodules.labels.masks import MADE
from datamodules.scenes.annotation import make_sample
from datamodules.shards.index import DataIndex
from datamodules.shards.writer import ShardWriter
from tap_platform.config.priors import PriorsConfig
from tap_platform.launch.label import label_data
from tap_platform.launch.label_cluster import Crew, models
from tap_platform.launch.label_tasks import ModelSpec
from tap_platform.launch.train import create_run
from tap_platform.models import Tap, TapConfig
from tap_platform.models.released import save_released_weights

SHARDS = 6
SAMPLES = 3


def boxes_only(made):
    regions = [dataclasses.replace(each, segmentation=None) for each in made.regions]
    return dataclasses.replace(made, regions=regions, priors=None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set of six shards, weights, a teacher, and labels made in one go."""
    folder = tmp_path_factory.mktemp("labels")
    for split, shards in (("train", SHARDS - 1), ("val", 1)):
        with ShardWriter(folder / "boxes" / split, SAMPLES) as writer:
            for number in range(SAMPLES * shards):
                writer.write(boxes_only(make_sample(0, split, number, 96, 64, 0.1)))
    torch.manual_seed(0)
    save_released_weights(Tap(TapConfig(**MODEL)), folder / "tap.safetensors", {})
    write_clip(folder / "tiny", TINY_CLIP)
    make(folder, "whole")
    return folder


def make(place, name, **options):
    said = StringIO()
    data, weights, out = (str(place / each) for each in ("boxes", "tap.safetensors", name))
    console = Console(file=said, width=300)
    label_data(data, weights, out, teacher=teacher_in(place), console=console, **options)
    return said.getvalue()


def teacher_in(place):
    return PriorsConfig(teacher=f"local-dir:{place / 'tiny'}", batch=8, concepts="coco_80")


def bytes_of(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def check_same(place, name):
    for suffix in ("", "-priors"):
        assert bytes_of(place / f"{name}{suffix}") == bytes_of(place / f"whole{suffix}")


KILLED = {
    "between the tar and its record": ("shard_tasks", "write_shard", 3, (2, 3, 0)),
    "while the tar is written": ("records", "encode_annotation", 8, (2, 2, 1)),
    "before the card is written": ("making", "write_index", 2, (5, 5, 0)),
}


@pytest.mark.parametrize("moment", KILLED)
def test_a_killed_process_goes_on_and_ends_with_the_same_bytes(place, moment):
    name = moment.replace(" ", "-")
    module, function, calls, expected = KILLED[moment]
    script = f"""
import os, signal
from datamodules.importers import making, shard_tasks
from datamodules.shards import writer as records
from tap_platform.cli import main

function, calls = {module}.{function}, []

def deadly(*arguments):
    result = function(*arguments)
    calls.append(0)
    if len(calls) == {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

{module}.{function} = deadly
main()
"""
    out = place / name
    arguments = ["data", "label", place / "boxes", "--weights", place / "tap.safetensors"]
    killed = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments), "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    records = len(list((out / ".parts").glob("train-*.json")))
    tars = len(list((out / "train").glob("shard-*.tar")))
    drafts = len(list((out / "train").glob(".*.part")))
    assert (records, tars, drafts) == expected
    assert not (out / "dataset.json").exists()
    make(place, name)
    check_same(place, name)


@pytest.mark.long
def test_workers_and_readers_in_ray_give_the_same_bytes(place, ray_cluster):
    said = make(place, "ray", crew=Crew(2, 3, "cpu"))
    assert f"labelled {SAMPLES * (SHARDS - 1)} train images" in said
    assert "teachers wait" in said
    check_same(place, "ray")


@pytest.mark.long
def test_ray_goes_on_with_the_shards_that_are_missing(place, ray_cluster, monkeypatch):
    write, written = shard_tasks.write_shard, []

    def write_two(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write(*arguments))
        return written[-1]

    monkeypatch.setattr(shard_tasks, "write_shard", write_two)
    with pytest.raises(KeyboardInterrupt):
        make(place, "mixed")
    monkeypatch.undo()
    stamps = {path: path.stat().st_mtime_ns for path in (place / "mixed").rglob("*.tar")}
    assert len(stamps) == 2
    make(place, "mixed", crew=Crew(1, 2, "cpu"))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    check_same(place, "mixed")


def test_the_priors_fit_the_labelled_set(place):
    for split in ("train", "val"):
        joined = DataIndex.load(place / "whole" / split, place / "whole-priors" / split)
        for shard, count in enumerate(joined.counts.tolist()):
            places = [joined.members(shard, number).priors for number in range(count)]
            assert all(offset >= 0 for offset, _ in places)


def commit(run, job, step):
    save_weights(run, step, Tap(job.model).state_dict())


def test_a_run_is_found_by_its_name_and_told_with_its_step(place, make_job, ray_cluster, tmp_path):
    job = make_job("labels")
    run = create_run(job)
    commit(run, job, 3)

    def label(**options):
        data, out = str(place / "boxes"), str(tmp_path / "out")
        quiet = Console(quiet=True)
        return label_data(data, run.name, out, storage=job.storage, console=quiet, **options)

    report = label(crew=Crew(1, 1, "cpu"))
    assert report.figures[MADE]
    assert label() == report
    assert f'"weights": "run {run.name}, step 3"' in (tmp_path / "out/dataset.json").read_text()
    commit(run, job, 4)
    with pytest.raises(
        ValueError, match=r"weights is run .*, step 3 there and run .*, step 4 here"
    ):
        label()


def test_a_cluster_that_is_too_small_is_refused(place, ray_cluster):
    for crew, told in (
        (Crew(2, 5), "2 workers and 5 readers hold one each"),
        (Crew(1, 1, "cuda"), "0 GPUs for 1 workers"),
    ):
        with pytest.raises(ValueError, match=told):
            make(place, "crowded", crew=crew)
    assert not (place / "crowded").exists()


def test_what_a_model_away_cannot_do_is_told(ray_cluster):
    spec = ModelSpec("/no/such/weights.safetensors", "runs", "", "cpu")
    with (
        pytest.raises(ValueError, match=r"^there is no file /no/such/weights\.safetensors"),
        models(spec, workers=1),
    ):
        pass
