from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from tap_platform.report.charts import HEIGHT, WIDTH, draw_chart
from tap_platform.report.curves import MOST_POINTS, PANELS, Line, lines_of, resumed_at
from tap_platform.runs.metrics import MetricsWriter, read_metrics

PANEL = {panel.title: panel for panel in PANELS}


def line(values, name="loss"):
    return Line(name, np.arange(1.0, len(values) + 1), np.array(values, np.float64))


def texts(svg):
    return [e.text for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


def test_a_resumed_run_is_one_line_of_its_last_words(tmp_path):
    for attempt, steps in ((1, range(1, 7)), (2, range(5, 9))):
        writer = MetricsWriter(tmp_path / "metrics.jsonl", attempt)
        for step in steps:
            writer.write(step, {"loss": 10 * attempt + step})
    (found,) = lines_of(PANEL["Training loss"], read_metrics(tmp_path / "metrics.jsonl"))
    assert found.steps.tolist() == list(range(1, 9))
    assert found.values.tolist() == [11, 12, 13, 14, 25, 26, 27, 28]


def test_a_panel_has_the_lines_that_were_measured_in_its_unit(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.write(4, {"box_iou": 0.5}, kind="val")
    writer.write(4, {"box_iou": 0.9}, kind="final")
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    (found,) = lines_of(PANEL["Held-out masks"], metrics)
    assert (found.label, found.values.tolist()) == ("by box", [50])
    assert not lines_of(PANEL["Training loss"], metrics)


def test_what_is_not_finite_is_a_gap_and_counted(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    for step, value in enumerate((4.0, float("nan"), float("inf"), 3.0)):
        writer.write(step, {"loss": value})
    (found,) = lines_of(PANEL["Training loss"], read_metrics(tmp_path / "metrics.jsonl"))
    assert found.lost == 2
    assert found.last == 3
    drawn = draw_chart(PANEL["Training loss"], [found], [], 3)
    assert "nan" not in drawn.lower()


def test_the_running_mean_is_that_of_finite_neighbours():
    values = np.where(np.arange(100) % 2, 1.0, 3.0)
    values[50] = np.nan
    steady = line(values).steady()
    assert steady[48:53] == pytest.approx([2, 1.5, 2, 1.5, 2])
    assert line(values).last == pytest.approx(5 / 3)
    assert np.isnan(line([np.nan] * 60).steady()).all()
    assert np.isnan(line([np.nan] * 60).last)


@pytest.mark.parametrize("length", [1, MOST_POINTS, MOST_POINTS + 1, 20_001])
def test_a_long_line_is_thinned_to_means_that_keep_its_level(length):
    values = np.sin(np.arange(length) / 100)
    thin = line(values).thinned()
    assert len(thin.values) == min(length, -(-length // -(-length // MOST_POINTS)))
    assert len(thin.values) <= MOST_POINTS
    assert np.all(np.diff(thin.steps) > 0)
    assert np.interp(thin.steps, np.arange(1.0, length + 1), values) == pytest.approx(
        thin.values, abs=0.02
    )


def test_a_chart_names_its_axes_and_lines_and_no_address():
    panel = PANEL["Dice loss"]
    lines = [line(np.linspace(1, 0, 80), "first prompt"), line(np.linspace(1, 0, 80), "second")]
    drawn = draw_chart(panel, lines, [40], 80)
    assert {"step", "first prompt", "second", "0", "80"} <= set(texts(drawn))
    root = ElementTree.fromstring(drawn)
    assert root.get("viewBox") == f"0 0 {WIDTH} {HEIGHT}"
    assert not [e for e in root.iter() if e.tag.endswith("}image")]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_every_panel_draws_one_point_and_nothing_finite(panel):
    for values in ([2.5], [np.nan], [0.0, 0.0]):
        assert "step" in texts(draw_chart(panel, [line(values)], [], 5))


def test_resumes_are_at_the_steps_of_their_checkpoints():
    events = [
        {"kind": "training", "goes_on_from": None},
        {"kind": "training", "goes_on_from": "step-400"},
        {"kind": "failed"},
        {"kind": "training", "goes_on_from": "step-800"},
    ]
    assert resumed_at(events) == [400, 800]
