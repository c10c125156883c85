"""The work of `tap data label`: a model, held by whoever draws the masks.

Readers import this module, so torch is imported where a model is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.labels.masks import Boxes, PredictedMask

if TYPE_CHECKING:
    from tap_platform.models import Tap
    from tap_platform.prediction import TapPredictor
    from tap_platform.prediction.regions import Answers

PIXELS_AT_ONCE = 1 << 27
"""Pixels of masks that are held at once: 128 MiB."""


class ModelSpec(NamedTuple):
    """What a model is loaded from, anywhere."""

    source: str
    """A run, or a file of weights."""
    storage: str
    """Folder in which a run's name is looked for."""
    sha256: str
    """What `weights_sha256` says of it."""
    device: str
    """`cpu` or `cuda`."""


def weights_sha256(model: Tap) -> str:
    """Hex digest of every tensor of a model, by name: the same whatever file they lie in."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class MaskModel:
    """A model that draws a mask for each box: candidate 0, cut at 0 at the size of the image."""

    def __init__(self, model: Tap) -> None:
        """Hold a model, which lies on its device."""
        from tap_platform.prediction import TapPredictor

        self._predictor = TapPredictor(model)

    @classmethod
    def load(cls, spec: ModelSpec) -> MaskModel:
        """Load the model.

        Raises:
            ValueError: if it cannot be loaded, or has other weights than it had.
        """
        from tap_platform.launch.weights_source import load_weights

        loaded = load_weights(spec.source, spec.storage)
        if weights_sha256(loaded.model) != spec.sha256:
            raise ValueError(
                f"the weights of {spec.source} are no longer those that the labelling began with:"
                " label with a run that has ended, or with a file (tap export)"
            )
        return cls(loaded.model.to(spec.device))

    def segment(self, pixels: NDArray[np.uint8], boxes: Boxes) -> list[PredictedMask]:
        """Encode an image once and draw the mask of each box; see `Segmenter`."""
        from tap_platform.prediction.predictor import PROMPTS_AT_ONCE
        from tap_platform.prediction.prompts import read_prompts

        seen = self._predictor.copy().set_image(pixels)
        chunks = (boxes[i : i + PROMPTS_AT_ONCE] for i in range(0, len(boxes), PROMPTS_AT_ONCE))
        return [
            mask
            for chunk in chunks
            for mask in _drawn(seen, seen.ask(read_prompts(boxes=chunk), multimask=False))
        ]


def _drawn(seen: TapPredictor, answers: Answers) -> Iterator[PredictedMask]:
    """Masks of the image's size, as many at once as memory should hold."""
    import torch

    from tap_platform.prediction.records import encode_mask

    height, width = seen.frame.image_size
    for numbers in torch.arange(len(answers.iou)).split(max(1, PIXELS_AT_ONCE // (height * width))):
        found = seen.complete(answers.take(numbers.to(answers.iou.device)), captions=False)
        scores = zip(found.masks, found.iou.tolist(), found.stability.tolist(), strict=True)
        for mask, iou, stability in scores:
            yield PredictedMask(encode_mask(mask), iou, stability)


@dataclass(frozen=True)
class ModelHere:
    """A model in this process, loaded when it is first asked."""

    spec: ModelSpec

    @cached_property
    def _model(self) -> MaskModel:
        return MaskModel.load(self.spec)

    def segment(self, pixels: NDArray[np.uint8], boxes: Boxes) -> list[PredictedMask]:
        """Draw the mask of each box; see `Segmenter`."""
        return self._model.segment(pixels, boxes)


class MaskServer:
    """A model in an actor."""

    def load(self, spec: ModelSpec, threads: int) -> ValueError | None:
        """Load the model; a mistake is an answer, for what Ray raises has lost its words.

        Args:
            spec: what from.
            threads: of the arithmetic on CPUs; 0 leaves torch's own number.
        """
        import torch

        if threads:
            torch.set_num_threads(threads)
        try:
            self._model = MaskModel.load(spec)
        except ValueError as error:
            return error
        return None

    def segment(self, pixels: NDArray[np.uint8], boxes: Boxes) -> list[PredictedMask]:
        """Draw the mask of each box; see `Segmenter`."""
        return self._model.segment(pixels, boxes)


@dataclass(frozen=True)
class ModelsAway:
    """Models in actors, one of which draws the masks of an image."""

    servers: tuple[Any, ...]

    def segment(self, pixels: NDArray[np.uint8], boxes: Boxes) -> list[PredictedMask]:
        """Draw the mask of each box; see `Segmenter`."""
        import ray

        # Readers know nothing of each other: by chance they ask all servers equally often.
        server = self.servers[np.random.default_rng().integers(len(self.servers))]
        masks: list[PredictedMask] = ray.get(server.segment.remote(pixels, boxes))
        return masks
