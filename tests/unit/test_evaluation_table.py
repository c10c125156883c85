from __future__ import annotations

import json

from rich.console import Console

from tap_platform.evaluation.scores import RegionScores
from tap_platform.evaluation.table import score_dict, score_markdown, score_table

COLUMNS = {
    "trained": RegionScores(0.81, 0.62, 0.7, None, 10, 0),
    "untrained": RegionScores(0.051, 0.9, 0.9, None, 10, 0),
}


def test_markdown():
    assert score_markdown(COLUMNS).splitlines() == [
        "| held-out regions | trained | untrained |",
        "|---|---:|---:|",
        "| mask mIoU by box | 81.0 % | 5.1 % |",
        "| mask mIoU by one point | 62.0 % | 90.0 % |",
        "| concept top-1 | - | - |",
        "",
        "10 regions, 0 of them named",
    ]


def test_the_terminal_table_marks_the_best_of_each_row():
    console = Console(record=True, width=100, force_terminal=True)
    with console.capture() as capture:
        console.print(score_table(COLUMNS, title="What it learned"))
    text = capture.get()
    assert "What it learned" in text
    rows = {line.split("mIoU")[1]: line for line in text.splitlines() if "mIoU" in line}
    marked = [line[line.index("\x1b[1;32m") + 7 :].split("\x1b")[0] for line in rows.values()]
    assert marked == ["81.0 %", "90.0 %"]


def test_the_plain_form_is_json_with_every_score():
    plain = json.loads(json.dumps(score_dict(COLUMNS)))
    assert plain["trained"] == {
        "box_iou": 0.81,
        "point_iou": 0.62,
        "point_oracle_iou": 0.7,
        "concept_top1": None,
        "regions": 10,
        "named_regions": 0,
        "cider": None,
        "meteor": None,
        "names_concept": None,
        "captions": 0,
    }
