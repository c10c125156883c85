"""Verbs that make, index, import and look at data sets."""

from __future__ import annotations

from pathlib import Path

import click

from tap_platform.cli.imports import convert, imports
from tap_platform.cli.inspection import inspect, verify
from tap_platform.cli.label import label
from tap_platform.cli.options import COUNT, FOLDER, option
from tap_platform.cli.priors import priors
from tap_platform.cli.quarantine import quarantine


@click.group()
def data() -> None:
    """Make, import and look at data sets."""


data.add_command(priors)
data.add_command(inspect)
data.add_command(verify)
data.add_command(imports)
data.add_command(convert)
data.add_command(quarantine)
data.add_command(label)


@data.command("scenes")
@click.argument("out", type=FOLDER)
@option("--train", "train_scenes", COUNT, 512, "Scenes to learn from.")
@option("--val", "val_scenes", COUNT, 64, "Scenes held out.")
@option("--size", "size", click.IntRange(min=32), 256, "Long side of a scene, in pixels.")
@option("--seed", "seed", click.IntRange(min=0, max=2**32 - 1), 0, "Seed of the scenes.")
@option("--dim", "dim", COUNT, 64, "Width of the concept space.")
def data_scenes(
    out: Path, train_scenes: int, val_scenes: int, size: int, seed: int, dim: int
) -> None:
    """Make procedural scenes with exact masks, names and phrases, as shards in OUT."""
    from tap_platform.config.data import ScenesSource
    from tap_platform.launch.prepare import prepare_data

    source = ScenesSource(
        path=str(out),
        train_scenes=train_scenes,
        val_scenes=val_scenes,
        scene_size=size,
        scene_seed=seed,
    )
    prepare_data(source, dim)


@data.command("index")
@click.argument("folder")
@click.option("--out", help="Folder for the index, if FOLDER is not to be written to.")
@click.option("--checksums/--no-checksums", default=True, help="Read every byte for its sha256.")
def data_index(folder: str, out: str | None, checksums: bool) -> None:
    """Index the tars of FOLDER, a path or a URL, such as SA-1B's own, without changing them.

    Killed and called again, it goes on with the tars that are new or have changed.
    """
    from datamodules.shards.indexing import index_shards
    from tap_platform.launch.count_bar import count_bar

    with count_bar("tars") as show:
        index = index_shards(folder, out, checksums, show)
    click.echo(f"{out or folder}: {len(index)} samples in {len(index.names)} shards")
