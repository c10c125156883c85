"""Weights that a run starts from."""

from __future__ import annotations

from pydantic import Field

from tap_platform.config.base import Section


class InitialWeights(Section):
    """Weights of another run, of one of its checkpoints, or of a file."""

    source: str = Field(min_length=1)
    """A run's name or directory (its newest committed checkpoint is taken), a checkpoint folder
    (`RUN/checkpoints/step-N`), or a file: released (`.pkl`), exported (`.safetensors`) or a torch
    state dict."""
    prefixes: dict[str, str] = Field(default_factory=dict)
    """How names of tensors change, by their beginnings: `{"module.": ""}` drops one. The longest
    beginning that fits is replaced; names that no key fits stay as they are."""
    skip: tuple[str, ...] = ()
    """Beginnings of names, after `prefixes`, that are not loaded and start anew, such as
    `text_decoder.` where the tokenizer differs."""
