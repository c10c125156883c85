from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from tap_platform.config.job import JobConfig
from tap_platform.config.load import load_job
from tap_platform.config.schema import job_schema

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted(
    path
    for folder in ("jobs", "sweeps")
    for path in (ROOT / folder).glob("*.yaml")
    if {"name", "stages"} & yaml.safe_load(path.read_text()).keys() == {"name"}
)


@pytest.fixture(scope="module")
def validator():
    jsonschema.Draft202012Validator.check_schema(job_schema())
    return jsonschema.Draft202012Validator(job_schema())


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_job_file_fits_the_schema(validator, path):
    validator.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_resolved_job_fits_the_schema(validator, path):
    validator.validate(load_job(path).model_dump(mode="json"))


@pytest.mark.parametrize(
    "tree",
    [
        {"optimiser": {}},
        {"optimizer": {"lrr": 1}},
        {"optimizer": {"lr": -1}},
        {"model": {"preset": "vitb"}},
        {"data": {"source": "scene"}},
        {"data": {"source": "scenes", "shards": "x"}},
        {"extends": 3},
    ],
)
def test_mistakes_do_not_fit(validator, tree):
    assert not validator.is_valid(tree)


def test_the_schema_carries_the_help_and_leaves_the_config_alone():
    lr = job_schema()["$defs"]["OptimizerConfig"]["properties"]["lr"]
    assert lr["description"] == "Peak learning rate (paper: 1e-3)."
    assert "extends" not in JobConfig.model_json_schema()["properties"]
    assert job_schema() == job_schema()
