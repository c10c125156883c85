"""Make vocabularies, and tell what was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from datamodules.vocabulary import Vocabulary
from tap_platform.concepts import build_vocabulary, find_concepts, read_released_concepts
from tap_platform.concepts.templates import find_templates
from tap_platform.launch.count_bar import count_bar


def build_concepts(
    out: Path,
    names: str,
    model: str,
    weights: str | None,
    templates: Sequence[str],
    device: str,
    console: Console | None = None,
) -> None:
    """Embed a list of concepts and write the vocabulary.

    Args:
        out: the file to write, `.safetensors`.
        names: see `find_concepts`.
        model: see `TextEncoder.load`.
        weights: see `TextEncoder.load`.
        templates: see `find_templates`.
        device: where the model runs.
        console: where to show the progress.

    Raises:
        ValueError: if names, templates, model or file are refused.
    """
    console = console or Console()
    _check(out)
    sentences, concepts = find_templates(templates), find_concepts(names)
    with count_bar(f"embedding {names} by {model}", console) as show:
        vocabulary = build_vocabulary(concepts, model, weights, sentences, device, show)
    _write(vocabulary, out, console)


def import_concepts(pickle: Path, out: Path, console: Console | None = None) -> None:
    """Turn a released concept file into a vocabulary.

    Raises:
        ValueError: if the file is broken, asks to run code, or `out` is no `.safetensors`.
    """
    _check(out)
    _write(read_released_concepts(pickle), out, console or Console())


def _check(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise ValueError(f"a vocabulary is a .safetensors file, not {out}")


def _write(vocabulary: Vocabulary, out: Path, console: Console) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    vocabulary.save(out)
    count, width = vocabulary.embeddings.shape
    console.print(f"{out}: {count} concepts of width {width}, {vocabulary.kind}", soft_wrap=True)
    for key, value in sorted(vocabulary.provenance.items()):
        console.print(f"  {key}: {value}", soft_wrap=True, highlight=False, markup=False)
