"""Values for trials: functions of a space, a seed and a number."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tap_platform.config.space import Dimension

Space = Mapping[str, Dimension]
Values = dict[str, Any]


def draw(space: Space, ask: Callable[[str, Dimension], Any]) -> Values:
    """One value for every key that is varied beside the values of the keys above it.

    Args:
        space: the dimensions, in order.
        ask: gives the value of a key.
    """
    values: Values = {}
    for key, dimension in space.items():
        if dimension.holds(values):
            values[key] = ask(key, dimension)
    return values


def random_values(space: Space, seed: int, number: int) -> Values:
    """The values of the trial of that number, from 0: the same whatever was drawn before.

    Grids are gone through in order, each of their combinations once before the first comes again.
    """
    source = random.Random(f"{seed} {number}")
    grids = {key: each for key, each in space.items() if each.grid is not None}
    points = list(grid_points(grids)) if grids else [{}]
    on_grid = points[number % len(points)]

    def ask(key: str, dimension: Dimension) -> Any:
        drawn = value_from(dimension, source)
        return on_grid.get(key, drawn)

    return draw(space, ask)


def value_from(dimension: Dimension, source: random.Random) -> Any:
    """One value of a dimension."""
    if dimension.uniform is not None:
        return source.uniform(*dimension.uniform)
    if dimension.log_uniform is not None:
        least, most = dimension.log_uniform
        drawn = math.exp(source.uniform(math.log(least), math.log(most)))
        return min(max(drawn, least), most)
    return source.choice(dimension.listed or ())


def grid_points(space: Space) -> Iterator[Values]:
    """Every combination of the values of a space of lists, the last key changing fastest."""
    yield from _points(list(space.items()), {})


def grid_order(space: Space, seed: int) -> list[Values]:
    """Every combination once, in an order by the seed: what comes first is from everywhere.

    A scheduler that compares trials with those before would else compare neighbours.
    """
    points = list(grid_points(space))
    random.Random(f"{seed} grid").shuffle(points)
    return points


def _points(left: list[tuple[str, Dimension]], values: Values) -> Iterator[Values]:
    if not left:
        yield dict(values)
        return
    (key, dimension), *others = left
    if not dimension.holds(values):
        yield from _points(others, values)
        return
    for value in dimension.listed or ():
        yield from _points(others, {**values, key: value})
