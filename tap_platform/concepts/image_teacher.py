"""Pictures in the space of a CLIP model, by open_clip: the teacher of concept priors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tap_platform.concepts.text_embeddings import load_clip

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TeacherShape:
    """What must be known of a teacher to draw pictures for it and to keep its answers."""

    image_size: int
    """Side of its square input, in pixels."""
    mean: tuple[float, float, float]
    """Its mean colour, RGB in [0, 1]."""
    width: int
    """D: width of its embeddings."""


@dataclass(frozen=True)
class ImageTeacher:
    """The image half of a CLIP model."""

    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    shape: TeacherShape
    mean: Tensor
    """`[3, 1, 1]`, RGB in [0, 255]."""
    deviation: Tensor
    """`[3, 1, 1]`, RGB in [0, 255]."""

    @classmethod
    def load(cls, model: str, weights: str | None, device: str, precision: str) -> ImageTeacher:
        """Load a model of open_clip.

        Args:
            model: see `load_clip`.
            weights: see `load_clip`.
            device: `cpu`, `cuda` or `cuda:N`.
            precision: of its arithmetic: `fp32`, `fp16` or `bf16`.

        Raises:
            ValueError: if the model cannot be loaded, or its pictures are not square.
        """
        import open_clip

        dtype = _DTYPES[precision]
        loaded = load_clip(model, weights)
        seen = open_clip.get_model_preprocess_cfg(loaded)
        size = _side(seen["size"], model)
        mean, deviation = (
            255 * torch.tensor(seen[name], device=device).view(3, 1, 1) for name in ("mean", "std")
        )
        loaded = loaded.to(device=device, dtype=dtype).requires_grad_(False)
        shape = TeacherShape(size, tuple(seen["mean"]), _width(loaded, size, dtype, device))
        return cls(loaded, torch.device(device), dtype, shape, mean, deviation)

    @torch.inference_mode()
    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Unit embeddings of pictures.

        Args:
            crops: uint8 `[n, S, S, 3]` RGB.

        Returns:
            float16 `[n, D]`.

        Raises:
            ValueError: if an embedding is not finite.
        """
        pixels = torch.tensor(crops, device=self.device).permute(0, 3, 1, 2)
        normalized = ((pixels - self.mean) / self.deviation).to(self.dtype)
        encode: Any = self.model.encode_image
        rows = F.normalize(encode(normalized).float(), dim=-1)
        if not rows.isfinite().all():
            raise ValueError(
                f"the teacher's arithmetic overflows in {self.dtype}: give it another precision"
                " (bf16 or fp32)"
            )
        embeddings: NDArray[np.float16] = rows.half().cpu().numpy()
        return embeddings


def _side(size: Any, model: str) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"{model} sees pictures of {size} pixels: a teacher needs square ones")
    return int(sides.pop())


@torch.inference_mode()
def _width(model: nn.Module, size: int, dtype: torch.dtype, device: str) -> int:
    """Asked of the model itself: what configs call the width differs between architectures."""
    encode: Any = model.encode_image
    return int(encode(torch.zeros(1, 3, size, size, dtype=dtype, device=device)).shape[-1])
