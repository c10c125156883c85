"""Who takes how much of a step."""

from __future__ import annotations


def even_parts(count: int, parts: int) -> list[int]:
    """Sizes of parts that make up a whole: they differ by 1 at most, the larger ones come first.

    Args:
        count: size of the whole; where it is less than `parts`, the last ones are 0.
        parts: how many, at least one.
    """
    size, larger = divmod(count, parts)
    return [size + (number < larger) for number in range(parts)]
