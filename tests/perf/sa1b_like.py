"""Shards that cost what SA-1B's cost: large, detailed photographs with many overlapping masks.

A picture is noise whose amplitude falls with its frequency as a photograph's does, so that the JPEG
has a photograph's size and takes a photograph's time to decode. A mask is a wobbly outline, its
radius drawn evenly on a logarithmic scale, anywhere in the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datamodules.shards.records import Region, Sample
from datamodules.shards.writer import ShardWriter
from datamodules.vocabulary import Vocabulary

HEIGHT, WIDTH = 1500, 2250
QUALITY = 90
PRIOR_DIM = 1024
SAMPLES_PER_SHARD = 12
"""Small, so that two readers that split the shards between them have enough to split."""

_CATEGORIES = ("person", "dog", "tree", "car")
_TEXTURES = 8
_FALLOFF, _CONTRAST, _BRIGHTNESS = 1.4, 33.0, 118.0
"""These give JPEGs of about 640 KB, SA-1B's mean."""
_FEWEST_REGIONS, _MOST_REGIONS = 60, 100
_SMALLEST_RADIUS, _LARGEST_RADIUS = 15.0, 450.0
_OUTLINE_POINTS = 120


def make_data_set(
    folder: Path, samples: int, show: Callable[[int, int], None], seed: int = 0
) -> float:
    """Write `folder/train` and the vocabulary.

    Args:
        folder: the data set's folder.
        samples: samples in it.
        show: called with how many samples are made, and of how many.
        seed: seed of everything in it.

    Returns:
        Mean size of a JPEG, in bytes.
    """
    draws = np.random.default_rng(seed)
    textures = [_texture(draws) for _ in range(min(samples, _TEXTURES))]
    written = 0
    with ShardWriter(folder / "train", SAMPLES_PER_SHARD) as writer:
        for number in range(samples):
            sample = _sample(f"sa_{number:06d}", textures[number % len(textures)], draws)
            writer.write(sample)
            written += len(sample.image)
            show(number + 1, samples)
    vocabulary = Vocabulary.from_names(_CATEGORIES, PRIOR_DIM, kind="benchmark")
    vocabulary.save(folder / "vocabulary.safetensors")
    return written / samples


def _texture(draws: np.random.Generator) -> NDArray[np.uint8]:
    """Noise of a photograph's spectrum, RGB; it has no seam at its borders."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = np.inf
    amplitude = (frequency**-_FALLOFF).astype(np.float32)
    planes = []
    for _ in range(3):
        noise = np.fft.rfft2(draws.standard_normal((HEIGHT, WIDTH), np.float32))
        plane = np.fft.irfft2(noise * amplitude, s=(HEIGHT, WIDTH))
        planes.append(plane / plane.std())
    light, warm, cold = planes
    colours = np.stack([light + 0.3 * warm, light - 0.15 * (warm + cold), light + 0.3 * cold], -1)
    return np.clip(_CONTRAST * colours + _BRIGHTNESS, 0, 255).astype(np.uint8)


def _sample(key: str, texture: NDArray[np.uint8], draws: np.random.Generator) -> Sample:
    """A picture rolled out of a texture, with its regions and priors."""
    shift = int(draws.integers(HEIGHT)), int(draws.integers(WIDTH))
    image = simplejpeg.encode_jpeg(
        np.roll(texture, shift, (0, 1)), quality=QUALITY, colorsubsampling="420"
    )
    count = int(draws.integers(_FEWEST_REGIONS, _MOST_REGIONS + 1))
    regions = [_region(draws) for _ in range(count)]
    priors = draws.standard_normal((count, PRIOR_DIM), np.float32).astype(np.float16)
    return Sample(key, image, WIDTH, HEIGHT, regions, priors)


def _region(draws: np.random.Generator) -> Region:
    outline = _outline(draws)
    encoded = coco_mask.merge(coco_mask.frPyObjects([outline.ravel().tolist()], HEIGHT, WIDTH))
    left, top, width, height = map(float, coco_mask.toBbox(encoded))
    counts = encoded["counts"].decode()
    return Region(
        segmentation={"size": [HEIGHT, WIDTH], "counts": counts},
        box=(left, top, width, height),
        area=float(coco_mask.area(encoded)),
        category=_CATEGORIES[int(draws.integers(len(_CATEGORIES)))],
    )


def _outline(draws: np.random.Generator) -> NDArray[np.float64]:
    """A closed line around a place in the picture, `[points, 2]` x, y in pixels."""
    radius = math.exp(draws.uniform(math.log(_SMALLEST_RADIUS), math.log(_LARGEST_RADIUS)))
    centre = draws.uniform((0, 0), (WIDTH, HEIGHT))
    angles = np.linspace(0, 2 * np.pi, _OUTLINE_POINTS, endpoint=False)
    harmonics = np.arange(2, 14)
    phases = draws.uniform(0, 2 * np.pi, len(harmonics))
    waves = np.cos(harmonics * angles[:, None] + phases) @ (0.3 / harmonics)
    radii = radius * np.maximum(1 + waves, 0.2)
    stretch = draws.uniform(0.5, 1, 2)
    points = centre + radii[:, None] * stretch * np.stack([np.cos(angles), np.sin(angles)], -1)
    return np.clip(points, 0, (WIDTH - 1, HEIGHT - 1))
