"""A sweep's drawings as Plotly's figures: parallel coordinates, importance, best so far."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.io.json import to_json_plotly

from datamodules.palette import EDGE, FAINT, INK, Colour
from tap_platform.config.space import Dimension
from tap_platform.dashboard.importance import Importance
from tap_platform.dashboard.sweeps import SweepAccount
from tap_platform.dashboard.words import number, seconds_of
from tap_platform.sweeps.records import TrialRecord

_BLUE, _ORANGE = "#006ab8", "#ce4e1a"
_FROM_BAD_TO_GOOD = ["#d3dfec", "#5b93c4", "#002d57"]
MOST_LINES = 300
"""Trials that are drawn as lines, the best ones."""
_ABSENT = "not set"
_TICKS = 5
_ROOM_BELOW = 0.14
"""Share of an axis below its range, for trials without the value."""
_AXIS_WIDTH = 150
"""Pixels of the page from one axis to the next."""


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _layout(**changes: Any) -> dict[str, Any]:
    grid = {"gridcolor": _hex(EDGE), "zeroline": False, "linecolor": _hex(EDGE), "automargin": True}
    return {
        "template": None,
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": _hex(INK)},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 16, "t": 16, "b": 8},
        "hoverlabel": {"bgcolor": "white", "font": {"color": _hex(INK)}},
        "showlegend": False,
        "xaxis": grid,
        "yaxis": grid,
        **changes,
    }


def _json(figure: go.Figure) -> str:
    """JSON that may stand within a script of a page."""
    return str(to_json_plotly(figure.to_plotly_json())).replace("<", "\\u003c")


def best_so_far(sweep: SweepAccount) -> str:
    """Each measurement of a trial over the hours since the sweep's start, and the best until then.

    Returns:
        Figure as JSON.
    """
    begin = seconds_of(sweep.status.started)
    measured = [
        ((seconds_of(record.time) - begin) / 3600, record)
        for record in sweep.history
        if record.objective is not None and record.what == "measured"
    ]
    hours = [max(0.0, at) for at, _ in measured]
    values = [record.objective for _, record in measured if record.objective is not None]
    told = [
        f"{record.trial}, step {record.step:,}<br>{number(record.objective)}"
        for _, record in measured
    ]
    best: list[float] = []
    for value in values:
        is_best = not best or sweep.config.objective.better(value, best[-1])
        best.append(value if is_best else best[-1])
    points = {"color": _BLUE, "size": 6, "opacity": 0.35}
    figure = go.Figure(
        [
            go.Scatter(
                x=hours, y=values, mode="markers", marker=points, text=told, hoverinfo="text"
            ),
            go.Scatter(
                x=hours,
                y=best,
                mode="lines",
                line={"color": _ORANGE, "width": 2.5, "shape": "hv"},
                hovertemplate="best so far %{y:.4g}<extra></extra>",
            ),
        ]
    )
    figure.update_layout(_layout(height=320))
    figure.update_xaxes(title="hours since the start", rangemode="tozero")
    figure.update_yaxes(title=html.escape(sweep.config.objective.metric))
    return _json(figure)


def importance_bars(importance: Importance) -> str:
    """The share of each key.

    Returns:
        Figure as JSON.
    """
    keys = list(reversed(importance.shares))
    shares = [100 * importance.shares[key] for key in keys]
    figure = go.Figure(
        go.Bar(
            x=shares,
            y=[_label(key) for key in keys],
            orientation="h",
            marker={"color": _BLUE},
            text=[f"{share:.0f} %" for share in shares],
            textposition="auto",
            hoverinfo="none",
        )
    )
    figure.update_layout(_layout(height=max(320, 44 * len(keys) + 70)))
    figure.update_xaxes(title="share of the importance, %", rangemode="tozero")
    return _json(figure)


def parallel_coordinates(sweep: SweepAccount) -> tuple[str, int]:
    """One line a trial, over its values to its objective; in SVG, which needs no WebGL.

    Returns:
        Figure as JSON, and the width that it needs, in pixels.
    """
    shown = [r for r in sweep.ranked if r.objective is not None and r.state != "failed"][
        :MOST_LINES
    ]
    objective = [record.objective for record in shown if record.objective is not None]
    axes = [
        _axis(key, dimension, [record.values.get(key) for record in shown])
        for key, dimension in sweep.config.space.items()
    ]
    axes.append(_numbers(sweep.config.objective.metric, list(objective), is_log=False))
    is_max = sweep.config.objective.mode == "max"
    good = [place if is_max else 1 - place for place in axes[-1].places]
    colours = sample_colorscale(_FROM_BAD_TO_GOOD, good)
    lines = [_line(record, place, axes, colours[place]) for place, record in enumerate(shown)]
    figure = go.Figure(list(reversed(lines)))  # the best ones above the others
    figure.update_layout(
        _layout(
            height=400,
            margin={"l": 70, "r": 70, "t": 56, "b": 20},
            hovermode="closest",
            shapes=[_upright(place) for place in range(len(axes))],
            annotations=[a for place, axis in enumerate(axes) for a in axis.annotations(place)],
            xaxis={"visible": False, "range": [-0.15, len(axes) - 0.85], "fixedrange": True},
            yaxis={"visible": False, "range": [-0.04, 1.04], "fixedrange": True},
        )
    )
    return _json(figure), max(480, _AXIS_WIDTH * len(axes))


class _Axis(NamedTuple):
    """One upright axis."""

    label: str
    places: list[float]
    """Of each trial on it, from 0 to 1."""
    told: list[str]
    """Each trial's value."""
    ticks: list[tuple[float, str]]

    def annotations(self, at: int) -> list[dict[str, Any]]:
        """Its name and its ticks."""
        plain = {"x": at, "showarrow": False}
        name = {**plain, "y": 1.04, "yanchor": "bottom", "text": self.label}
        return [
            name,
            *(
                {
                    **plain,
                    "y": place,
                    "text": text,
                    "xanchor": "right",
                    "xshift": -5,
                    "font": {"size": 11.5, "color": _hex(FAINT)},
                    "bgcolor": "rgba(255,255,255,.75)",
                    "borderpad": 1,
                }
                for place, text in self.ticks
            ),
        ]


