"""Verbs that make vocabularies."""

from __future__ import annotations

from pathlib import Path

import click

from tap_platform.cli.options import FILE, FOLDER, option, templates_option


@click.group()
def concepts() -> None:
    """Make, read and list vocabularies of concepts."""


@concepts.command("list")
@click.argument("names")
def concepts_list(names: str) -> None:
    """Print a list of concepts: merged_2560, coco_80, lvis_1203, or another of its sources."""
    from tap_platform.concepts.sources import find_concepts

    click.echo("\n".join(find_concepts(names).names))


@concepts.command("build")
@click.argument("out", type=FOLDER)
@option("--names", "names", click.STRING, "merged_2560", "Concept list, or a file of names.")
@click.option("--model", required=True, help="open_clip model; local-dir: and hf-hub: work too.")
@click.option("--weights", help="File of weights, or a tag of the model's pretrained ones.")
@templates_option
@click.option("--device", default="cpu", show_default=True, help="Where the model runs.")
def concepts_build(
    out: Path, names: str, model: str, weights: str | None, templates: tuple[str, ...], device: str
) -> None:
    """Embed a list of concepts by a CLIP model; OUT becomes a vocabulary (.safetensors)."""
    from tap_platform.launch.vocabularies import build_concepts

    build_concepts(out, names, model, weights, templates, device)


@concepts.command("import")
@click.argument("pickle", type=FILE)
@click.argument("out", type=FOLDER)
def concepts_import(pickle: Path, out: Path) -> None:
    """Turn a released concept file (.pkl) into a vocabulary, OUT (.safetensors)."""
    from tap_platform.launch.vocabularies import import_concepts

    import_concepts(pickle, out)
