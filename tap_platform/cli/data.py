"""Verbs that make, index and import data sets."""

from __future__ import annotations

from pathlib import Path

import click

from tap_platform.cli.options import COUNT, FOLDER, SHARE, option


@click.group()
def data() -> None:
    """Make, import and look at data sets."""


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
@click.argument("folder", type=FOLDER)
def data_index(folder: Path) -> None:
    """Index the tars of FOLDER, such as SA-1B's own, without changing them."""
    from datamodules.shards.index import index_shards

    index = index_shards(folder)
    click.echo(f"{folder}: {len(index)} samples in {len(index.names)} shards")


@data.group("import")
def data_import() -> None:
    """Import a data set of others to shards."""


@data_import.command("coco")
@click.argument("folder", type=FOLDER)
@click.argument("out", type=FOLDER)
@option("--vocabulary", "vocabulary", click.STRING, "coco_80", "Concept list or a file.")
@option("--val-fraction", "val_fraction", SHARE, 0.2, "Share of images held out.")
@option("--dim", "dim", COUNT, 64, "Width of the concept space.")
def data_import_coco(
    folder: Path, out: Path, vocabulary: str, val_fraction: float, dim: int
) -> None:
    """Import a COCO-format FOLDER to shards in OUT; priors come from the category names."""
    from tap_platform.config.data import CocoSource
    from tap_platform.launch.prepare import prepare_data

    source = CocoSource(
        path=str(folder), shards=str(out), vocabulary=vocabulary, val_fraction=val_fraction
    )
    prepare_data(source, dim)
