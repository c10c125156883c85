"""What objects look like: nameable colours, and textures in two tones of one colour."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.scenes.outlines import SHAPES, Field

Tone = NDArray[np.float32]


class Colour(NamedTuple):
    """The range that a colour name covers, and how its second tone differs.

    Attributes:
        hue: Lowest and highest hue in degrees.
        saturation: Lowest and highest HSV saturation, 0 to 1.
        value: Lowest and highest HSV value, 0 to 1.
        accent: Share of white mixed into the second tone, or of black where negative. It is chosen
            such that both tones still bear the name (dark orange would be brown).
    """

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]
    accent: float


COLOURS: dict[str, Colour] = {
    "red": Colour((-6, 5), (0.80, 0.95), (0.75, 0.92), -0.42),
    "blue": Colour((212, 230), (0.68, 0.90), (0.70, 0.95), 0.50),
    "yellow": Colour((48, 55), (0.80, 0.95), (0.94, 1.0), 0.58),
    "green": Colour((110, 145), (0.55, 0.80), (0.50, 0.72), 0.50),
    "white": Colour((40, 60), (0.00, 0.04), (0.90, 0.97), -0.30),
    "orange": Colour((24, 32), (0.88, 1.0), (0.94, 1.0), 0.50),
    "purple": Colour((266, 282), (0.55, 0.75), (0.52, 0.72), 0.50),
    "pink": Colour((325, 340), (0.34, 0.48), (0.95, 1.0), 0.60),
}
"""Colours by name, the most frequent first."""

CONCEPTS: tuple[str, ...] = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
"""Every concept that a scene can hold: a colour and a shape."""


def concepts_of(shapes: int) -> tuple[str, ...]:
    """The concepts of scenes with only the first so many shapes, in the order of `CONCEPTS`."""
    kept = list(SHAPES)[:shapes]
    return tuple(f"{colour} {shape}" for colour in COLOURS for shape in kept)


def draw_tones(colour: str, rng: np.random.Generator) -> tuple[Tone, Tone]:
    """The main and the second tone of an object: two RGB triples in 0 to 1."""
    hue, saturation, value, accent = COLOURS[colour]
    hsv = rng.uniform(hue[0], hue[1]) / 360 % 1, rng.uniform(*saturation), rng.uniform(*value)
    base = np.array(colorsys.hsv_to_rgb(*hsv), np.float32)
    goal = np.float32(accent > 0)
    return base, base + np.float32(abs(accent)) * (goal - base)


def long_tailed(names: Collection[str]) -> NDArray[np.float64]:
    """Shares that fall like `1 / (rank + 2)`: a few names are frequent, none is very rare."""
    weights = 1 / (np.arange(len(names)) + 3)
    return weights / weights.sum()


def _striped(u: Field, v: Field) -> Field:
    return np.sin(u)


def _dotted(u: Field, v: Field) -> Field:
    return np.cos(u) + np.cos(v) - np.float32(0.75)


def _checked(u: Field, v: Field) -> Field:
    return 2 * np.sin(u) * np.sin(v)


def _wavy(u: Field, v: Field) -> Field:
    return np.sin(u + np.float32(1.6) * np.sin(v * np.float32(0.7)) + np.sin(u * np.float32(0.4)))


TEXTURES: dict[str, Callable[[Field, Field], Field]] = {
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "wavy": _wavy,
}
"""Patterns by name: waves of phase (u, v) in radians, positive where the second tone shows."""


def texture_share(texture: str, u: Field, v: Field, waves: float, radius: float) -> Field | None:
    """How much of the second tone shows, 0 to 1, or None for a plain object.

    Args:
        texture: `plain` or a name of `TEXTURES`.
        u: Horizontal coordinate along the object, in radii.
        v: Vertical coordinate along the object, in radii.
        waves: Periods across the radius.
        radius: The object's radius in pixels; edges of the pattern are one pixel soft.
    """
    if texture == "plain":
        return None
    phase = np.float32(2 * np.pi * waves)
    # A sine crosses zero with slope 1 a radian, so this gain turns radians into pixels.
    pixels_a_radian = np.float32(radius / phase)
    wave = TEXTURES[texture](u * phase, v * phase)
    return np.clip(np.float32(0.5) + wave * pixels_a_radian, 0, 1)
