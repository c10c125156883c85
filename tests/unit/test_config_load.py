from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tap_platform.config.load import load_job, merge, parse_override, validate_job
from tap_platform.config.load_pipeline import is_pipeline

JOBS = Path(__file__).resolve().parents[2] / "jobs"
SPECS = [path for path in sorted(JOBS.glob("*.yaml")) if not is_pipeline(path)]
PLAIN = """
name: plain
model: {preset: tiny}
data: {source: scenes, path: scenes, train_scenes: 10}
training: {max_steps: 100, global_batch: 8}
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write(tmp_path / "plain.yaml", PLAIN)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_is_laid_over_those_it_extends(spec):
    write(spec.parent / "deep/middle.yaml", "extends: ../plain.yaml\ndata: {train_scenes: 20}\n")
    top = write(
        spec.parent / "top.yaml", "extends: deep/middle.yaml\nname: top\nscale: {workers: 2}\n"
    )
    job = load_job(top)
    assert (job.name, job.data.train_scenes, job.scale.workers) == ("top", 20, 2)
    assert job.training.max_steps == 100


def test_files_that_extend_in_a_circle_are_named(spec):
    one = write(spec.parent / "one.yaml", "extends: two.yaml\n")
    write(spec.parent / "two.yaml", "extends: one.yaml\n")
    with pytest.raises(ValueError, match=r"circle: .*one\.yaml -> .*two\.yaml -> .*one\.yaml"):
        load_job(one)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds NoneType, expected keys and values"),
        ("- a\n- b\n", "holds list"),
        ("name: [", "is not YAML"),
        ("extends: [a.yaml]\n", "takes the path of one YAML file"),
        ("extends: nowhere.yaml\n", r"nowhere\.yaml: cannot be read \(No such file"),
    ],
)
def test_broken_files_are_named(spec, text, message):
    with pytest.raises(ValueError, match=message):
        load_job(write(spec, text))


def test_files_that_are_not_text_are_named(spec):
    spec.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ValueError, match=r"plain\.yaml: is not YAML"):
        load_job(spec)
    with pytest.raises(ValueError, match="cannot be read"):
        load_job(spec.parent)


@pytest.mark.parametrize(
    "override",
    [
        "data.path=s3://AKIA0:sec/ret@bucket/set",
        "storage=https://AKIA0@host/runs",
        "data.vocabulary=https://host/v?X-Amz-Signature=AKIA0",
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_shown(spec, override):
    with pytest.raises(ValueError, match="holds a key or password") as told:
        load_job(spec, ["data.source=shards", "data.path=data", override])
    assert override.partition("=")[0] in str(told.value)
    assert "AKIA0" not in str(told.value)


def test_overrides_change_leaves_and_leave_their_neighbours(spec):
    job = load_job(
        spec,
        [
            "optimizer.lr=3e-4",
            "optimizer.betas=[0.9, 0.95]",
            "tracking.tags.team=vision",
            "evaluation.every_steps=null",
            "training.watch_gradients=false",
            "data.jitter.minimum=0.75",
        ],
    )
    assert job.optimizer.lr == 3e-4
    assert job.optimizer.betas == (0.9, 0.95)
    assert job.optimizer.weight_decay == 0.1
    assert job.tracking.tags == {"team": "vision"}
    assert job.evaluation.every_steps is None
    assert job.training.watch_gradients is False
    assert (job.data.jitter.minimum, job.data.jitter.maximum) == (0.75, 2.0)
    assert job.data.train_scenes == 10


def test_the_last_of_two_overrides_of_a_key_wins(spec):
    assert load_job(spec, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("text", ["lr", "=3", "optimizer..lr=3", ".lr=3", ""])
def test_malformed_overrides_are_refused(text):
    with pytest.raises(ValueError, match="expected key=value, such as"):
        parse_override(text)


def test_an_override_that_is_not_yaml_is_refused():
    with pytest.raises(ValueError, match=r"override 'seed=\[1': '\[1' is not a YAML value"):
        parse_override("seed=[1")


def test_an_override_may_hold_equals_signs():
    assert parse_override("tracking.mlflow.uri=http://a/?b=c") == {
        "tracking": {"mlflow": {"uri": "http://a/?b=c"}}
    }


def test_merge_alters_neither_side():
    below, above = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}
    assert merge(below, above) == {"a": {"b": 3, "c": 2}}
    assert (below, above) == ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})


def test_a_section_that_changes_its_kind_starts_anew():
    below = {"data": {"source": "scenes", "train_scenes": 5}}
    same = {"data": {"source": "scenes", "path": "x"}}
    other = {"data": {"source": "shards", "path": "x"}}
    assert merge(below, same)["data"] == {"source": "scenes", "train_scenes": 5, "path": "x"}
    assert merge(below, other)["data"] == {"source": "shards", "path": "x"}


@pytest.mark.parametrize("start", ["one", {"source": "one"}])
def test_initial_weights_keep_what_is_said_of_them_however_they_are_written(start):
    below = {"init_from": start}
    skipping = merge(below, parse_override("init_from.skip=[text_decoder.]"))
    assert skipping["init_from"] == {"source": "one", "skip": ["text_decoder."]}
    other = merge(skipping, parse_override("init_from.source=two"))
    assert other["init_from"] == {"source": "two", "skip": ["text_decoder."]}
    assert merge(other, parse_override("init_from=three"))["init_from"] == "three"


@pytest.mark.parametrize("turn", [1, -1])
def test_the_order_of_overrides_of_several_keys_does_not_matter(spec, turn):
    changes = ["data.source=coco", "data.path=pictures", "model.drop_path=0.3"][::turn]
    job = load_job(spec, [*changes, "model.preset=vit_b"][::turn])
    assert (job.data.source, Path(job.data.path).name) == ("coco", "pictures")
    assert (job.model.encoder_dim, job.model.drop_path) == (768, 0.3)


def test_paths_become_absolute_from_where_the_caller_stands(spec, tmp_path):
    job = load_job(spec, ["storage=~/runs", "recipe.mae_weights=mae.safetensors"])
    assert job.storage == str(Path.home() / "runs")
    assert job.data.path == str(tmp_path / "scenes")
    assert job.recipe.mae_weights == str(tmp_path / "mae.safetensors")
    coco = load_job(spec, ["data.source=coco", "data.path=/pictures", "storage=s3://bucket/runs"])
    assert (coco.data.path, coco.data.shards) == ("/pictures", str(tmp_path / "data/coco"))
    assert coco.storage == "s3://bucket/runs"
    assert coco.recipe.mae_weights is None


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_resolved_job_is_read_back_the_same(path):
    job = load_job(path)
    resolved = json.loads(json.dumps(job.model_dump(mode="json")))
    again = validate_job(resolved, where="config.json")
    assert again == job
    assert again.identity == job.identity
    assert len(job.identity) == 64


def test_the_identity_is_that_of_every_process_and_changes_with_the_job(spec):
    job = load_job(spec)
    code = (
        "from tap_platform.config.load import load_job; import sys;"
        "print(load_job(sys.argv[1]).identity)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    told = subprocess.run(
        [sys.executable, "-c", code, spec],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert told.stdout.strip() == job.identity
    assert load_job(spec, ["seed=1"]).identity != job.identity
    assert load_job(spec, ["optimizer.lr=1.0e-3"]).identity == job.identity
