"""The square frame that a model sees, and the way from the image to it and back.

Exactly the released model's: the long side is brought to the frame's (small images are enlarged),
the rest is filled below and to the right, prompts are multiplied by the exact scale, and masks go
by way of the whole frame to the image's own size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from datamodules.decoding.pictures import PAD_COLOUR
from tap_platform.prediction.images import Pixels


@dataclass(frozen=True)
class Frame:
    """An image inside the square that a model reads."""

    pixels: Tensor
    """uint8 [3, S, S], RGB, the image at the top left."""
    visible: tuple[int, int]
    """Height and width of the image inside the frame, in pixels of the frame."""
    image_size: tuple[int, int]
    """Height and width of the image itself, in its own pixels."""
    scale: float
    """Pixels of the frame for one of the image; places are multiplied by it."""

    def masks_of_image(self, logits: Tensor) -> Tensor:
        """Enlarge mask logits [M, R, R] of the frame to the image, float32 [M, H, W]."""
        side = self.pixels.shape[-1]
        height, width = self.visible
        whole = F.interpolate(logits[None].float(), (side, side), mode="bilinear")
        shown = whole[..., :height, :width]
        return F.interpolate(shown, self.image_size, mode="bilinear")[0]

    def pixels_per_mask(self) -> int:
        """How many numbers it takes to enlarge one mask: what chunks are planned with."""
        return self.pixels.shape[-1] ** 2 + self.image_size[0] * self.image_size[1]


def frame_image(image: Pixels, side: int) -> Frame:
    """Put an image into a frame.

    Args:
        image: uint8 [H, W, 3], RGB.
        side: of the frame, in pixels; the model's `image_size`.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    # An image a thousand times as wide as high would vanish: one line of it remains.
    visible = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    resized = Image.fromarray(image).resize(visible[::-1], Image.Resampling.BILINEAR)
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = PAD_COLOUR
    canvas[: visible[0], : visible[1]] = np.asarray(resized)
    return Frame(torch.from_numpy(canvas).permute(2, 0, 1), visible, (height, width), scale)
