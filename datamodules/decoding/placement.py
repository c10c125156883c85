"""Where a picture lies in the frame, and how its pixels and masks get there alike."""

from __future__ import annotations

from typing import NamedTuple

from datamodules.decoding.rasterize import Affine
from datamodules.order.draws import generator
from tap_platform.config.stream import ScaleJitterConfig

_JITTER_STREAM = 0
"""Of the sample's draws; the choice of regions is 1."""


class Placement(NamedTuple):
    """Where the picture lies in the frame: resized, cut, mirrored or not, at the top left."""

    height: int
    """Height of the whole resized picture, in pixels."""
    width: int
    """Its width."""
    left: int
    """Its columns that are cut off before the frame."""
    top: int
    """Its rows that are cut off before the frame."""
    mirrored: bool

    def visible(self, frame_size: int) -> tuple[int, int]:
        """Height and width of the part inside the frame, in pixels."""
        return min(self.height - self.top, frame_size), min(self.width - self.left, frame_size)


def place(height: int, width: int, frame_size: int) -> Placement:
    """Fit a picture in the frame: its long side is the frame's, nothing is drawn by chance."""
    return _resized(height, width, frame_size)


def draw_placement(
    height: int, width: int, frame_size: int, jitter: ScaleJitterConfig, seed: int
) -> Placement:
    """Large scale jitter: the long side is the frame's times a factor, the crop is anywhere.

    Args:
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        frame_size: side of the frame, in pixels.
        jitter: range of the factor, and how often the picture is mirrored.
        seed: the sample's seed.
    """
    draws = generator(seed, _JITTER_STREAM)
    long_side = frame_size * draws.uniform(jitter.minimum, jitter.maximum)
    whole = _resized(height, width, long_side)
    across, down, mirror = draws.random(3)
    return whole._replace(
        left=int(across * (max(0, whole.width - frame_size) + 1)),
        top=int(down * (max(0, whole.height - frame_size) + 1)),
        mirrored=bool(mirror < jitter.flip_probability),
    )


def _resized(height: int, width: int, long_side: float) -> Placement:
    scale = long_side / max(height, width)
    return Placement(
        max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)), 0, 0, False
    )


def affine_of(placement: Placement, height: int, width: int, frame_size: int) -> Affine:
    """From pixels of the image to pixels of the frame, exactly as the pixels are resampled."""
    scale_x, scale_y = placement.width / width, placement.height / height
    if placement.mirrored:
        visible_width = placement.visible(frame_size)[1]
        return Affine(-scale_x, scale_y, visible_width + placement.left, -placement.top)
    return Affine(scale_x, scale_y, -placement.left, -placement.top)
