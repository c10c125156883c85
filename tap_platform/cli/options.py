"""Kinds of options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
SHARE = click.FloatRange(min=0, max=1, max_open=True)
UNIT = click.FloatRange(min=0, max=1)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
CONCEPTS_HELP = "Names to choose from: a vocabulary.safetensors, or a released concept file (.pkl)."
TOKENIZER_HELP = (
    "Tokenizer of the text decoder's training: a SentencePiece model, or `shipped`; by default the "
    "one that comes with the weights, if any: without it there are no captions."
)


def option(
    flag: str, name: str, kind: click.ParamType, default: Any, meaning: str
) -> Callable[[Any], Any]:
    """An option whose help tells its range and its default."""
    return click.option(flag, name, type=kind, default=default, show_default=True, help=meaning)


templates_option = click.option(
    "--template",
    "templates",
    multiple=True,
    default=("tap",),
    show_default=True,
    help="Sentence with {} for the name, or a set: tap, photo, imagenet.",
)
