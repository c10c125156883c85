"""The shapes of objects: outlines in the unit disc and their tabulated signed distances."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Field = NDArray[np.float32]

TABLE_EXTENT = 1.7
"""A distance table covers [-1.7, 1.7] squared, so that soft shadows outside the shape are told."""
TABLE_CELLS = 192


def signed_distance(shape: str, u: Field, v: Field) -> Field:
    """Signed distance to a shape of radius 1 at given points, negative inside.

    Args:
        shape: A name of `SHAPES`.
        u: Horizontal coordinate to the right, in radii of the shape; within `TABLE_EXTENT`.
        v: Vertical coordinate downwards, like `u`.

    Returns:
        Distances in radii, bilinear between the cells of a table, of the shape of `u`.
    """
    table = _distance_table(shape).ravel()
    column, column_share = _cell(u)
    row, row_share = _cell(v)
    corner = row * TABLE_CELLS + column
    upper = table[corner] * (1 - column_share) + table[corner + 1] * column_share
    corner += TABLE_CELLS
    lower = table[corner] * (1 - column_share) + table[corner + 1] * column_share
    return upper * (1 - row_share) + lower * row_share


def _cell(coordinate: Field) -> tuple[NDArray[np.int32], Field]:
    position = (coordinate + np.float32(TABLE_EXTENT)) * np.float32(
        (TABLE_CELLS - 1) / (2 * TABLE_EXTENT)
    )
    position = np.clip(position, 0, TABLE_CELLS - 1.001)
    cell = position.astype(np.int32)
    return cell, position - cell


@cache
def _distance_table(shape: str) -> Field:
    """`[TABLE_CELLS, TABLE_CELLS]` signed distances to the outline, by the even-odd rule."""
    axis = np.linspace(-TABLE_EXTENT, TABLE_EXTENT, TABLE_CELLS)
    x, y = np.meshgrid(axis, axis)
    squared = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for contour in _normalised(SHAPES[shape]):
        for (x0, y0), (x1, y1) in zip(contour, np.roll(contour, -1, axis=0), strict=True):
            dx, dy = x1 - x0, y1 - y0
            along = ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)
            along = np.clip(along, 0, 1)
            squared = np.minimum(squared, (x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2)
            if dy:
                inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * dx / dy)
    distance = np.sqrt(squared)
    return np.where(inside, -distance, distance).astype(np.float32)


def _normalised(contours: list[Array]) -> list[Array]:
    """Contours centred on their bounding box, the farthest vertex at distance 1."""
    vertices = np.concatenate(contours)
    centre = (vertices.min(0) + vertices.max(0)) / 2
    radius = np.linalg.norm(vertices - centre, axis=1).max()
    return [(contour - centre) / radius for contour in contours]


def _polar(radius: Array | float, angle: Array) -> Array:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _turn(count: int) -> Array:
    """Angles once around, starting upwards."""
    return np.linspace(-np.pi / 2, 3 * np.pi / 2, count, endpoint=False)


def _star() -> Array:
    return _polar(np.where(np.arange(10) % 2, 0.42, 1.0), _turn(10))


def _cross() -> Array:
    arm = np.array([[-0.3, -1.0], [0.3, -1.0], [0.3, -0.3]])
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([arm @ np.linalg.matrix_power(quarter, turn) for turn in range(4)])


def _heart() -> Array:
    t = _turn(64)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _crescent() -> Array:
    """What a disc of radius 0.8, shifted by 0.45, leaves of the unit disc."""
    tip = np.arccos((1 + 0.45**2 - 0.8**2) / 0.9)
    inner_tip = np.arctan2(np.sin(tip), np.cos(tip) - 0.45)
    outer = _polar(1.0, np.linspace(tip, 2 * np.pi - tip, 40))
    inner = _polar(0.8, np.linspace(2 * np.pi - inner_tip, inner_tip, 32)[1:-1])
    return np.concatenate([outer, inner + np.array([0.45, 0.0])])


def _arrow() -> Array:
    half = np.array([[0.0, -1.0], [0.75, -0.15], [0.3, -0.15], [0.3, 1.0]])
    return np.concatenate([half, half[:0:-1] * [-1, 1]])


def _drop() -> Array:
    t = _turn(64) + np.pi / 2
    return np.stack([0.85 * np.sin(t) * np.sin(t / 2) ** 1.5, -np.cos(t)], axis=1)


def _flower() -> Array:
    angle = _turn(96)
    return _polar(0.74 + 0.26 * np.cos(6 * angle), angle)


SHAPES: dict[str, list[Array]] = {
    "circle": [_polar(1.0, _turn(72))],
    "square": [_polar(1.0, _turn(4) + np.pi / 4)],
    "star": [_star()],
    "triangle": [_polar(1.0, _turn(3))],
    "heart": [_heart()],
    "ring": [_polar(1.0, _turn(72)), _polar(0.55, _turn(48))],
    "cross": [_cross()],
    "hexagon": [_polar(1.0, _turn(6))],
    "arrow": [_arrow()],
    "crescent": [_crescent()],
    "flower": [_flower()],
    "drop": [_drop()],
}
"""The closed contours of every shape, the most frequent shape first."""
