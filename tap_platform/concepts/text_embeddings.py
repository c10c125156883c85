"""Texts in the space of a CLIP model, by open_clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEXTS_AT_ONCE = 256

Progress = Callable[[int, int], None]
"""Told how many texts are done, and of how many."""


@dataclass(frozen=True)
class TextEncoder:
    """The text half of a CLIP model, and the tokenizer that it was trained with."""

    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    device: torch.device

    @classmethod
    def load(cls, model: str, weights: str | None = None, device: str = "cpu") -> TextEncoder:
        """Load a model of open_clip: see `load_clip`."""
        import open_clip

        made = load_clip(model, weights, device)
        with _loading(model, weights):
            tokenizer = open_clip.get_tokenizer(model)
        return cls(made, tokenizer, torch.device(device))

    @torch.inference_mode()
    def embed(
        self,
        names: Sequence[str],
        templates: Sequence[str],
        show: Progress = lambda done, of: None,
    ) -> Tensor:
        """Unit embeddings of names.

        A name's sentences are embedded and normalized, and their mean is normalized once more.

        Args:
            names: as they are said.
            templates: sentences with one `{}`.
            show: is told the progress.

        Returns:
            float32 [names, D], on the CPU.
        """
        sums: Tensor | None = None
        total = len(names) * len(templates)
        for number, template in enumerate(templates):
            done = number * len(names)
            rows = self._embed_texts(
                [template.replace("{}", name) for name in names],
                lambda count, done=done: show(done + count, total),  # type: ignore[misc]
            )
            sums = rows if sums is None else sums + rows
        assert sums is not None
        return F.normalize(sums, dim=-1)

    def _embed_texts(self, texts: list[str], show: Callable[[int], None]) -> Tensor:
        rows = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            chunk = texts[start : start + TEXTS_AT_ONCE]
            encode: Any = self.model.encode_text
            rows.append(encode(self.tokenizer(chunk).to(self.device)).float().cpu())
            show(start + len(chunk))
        return F.normalize(torch.cat(rows), dim=-1)


def load_clip(model: str, weights: str | None = None, device: str = "cpu") -> nn.Module:
    """Load a model of open_clip, both towers, in evaluation mode.

    Args:
        model: the name of an architecture such as `EVA02-E-14-plus`, or where both config and
            weights lie: `local-dir:FOLDER`, `hf-hub:OWNER/NAME`.
        weights: for an architecture, a file of weights or one of its pretrained tags.
        device: where to put it.

    Raises:
        ValueError: if open_clip does not know the model, or cannot get or read its weights.
    """
    import open_clip

    if weights is None and ":" not in model:
        raise ValueError(_no_weights(model))
    with _loading(model, weights):
        made: nn.Module = open_clip.create_model(
            model, pretrained=weights, device=device, require_pretrained=True
        )
    return made.eval()


@contextmanager
def _loading(model: str, weights: str | None) -> Iterator[None]:
    """Name the model in whatever open_clip raises."""
    try:
        yield
    except Exception as error:
        source = f"{model} with weights {weights}" if weights else model
        raise ValueError(
            f"open_clip cannot load {source}: {error}. Where there is no network, give an"
            " architecture and a local file of its weights, or local-dir:FOLDER"
        ) from error


def weights_file(model: str, weights: str | None) -> Path | None:
    """The local file that a model's weights are read from; None for one that is downloaded."""
    if weights is not None and Path(weights).is_file():
        return Path(weights)
    folder = Path(model.removeprefix("local-dir:"))
    if not model.startswith("local-dir:"):
        return None
    return next(iter(sorted(folder.glob("open_clip_model.*"))), None)


def _no_weights(model: str) -> str:
    import open_clip

    models = open_clip.list_models()
    if model not in models:
        near = get_close_matches(model, models, 1)
        told = f": did you mean {near[0]}?" if near else ""
        return f"open_clip has no model {model}{told}"
    tags = open_clip.list_pretrained_tags_by_model(model)
    known = f"a tag ({', '.join(tags)})" if tags else "a tag"
    return f"{model} has no weights by itself: give a file of weights, or {known}"
