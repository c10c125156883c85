"""Verbs that import data sets of others, and the one that prepares them at a smaller size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import click

from datamodules.importers import layouts
from tap_platform.cli.options import COUNT, SHARE, option
from tap_platform.config.sources import (
    CocoSource,
    GritSource,
    ImportedSource,
    LvisSource,
    MaskFolderSource,
    RefCocoSource,
    Sa1bSource,
    VisualGenomeSource,
)

SHARED = ("vocabulary", "priors", "val_fraction")
CONVERT = """\
Re-encode the data set PATH once, for faster training, as a new data set in OUT.

Images are shrunk to a long side of --max-side pixels and encoded as JPEG; those that are small
enough keep their bytes. Masks are drawn at the new size by the area that they cover; boxes, areas,
priors, phrases and categories are carried over. Killed and called again, it goes on.

What scale jitter loses: at a frame of 1024 and factors from 0.5 to 2, an image of 1536 is enlarged
beyond its own pixels for factors above 1.5, where an original of SA-1B (2250) still shows real
detail: (2 - 1.5) / (2 - 0.5), a third of the samples.
"""


@click.group("import")
def imports() -> None:
    """Import a data set of others to shards.

    FOLDER and OUT are paths or URLs. An import that was killed goes on when it is called again; one
    that is complete is kept, and its faulty images are tried again if their files have changed.
    """


def add_import(
    name: str, kind: type[ImportedSource], meaning: str, *own: str, without: Sequence[str] = ()
) -> None:
    """Add the verb of a source.

    Args:
        name: the verb.
        kind: the source's config; its fields, their words and defaults become the options.
        meaning: help of the verb.
        own: fields that only this source has.
        without: shared fields of which this source has no choice.
    """

    def run(folder: str, out: str, workers: int, dim: int, **fields: Any) -> None:
        from tap_platform.launch.prepare import prepare_data

        source: Any = kind(path=folder, shards=out, import_workers=workers, **fields)
        prepare_data(source, dim, mend=True)

    options = [_field_option(kind, name) for name in (*SHARED, *own) if name not in without]
    options += [
        option("--workers", "workers", click.IntRange(min=0), 0, "Tasks at once; 0: this process."),
        option("--dim", "dim", COUNT, 64, "Width of the embeddings, where names get oracle ones."),
    ]
    for decorate in reversed([click.argument("folder"), click.argument("out"), *options]):
        run = decorate(run)
    imports.command(name, help=meaning)(run)


def _field_option(kind: type[ImportedSource], name: str) -> Callable[[Any], Any]:
    """The option of a field, with the first of its words."""
    field = kind.model_fields[name]
    assert field.description is not None
    meaning = " ".join(field.description.split()).partition(". ")[0].rstrip(".") + "."
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        return click.option(
            f"{flag}/--no-{flag[2:]}", default=field.default, show_default=True, help=meaning
        )
    choices = [each for each in get_args(field.annotation) if isinstance(each, str)]
    share = field.annotation is float
    return option(
        flag,
        name,
        click.Choice(choices) if choices else SHARE if share else click.STRING,
        field.default,
        meaning,
    )


add_import(
    "coco",
    CocoSource,
    "Import a COCO-format FOLDER: annotations.json and images/, or COCO's own layout.",
)
add_import(
    "mask-folder",
    MaskFolderSource,
    "Import FOLDER with images/NAME.jpg and masks/NAME.png, a map of labels, or masks/NAME/*.png,"
    " one mask a file; an optional classes.txt names label N in line N.",
)
add_import(
    "sa1b",
    Sa1bSource,
    "Use the tars of SA-1B in FOLDER as they are: only an index is written to OUT.",
    "checksums",
)
add_import(
    "lvis",
    LvisSource,
    f"Import LVIS v1: masks and categories on COCO's images.\n\n\b\n{layouts.LVIS}",
    "images",
)
add_import(
    "visual-genome",
    VisualGenomeSource,
    "Import Visual Genome's region descriptions: boxes and phrases, without masks.\n\n\b\n"
    f"{layouts.VISUAL_GENOME}",
    "held_out",
    without=("priors", "val_fraction"),
)
add_import(
    "grit",
    GritSource,
    "Import Visual Genome as GRiT's authors prepare it: boxes and phrases, without masks.\n\n\b\n"
    f"{layouts.GRIT}",
    "held_out",
    without=("priors",),
)
add_import(
    "refcoco",
    RefCocoSource,
    "Import RefCOCO, RefCOCO+ or RefCOCOg: masks, categories and referring expressions.\n\n\b\n"
    f"{layouts.REFCOCO}",
    "images",
    "split_by",
    "held_out",
    without=("val_fraction",),
)


@click.command("convert", help=CONVERT)
@click.argument("path")
@click.argument("out")
@option("--max-side", "max_side", click.IntRange(min=16), 1536, "Long side, in pixels, at most.")
@option("--quality", "quality", click.IntRange(1, 100), 90, "Of the JPEGs.")
@option("--workers", "workers", click.IntRange(min=0), 0, "Ray Data tasks; 0: this process.")
@click.option("--priors", help="Sidecar with the priors, to join into the new shards.")
def convert(path: str, out: str, **settings: Any) -> None:
    """See `CONVERT`, which is the help."""
    from tap_platform.launch.convert import convert_data

    convert_data(path, out, **settings)
