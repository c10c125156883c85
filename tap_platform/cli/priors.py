"""The verb that has a CLIP teacher look at every region of a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import click

from tap_platform.cli.options import COUNT, option, templates_option
from tap_platform.config.priors import PriorsConfig


def _setting(name: str, kind: click.ParamType | None = None) -> Callable[[Any], Any]:
    """An option for a field of the config, with its words and its default."""
    field = PriorsConfig.model_fields[name]
    assert field.description is not None
    kind = kind or click.Choice(get_args(field.annotation))
    meaning = field.description.partition(". ")[0].removesuffix(".") + "."
    return option(f"--{name}", name, kind, field.default, meaning)


@click.command("priors")
@click.argument("path")
@click.option("--teacher", required=True, help="open_clip model; local-dir: and hf-hub: work too.")
@click.option("--weights", help="File of weights, or a tag of the model's pretrained ones.")
@click.option("--out", help="Folder or URL for the priors; by default PATH-priors-TEACHER.")
@option("--teachers", "teachers", click.IntRange(min=0), 0, "Ray actors with the teacher; 0: none.")
@option("--readers", "readers", COUNT, 2, "Ray Data tasks that cut crops for the teachers.")
@option("--device", "device", click.Choice(["auto", "cpu", "cuda"]), "auto", "Of the teachers.")
@_setting("batch", COUNT)
@_setting("precision")
@_setting("canvas")
@_setting("context", click.FloatRange(0, 4))
@click.option("--keep-background", is_flag=True, help="Show what surrounds a region in its box.")
@_setting("fit")
@_setting("interpolation")
@click.option("--concepts", help="Concept list to embed instead of the data set's own names.")
@templates_option
def priors(
    path: str, out: str | None, teachers: int, readers: int, device: str, **settings: Any
) -> None:
    """Embed every region of the data set PATH by a CLIP model, as sidecar shards.

    Training takes them by data.priors=OUT, with the vocabulary of the same model beside them.
    Killed and called again, it goes on with the shards that are missing.
    """
    from tap_platform.launch.priors import make_priors

    make_priors(path, PriorsConfig(**settings), out, teachers, readers, device)
