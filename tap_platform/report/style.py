"""How pages look: one style sheet for the page of a run, of a bill and of a comparison."""

from __future__ import annotations

from importlib.resources import files

from datamodules import palette

_COLOURS = ("PAPER", "CARD", "EDGE", "INK", "FAINT", "WRONG")


def style_sheet() -> str:
    """The style sheet, with the palette's colours as variables."""
    colours = ";".join(
        f"--{name.lower()}:rgb{getattr(palette, name)}".replace(" ", "") for name in _COLOURS
    )
    sheet = (files("tap_platform.report") / "page.css").read_text(encoding="utf-8")
    return f":root{{{colours}}}\n{sheet}"
