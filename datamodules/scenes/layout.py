"""Where objects stand: drawn back to front, and kept only where enough of each stays visible."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.scenes.appearance import COLOURS, TEXTURES, Tone, draw_tones, long_tailed
from datamodules.scenes.outlines import SHAPES, Field, signed_distance

Mask = NDArray[np.bool_]

LARGEST = 0.6
"""Largest diameter of an object, as a share of the scene's long side."""
MIN_DIAMETER = 12.0
"""Pixels; below, shapes cannot be told apart."""
MIN_VISIBLE_SHARE = 0.3
"""Share of an object that stays visible, at least: not hidden, not outside the picture."""
MIN_VISIBLE_PIXELS = 24
TEXTURED_DIAMETER = 26.0
"""Pixels; smaller objects are plain, for want of room for a pattern."""
PART_SHAPES = ("circle", "star", "heart", "square")
PART_CHANCE = 0.35
MARGIN = 0.36
"""Rim around an object, in radii, that its soft shadow falls on."""


@dataclass
class Figure:
    """One object, or the badge on one.

    Attributes:
        shape, colour, texture: Its words; `colour shape` is its concept.
        size: Its diameter as a share of the scene's long side.
        radius: In pixels.
        tones: Main and second tone, RGB in 0 to 1.
        waves: Periods of the texture across the radius.
        u, v: `[P, P]` coordinates along the figure, in radii, for every pixel of its patch.
        distance: `[P, P]` signed distance to its outline in pixels, negative inside.
        top, left: Where the patch lies in the scene; it may reach beyond.
        part: The badge it carries.
    """

    shape: str
    colour: str
    texture: str
    size: float
    radius: float
    tones: tuple[Tone, Tone]
    waves: float
    u: Field
    v: Field
    distance: Field
    top: int = 0
    left: int = 0
    part: Figure | None = None

    @property
    def concept(self) -> str:
        """The figure's name in the vocabulary."""
        return f"{self.colour} {self.shape}"

    @property
    def inside(self) -> Mask:
        """`[P, P]` pixels of the patch whose centre lies in the figure."""
        return self.distance < 0

    def window(
        self, frame: tuple[int, ...], shift: tuple[int, int] = (0, 0)
    ) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The patch's overlap with the scene: (slices of the scene, slices of the patch).

        Args:
            frame: Height and width of the scene.
            shift: Pixels that the patch is moved down and to the right by.
        """
        rows, patch_rows = _overlap(self.top + shift[0], self.distance.shape[0], frame[0])
        columns, patch_columns = _overlap(self.left + shift[1], self.distance.shape[1], frame[1])
        return (rows, columns), (patch_rows, patch_columns)


@dataclass
class Layout:
    """A scene before it is painted.

    Attributes:
        figures: Objects from back to front.
        owner: `[H, W]` index of the object on top, -1 for the background.
    """

    figures: list[Figure]
    owner: NDArray[np.int8]

    def whole(self, figure: Figure) -> Mask:
        """`[H, W]` pixels that a figure covers, hidden ones included."""
        mask = np.zeros(self.owner.shape, bool)
        scene, patch = figure.window(mask.shape)
        mask[scene] = figure.inside[patch]
        return mask

    def visible(self, index: int) -> Mask:
        """`[H, W]` pixels of object `index` that nothing hides, its part's included."""
        return self.owner == index

    def visible_part(self, index: int) -> Mask | None:
        """`[H, W]` pixels of the part of object `index` that nothing hides; None without one."""
        part = self.figures[index].part
        return None if part is None else self.visible(index) & self.whole(part)


def draw_layout(
    scene_size: int, smallest: float, rng: np.random.Generator, shapes: int = len(SHAPES)
) -> Layout:
    """Draw a scene of 3 to 9 objects (fewer where there is no room), small ones mostly in front.

    Args:
        scene_size: Long side in pixels; the short side is 62 to 100 % of it.
        smallest: Smallest diameter of an object, as a share of the long side.
        rng: The source of every draw.
        shapes: How many shapes there are: the first, more frequent ones of `SHAPES`; at least 1.
    """
    names = list(SHAPES)[:shapes]
    smallest = max(smallest, MIN_DIAMETER / scene_size)
    layout = Layout([], np.full(_draw_frame(scene_size, rng), -1, np.int8))
    sizes = _draw_sizes(int(rng.integers(3, 10)), smallest, rng)
    for size in sizes[np.argsort(-sizes * rng.lognormal(sigma=0.5, size=len(sizes)))]:
        _add_figure(layout, float(size), smallest, scene_size, names, rng)
    for figure in layout.figures:
        if rng.random() < PART_CHANCE:
            figure.part = _draw_part(figure, smallest, scene_size, names, rng)
    return layout


