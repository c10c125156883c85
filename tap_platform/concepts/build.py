"""From a list of names to a vocabulary in the space of a CLIP model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version

from datamodules.vocabulary import Vocabulary
from tap_platform.concepts.sources import Concepts
from tap_platform.concepts.text_embeddings import Progress, TextEncoder, weights_file
from tap_platform.runs.files import sha256_of


def build_vocabulary(
    concepts: Concepts,
    model: str,
    weights: str | None,
    templates: Sequence[str],
    device: str = "cpu",
    show: Progress = lambda done, of: None,
) -> Vocabulary:
    """Embed a list of concepts by an open_clip model.

    Args:
        concepts: the names.
        model: see `TextEncoder.load`.
        weights: see `TextEncoder.load`.
        templates: sentences with one `{}`.
        device: where the model runs.
        show: is told the progress.

    Returns:
        The vocabulary, in the order of the names; its provenance tells how it was made.

    Raises:
        ValueError: if the model cannot be loaded.
    """
    encoder = TextEncoder.load(model, weights, device)
    embeddings = encoder.embed(concepts.texts, templates, show)
    provenance = {
        "list": concepts.source,
        "names_sha256": names_sha256(concepts.names),
        "model": model,
        "weights": weights or "those of the model",
        "templates": json.dumps(list(templates)),
        "open_clip": version("open_clip_torch"),
    }
    if file := weights_file(model, weights):
        provenance["weights_sha256"] = sha256_of(file)
    return Vocabulary(concepts.names, embeddings.numpy(), f"open_clip {model}", provenance)


def names_sha256(names: Sequence[str]) -> str:
    """The SHA-256 of a text file with these names, one a line."""
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
