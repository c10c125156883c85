"""An ablation from its file to its tables, cut and resumed."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner
from tiny_model import MODEL
from whole_runs import losses

from tap_platform.cli import tap
from tap_platform.launch import ablation
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import read_status

CAPTIONS = {"recipe": {"type": "tap_caption", "tokenizer": "trained"}}
MASK_TOKEN = {"recipe": {"caption": {"token": "mask"}}}


@pytest.fixture
def spec(tmp_path):
    tree = {
        "name": "small",
        "storage": str(tmp_path / "runs"),
        "seeds": [0],
        "at_once": 2,
        "base": {
            "model": {**MODEL, "vocab_size": 120},
            "data": {
                "source": "scenes",
                "path": str(tmp_path / "scenes"),
                "train_scenes": 16,
                "val_scenes": 4,
                "scene_size": 96,
                "partitions": 1,
                "regions_per_image": 4,
                "reader_tasks": 0,
            },
            "training": {"max_steps": 2, "global_batch": 2, "log_every": 1},
            "evaluation": {"page": False},
            "tracking": {"tracker": "none"},
        },
        "stages": [
            {"name": "pretrain"},
            {"name": "caption", "after": "pretrain", "job": CAPTIONS},
        ],
        "variants": {
            "mask": {"about": "mask token", "changes": {"caption": MASK_TOKEN}},
            "semantic": {"about": "semantic token"},
        },
        "tables": [
            {
                "title": "tokens",
                "variants": ["mask", "semantic"],
                "measures": [
                    {"title": "top-1", "stage": "pretrain", "score": "concept_top1"},
                    {"title": "CIDEr", "stage": "caption", "score": "cider", "unit": ""},
                ],
                "rising": True,
            }
        ],
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster")
def test_an_ablation_that_was_cut_goes_on_to_its_tables(spec, tmp_path, monkeypatch):
    run_unit = ablation.run_unit

    def fail_in_captions(unit, parent):
        if unit.stage == "caption":
            raise RuntimeError("the machine is needed")
        run_unit(unit, parent)

    with monkeypatch.context() as patch:
        patch.setattr(ablation, "run_unit", fail_in_captions)
        with pytest.raises(RuntimeError, match="needed"):
            CliRunner().invoke(tap, ["ablate", str(spec)], catch_exceptions=False)
    parent, pretrained = RunDirectory.all(tmp_path / "runs")
    assert read_status(parent.status).state == "failed"
    before = losses(pretrained), read_status(pretrained.status)

    tree = yaml.safe_load(spec.read_text())
    tree["tables"][0]["title"] = "tokens, told anew"
    spec.write_text(yaml.safe_dump(tree))
    words = ["ablate", str(spec), "--resume", str(parent.path)]
    done = CliRunner().invoke(tap, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (losses(pretrained), read_status(pretrained.status)) == before
    assert read_status(parent.status).state == "finished"
    (table,) = json.loads((parent.report / "ablation.json").read_text())
    for variant in ("mask", "semantic"):
        (top1,), (cider,) = table["scores"][variant].values()
        assert 0 <= top1 <= 1
        assert cider >= 0
    assert table["scores"]["mask"]["top-1"] == table["scores"]["semantic"]["top-1"]
    assert "| mask | mask token |" in (parent.report / "ablation.md").read_text()
    assert "tokens, told anew" in done.output
