"""The colours that every drawn picture shares: contact sheets, grids of results, predictions."""

from __future__ import annotations

Colour = tuple[int, int, int]
"""RGB."""

PAPER: Colour = (246, 247, 249)
CARD: Colour = (255, 255, 255)
EDGE: Colour = (222, 226, 232)
INK: Colour = (32, 38, 46)
FAINT: Colour = (112, 121, 133)
WRONG: Colour = (200, 40, 45)
RIGHT: Colour = (22, 130, 60)
PROMPT: Colour = (255, 176, 0)
TRUE: Colour = (0, 122, 204)
PREDICTED: Colour = (214, 51, 132)