def _line(record: TrialRecord, place: int, axes: Sequence[_Axis], colour: str) -> go.Scatter:
    told = [
        f"<b>{record.trial}</b>, {record.state}<br>{axis.label.replace('<br>', '')}:"
        f" {axis.told[place]}"
        for axis in axes
    ]
    return go.Scatter(
        x=list(range(len(axes))),
        y=[axis.places[place] for axis in axes],
        mode="lines+markers",
        line={"color": colour, "width": 1.8},
        marker={"size": 5, "color": colour},
        opacity=0.85,
        text=told,
        hoverinfo="text",
    )


def _upright(place: int) -> dict[str, Any]:
    line = {"color": _hex(FAINT), "width": 1}
    return {"type": "line", "x0": place, "x1": place, "y0": 0, "y1": 1, "line": line}


def _axis(key: str, dimension: Dimension, values: Sequence[Any]) -> _Axis:
    if dimension.listed is not None and dimension.whole is None:
        return _choices(key, dimension.listed, values)
    return _numbers(key, values, is_log=dimension.log_uniform is not None)


def _choices(key: str, listed: Sequence[Any], values: Sequence[Any]) -> _Axis:
    names = [_short(number(value)) for value in listed]
    numbers = [listed.index(value) if value in listed else -1 for value in values]
    if -1 in numbers:
        names, numbers = [_ABSENT, *names], [place + 1 for place in numbers]
    room = len(names)
    places = [(place + 0.5) / room for place in numbers]
    ticks = [((place + 0.5) / room, name) for place, name in enumerate(names)]
    return _Axis(_label(key), places, [names[place] for place in numbers], ticks)


def _numbers(key: str, values: Sequence[float | None], *, is_log: bool) -> _Axis:
    there = [float(value) for value in values if value is not None]
    at = [math.log10(value) for value in there] if is_log else there
    low, high = min(at, default=0.0), max(at, default=1.0)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    floor = _ROOM_BELOW if None in values else 0.0

    def place(value: float) -> float:
        return floor + (1 - floor) * (value - low) / (high - low)

    steps = [low + (high - low) * k / (_TICKS - 1) for k in range(_TICKS)]
    ticks = [(place(step), f"{10**step if is_log else step:.3g}") for step in steps]
    found = iter(at)
    places = [0.0 if value is None else place(next(found)) for value in values]
    told = [_ABSENT if value is None else number(value) for value in values]
    return _Axis(_label(key), places, told, [*([(0.0, _ABSENT)] if floor else []), *ticks])


def _label(key: str) -> str:
    """A key on two lines, without what Plotly would take for markup."""
    head, dot, last = html.escape(key).rpartition(".")
    return f"{head}{dot}<br>{last}" if head else last


def _short(text: str) -> str:
    return html.escape(text if len(text) <= 14 else f"{text[:13]}…")
