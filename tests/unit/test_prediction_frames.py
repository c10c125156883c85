from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from tap_platform.prediction.frames import frame_image


@pytest.mark.parametrize("size", [(480, 640), (33, 21), (1, 1), (200, 4000), (3, 5000), (64, 64)])
def test_the_frame_is_the_released_models(size):
    image = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    frame = frame_image(image, 64)
    scale = 64 / max(size)
    height, width = (max(1, math.floor(side * scale + 0.5)) for side in size)
    assert frame.scale == scale
    assert frame.visible == (height, width)
    assert frame.image_size == size
    shown = frame.pixels.permute(1, 2, 0).numpy()
    bilinear = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(shown[:height, :width], np.asarray(bilinear))
    assert (shown[height:] == (123, 116, 103)).all()
    assert (shown[:, width:] == (123, 116, 103)).all()


def test_half_a_pixel_is_rounded_up():
    assert frame_image(np.zeros((5, 128, 3), np.uint8), 64).visible == (3, 64)


def interpolated(values, size):
    """Bilinear without aligned corners, one output at a time."""
    rows, columns = values.shape
    out = np.empty(size)
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) * rows / size[0] - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / size[1] - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            low, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = values[top, left] * (1 - u % 1) + values[top, right] * (u % 1)
            lower = values[low, left] * (1 - u % 1) + values[low, right] * (u % 1)
            out[y, x] = upper * (1 - v % 1) + lower * (v % 1)
    return out


def test_masks_go_by_way_of_the_whole_frame_without_its_padding():
    frame = frame_image(np.zeros((10, 23, 3), np.uint8), 32)
    logits = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    found = frame.masks_of_image(logits)
    assert found.shape == (2, 10, 23)
    for mask, expected in zip(found, logits.numpy(), strict=True):
        whole = interpolated(expected, (32, 32))
        cropped = whole[: frame.visible[0], : frame.visible[1]]
        np.testing.assert_allclose(mask, interpolated(cropped, (10, 23)), atol=1e-5)
