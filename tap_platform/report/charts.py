"""A panel of lines as SVG, drawn by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from datamodules.palette import EDGE, FAINT, INK, Colour
from tap_platform.report.curves import Line, Panel

WIDTH, HEIGHT = 380, 220
"""Size of a chart, in pixels of the page where it is not enlarged."""
LINES: tuple[Colour, ...] = ((0, 106, 184), (206, 78, 26))
"""Blue and orange, which eyes that confuse red and green tell apart."""

_LEFT, _RIGHT, _BELOW, _ABOVE = 62, 24, 42, 26
"""Room around the axes, in pixels: the same in every chart, so that they stand in line."""

_PLAIN = "{x:.4g}"

# SVG counts 72 points to the inch, so that a point of the drawing is a pixel of the page.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 11.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw_chart(panel: Panel, lines: Sequence[Line], resumed: Sequence[int], end: float) -> str:
    """Draw the lines of a panel.

    A dense line is drawn faint, with its running mean on it. Steps at which the run was resumed are
    dotted. Values that are not finite are gaps.

    Args:
        panel: its axes.
        lines: at least one.
        resumed: steps.
        end: the step at which the axis ends.

    Returns:
        An SVG document.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": panel.title}):
        figure = Figure((WIDTH / 72, HEIGHT / 72))
        wide, high = WIDTH - _LEFT - _RIGHT, HEIGHT - _BELOW - _ABOVE
        axes = figure.add_axes((_LEFT / WIDTH, _BELOW / HEIGHT, wide / WIDTH, high / HEIGHT))
        for step in set(resumed):
            axes.axvline(step, color=_hex(FAINT), linewidth=1, linestyle=(0, (1, 2)))
        for line, colour in zip(lines, LINES, strict=False):
            _draw(axes, line, _hex(colour))
        _dress(axes, panel, end, is_named=len(lines) > 1)
        if panel.is_logarithmic and any((line.values > 0).any() for line in lines):
            _make_logarithmic(axes)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return written.getvalue()


def _draw(axes: Axes, line: Line, colour: str) -> None:
    drawn = line.thinned()
    if line.is_dense:
        axes.plot(drawn.steps, drawn.values, color=colour, linewidth=0.8, alpha=0.3)
        steady = Line(line.label, line.steps, line.steady()).thinned()
        axes.plot(steady.steps, steady.values, color=colour, linewidth=1.8, label=line.label)
    else:
        (marked,) = axes.plot(drawn.steps, drawn.values, "o-", color=colour, label=line.label)
        marked.set(linewidth=1.8, markersize=3.5)


def _dress(axes: Axes, panel: Panel, end: float, *, is_named: bool) -> None:
    """Axes, ticks and names."""
    axes.set_xlabel("step", color=_hex(FAINT))
    axes.set_ylabel(panel.unit, color=_hex(FAINT))
    axes.yaxis.set_label_coords(-48 / (WIDTH - _LEFT - _RIGHT), 0.5)
    axes.grid(axis="y", color=_hex(EDGE), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_hex(INK), length=3, width=0.8)
    for spine in axes.spines.values():
        spine.set_color(_hex(EDGE))
    axes.set_xlim(0, end)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(StrMethodFormatter(_PLAIN))
    if not panel.is_logarithmic:
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    if is_named:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0,
            ncols=2,
            frameon=False,
            handlelength=1.2,
        )


def _make_logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter(_PLAIN))


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
