"""A scene as a sample: its picture, its regions and their priors."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datamodules.scenes.appearance import CONCEPTS, TEXTURES
from datamodules.scenes.layout import (
    MIN_VISIBLE_PIXELS,
    MIN_VISIBLE_SHARE,
    Figure,
    Layout,
    Mask,
    draw_layout,
)
from datamodules.scenes.outlines import SHAPES
from datamodules.scenes.painting import paint
from datamodules.scenes.phrases import part_phrases, scene_phrases, visible_box
from datamodules.shards.records import Region, Sample
from datamodules.vocabulary import name_embeddings

JPEG_QUALITY = 92
SPLITS = ("train", "val")
LAYOUT, PAINT, PHRASES, PRIORS = range(4)
"""Streams of draws of one scene: a change in one leaves the others as they are."""

TEXTURE_WEIGHT = 0.3
"""Weight of the texture's word in a prior, beside the concept's name at 1."""
CLEAR_NOISE, HARD_NOISE = 0.06, 0.24
"""Deviation of a prior's noise in each component, for the clearest and for the hardest region."""
CLEAR_DIAMETER = 0.3
"""A region as wide as this share of the long side, and fully visible, is the clearest."""


class Piece(NamedTuple):
    """A region to be: an object or a part, with its visible pixels `[H, W]`."""

    figure: Figure
    visible: Mask
    phrases: list[str]


def make_sample(
    scene_seed: int,
    split: str,
    number: int,
    scene_size: int,
    dim: int,
    smallest: float = 0.06,
    shapes: int = len(SHAPES),
) -> Sample:
    """One scene, a pure function of its arguments.

    Args:
        scene_seed: Seed of all scenes.
        split: `train` or `val`.
        number: Place of the scene in its split.
        scene_size: Long side in pixels.
        dim: Width of the concept space.
        smallest: Smallest diameter of an object, as a share of the long side.
        shapes: How many shapes there are: the first ones of `SHAPES`.

    Returns:
        A JPEG with one region for every object and every part that stays visible; the masks of
        objects never overlap, a part lies within its whole. Priors are `[regions, dim]` float16.
    """
    draws = _stream(scene_seed, split, number, LAYOUT)
    layout = draw_layout(scene_size, smallest, draws, shapes)
    pixels = paint(layout, _stream(scene_seed, split, number, PAINT))
    pieces = scene_pieces(layout, _stream(scene_seed, split, number, PHRASES))
    priors = oracle_priors(pieces, scene_size, dim, _stream(scene_seed, split, number, PRIORS))
    height, width = layout.owner.shape
    return Sample(
        key=f"{split}-{number:06d}",
        image=simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY, colorspace="RGB"),
        width=width,
        height=height,
        regions=[_region(piece) for piece in pieces],
        priors=priors,
    )


def scene_pieces(layout: Layout, rng: np.random.Generator) -> list[Piece]:
    """Objects from back to front, each followed by its part where enough of the part shows."""
    pieces = []
    for index, phrases in enumerate(scene_phrases(layout, rng)):
        figure = layout.figures[index]
        pieces.append(Piece(figure, layout.visible(index), phrases))
        visible_part = layout.visible_part(index)
        if figure.part is not None and visible_part is not None:
            piece = Piece(figure.part, visible_part, part_phrases(figure.part, figure))
            enough = np.count_nonzero(visible_part) >= MIN_VISIBLE_PIXELS
            if enough and _visible_share(piece) >= MIN_VISIBLE_SHARE:
                pieces.append(piece)
    return pieces


def oracle_priors(
    pieces: list[Piece], scene_size: int, dim: int, rng: np.random.Generator
) -> NDArray[np.float16]:
    """What a CLIP teacher would say of each region, from an oracle instead of a network.

    A prior is the embedding of the concept's name, plus a little of the texture's, plus Gaussian
    noise that grows as less of the region is to be seen (hidden, cut by the border, or small),
    normalised. So the nearest name of the vocabulary is the true one for most regions, as with a
    good teacher, and a wrong one mostly shares the colour or the shape. The noise is set for each
    component, so that confusions are about as frequent in every width of the space.

    Returns:
        `[len(pieces), dim]` float16 unit rows.
    """
    concepts, textures = _word_tables(dim)
    rows = np.empty((len(pieces), dim), np.float32)
    for index, piece in enumerate(pieces):
        width = np.sqrt(np.count_nonzero(piece.visible)) / scene_size
        clear = _visible_share(piece) * min(1.0, width / CLEAR_DIAMETER)
        deviation = HARD_NOISE + clear * (CLEAR_NOISE - HARD_NOISE)
        noise = deviation * rng.standard_normal(dim, np.float32)
        texture = TEXTURE_WEIGHT * textures[piece.figure.texture]
        rows[index] = concepts[piece.figure.concept] + texture + noise
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@cache
def _word_tables(
    dim: int,
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    """Embeddings of every concept and of every texture, by name."""
    textures = ("plain", *TEXTURES)
    return (
        dict(zip(CONCEPTS, name_embeddings(CONCEPTS, dim), strict=True)),
        dict(zip(textures, name_embeddings(textures, dim), strict=True)),
    )


def _visible_share(piece: Piece) -> float:
    return np.count_nonzero(piece.visible) / np.count_nonzero(piece.figure.inside)


def _region(piece: Piece) -> Region:
    segmentation = coco_mask.encode(np.asfortranarray(piece.visible, np.uint8))
    x0, y0, x1, y1 = (float(end) for end in visible_box(piece.visible))
    return Region(
        segmentation={
            "size": list(segmentation["size"]),
            "counts": segmentation["counts"].decode(),
        },
        box=(x0, y0, x1 - x0, y1 - y0),
        area=float(np.count_nonzero(piece.visible)),
        category=piece.figure.concept,
        phrases=piece.phrases,
    )


def _stream(scene_seed: int, split: str, number: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng((scene_seed, SPLITS.index(split), number, purpose))