def _draw_frame(scene_size: int, rng: np.random.Generator) -> tuple[int, int]:
    short = scene_size if rng.random() < 0.25 else round(scene_size * rng.uniform(0.62, 1.0))
    return (short, scene_size) if rng.random() < 0.7 else (scene_size, short)


def _draw_sizes(count: int, smallest: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """`[count]` sizes spread over all scales, somewhat more of the larger ones."""
    return smallest * (LARGEST / smallest) ** (rng.random(count) ** 0.75)


def _add_figure(
    layout: Layout,
    size: float,
    smallest: float,
    scene_size: int,
    shapes: list[str],
    rng: np.random.Generator,
) -> None:
    """Place a figure where it hides no other too much; a smaller one where there is no room."""
    colour = str(rng.choice(list(COLOURS), p=long_tailed(COLOURS)))
    shape = str(rng.choice(shapes, p=long_tailed(shapes)))
    for attempt in range(4):
        fitting = max(size * 0.6**attempt, smallest)
        figure = _draw_figure(shape, colour, fitting, scene_size, rng)
        for _ in range(8):
            _draw_place(figure, layout.owner.shape, rng)
            owner = _painted_over(layout, figure)
            if _all_visible([*layout.figures, figure], owner):
                layout.figures.append(figure)
                layout.owner = owner
                return


def _draw_figure(
    shape: str, colour: str, size: float, scene_size: int, rng: np.random.Generator
) -> Figure:
    """A figure with its patch, not yet placed; turned by up to 35 degrees."""
    radius = size * scene_size / 2
    plain = 2 * radius < TEXTURED_DIAMETER or rng.random() < 0.4
    texture = "plain" if plain else str(rng.choice(list(TEXTURES)))
    u, v, distance = _patch(shape, radius, np.deg2rad(rng.uniform(-35, 35)))
    waves = min(rng.uniform(1.6, 2.8), radius / 6)
    tones = draw_tones(colour, rng)
    return Figure(
        shape, colour, texture, 2 * radius / scene_size, radius, tones, waves, u, v, distance
    )


def _patch(shape: str, radius: float, angle: float) -> tuple[Field, Field, Field]:
    """Coordinates along a turned figure, in radii, and distances in pixels, on a square patch."""
    half = int(np.ceil(radius * (1 + MARGIN))) + 1
    axis = np.arange(-half, half + 1, dtype=np.float32) / np.float32(radius)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u = cosine * axis[None, :] + sine * axis[:, None]
    v = cosine * axis[:, None] - sine * axis[None, :]
    return u, v, signed_distance(shape, u, v) * np.float32(radius)


def _draw_place(figure: Figure, frame: tuple[int, ...], rng: np.random.Generator) -> None:
    half = figure.distance.shape[0] // 2
    figure.top = int(rng.uniform(0.04, 0.96) * frame[0]) - half
    figure.left = int(rng.uniform(0.04, 0.96) * frame[1]) - half


def _painted_over(layout: Layout, figure: Figure) -> NDArray[np.int8]:
    owner = layout.owner.copy()
    scene, patch = figure.window(owner.shape)
    owner[scene][figure.inside[patch]] = len(layout.figures)
    return owner


def _all_visible(figures: Iterable[Figure], owner: NDArray[np.int8]) -> bool:
    counts = np.bincount(owner.ravel() + 1, minlength=1)[1:]
    return all(
        index < len(counts)
        and counts[index] >= MIN_VISIBLE_PIXELS
        and counts[index] >= MIN_VISIBLE_SHARE * np.count_nonzero(figure.inside)
        for index, figure in enumerate(figures)
    )


def _draw_part(
    whole: Figure,
    smallest: float,
    scene_size: int,
    shapes: list[str],
    rng: np.random.Generator,
) -> Figure | None:
    """A badge of another colour somewhere well inside its whole; None where there is no room."""
    depth = -whole.distance
    radius = float(rng.uniform(0.45, 0.7) * depth.max())
    if 2 * radius < smallest * scene_size:
        return None
    colours = [colour for colour in COLOURS if colour != whole.colour]
    fitting = [shape for shape in PART_SHAPES if shape in shapes]
    shape, colour = str(rng.choice(fitting)), str(rng.choice(colours))
    part = _draw_figure(shape, colour, 2 * radius / scene_size, scene_size, rng)
    rows, columns = np.nonzero(depth >= radius + 1)
    spot = rng.integers(len(rows))
    half = part.distance.shape[0] // 2
    part.top = whole.top + int(rows[spot]) - half
    part.left = whole.left + int(columns[spot]) - half
    return part


def _overlap(start: int, length: int, limit: int) -> tuple[slice, slice]:
    low, high = max(start, 0), max(min(start + length, limit), 0)
    return slice(low, high), slice(low - start, max(high - start, low - start))
