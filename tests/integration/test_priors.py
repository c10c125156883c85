from __future__ import annotations

import os
import signal
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console
from tiny_clip import TINY_CLIP, write_clip

from datamodules.scenes.annotation import make_sample
from datamodules.shards.writer import ShardWriter
from tap_platform.config.priors import PriorsConfig
from tap_platform.launch import prior_tasks
from tap_platform.launch.priors import make_priors

SHARDS = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set of six shards, a teacher, and priors made in one go."""
    folder = tmp_path_factory.mktemp("priors")
    for split, shards in (("train", SHARDS - 1), ("val", 1)):
        with ShardWriter(folder / "scenes" / split, samples_per_shard=4) as writer:
            for number in range(4 * shards):
                writer.write(make_sample(0, split, number, 64, 8, 0.1))
    write_clip(folder / "tiny", TINY_CLIP)
    make(folder, "whole")
    return folder


def config_in(place):
    teacher = f"local-dir:{place / 'tiny'}"
    return PriorsConfig(teacher=teacher, batch=8, concepts="coco_80")


def make(place, name, **options):
    said = StringIO()
    out = str(place / name)
    make_priors(str(place / "scenes"), config_in(place), out, console=Console(file=said), **options)
    return said.getvalue()


def bytes_of(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


KILLED = {
    "between the tar and its record": "folder.write_sidecar",
    "between two shards": "prior_tasks.keep",
    "while the tar is written": "sidecar.encode_priors",
}


@pytest.mark.parametrize("moment", KILLED)
def test_a_killed_process_goes_on_and_ends_with_the_same_bytes(place, moment):
    name = moment.replace(" ", "-")
    module, function = KILLED[moment].split(".")
    calls = 3 * 4 if function == "encode_priors" else 3
    script = f"""
import os, signal
from datamodules.priors import folder
from datamodules.shards import sidecar
from tap_platform.cli import main
from tap_platform.launch import prior_tasks

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
    arguments = ["data", "priors", place / "scenes", "--teacher", config_in(place).teacher]
    arguments += ["--batch", 8, "--concepts", "coco_80", "--out", out]
    killed = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    records = len(list((out / ".parts").glob("train-*.json")))
    tars = len(list((out / "train").glob("shard-*.tar")))
    drafts = len(list((out / "train").glob(".*.part")))
    expected = {"write_sidecar": (2, 3, 0), "keep": (3, 3, 0), "encode_priors": (2, 2, 1)}
    assert (records, tars, drafts) == expected[function]
    said = make(place, name)
    assert f"going on after {4 * records} of {4 * SHARDS} images" in said
    assert bytes_of(out) == bytes_of(place / "whole")


def test_teachers_and_readers_in_ray_give_the_same_bytes(place, ray_cluster):
    said = make(place, "ray", teachers=2, readers=3)
    assert "teachers wait" in said
    assert bytes_of(place / "ray") == bytes_of(place / "whole")


def test_ray_goes_on_with_the_shards_that_are_missing(place, ray_cluster, monkeypatch):
    keep, kept = prior_tasks.keep, []

    def keep_two(*arguments):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(keep(*arguments))

    monkeypatch.setattr(prior_tasks, "keep", keep_two)
    with pytest.raises(KeyboardInterrupt):
        make(place, "mixed")
    monkeypatch.undo()
    said = make(place, "mixed", teachers=1, readers=2)
    assert f"going on after 8 of {4 * SHARDS} images" in said
    assert bytes_of(place / "mixed") == bytes_of(place / "whole")


def test_a_cluster_that_is_too_small_is_refused(place, ray_cluster):
    with pytest.raises(ValueError, match="2 teachers and 5 readers hold one each"):
        make(place, "crowded", teachers=2, readers=5)
    with pytest.raises(ValueError, match="0 GPUs for 1 teachers"):
        make(place, "crowded", teachers=1, device="cuda")


def test_what_a_teacher_away_cannot_do_is_told(place, ray_cluster):
    broken = config_in(place).replaced(teacher="local-dir:/no/such/folder")
    with pytest.raises(ValueError, match="open_clip cannot load local-dir:/no/such/folder"):
        make_priors(str(place / "scenes"), broken, str(place / "none"), teachers=1)
