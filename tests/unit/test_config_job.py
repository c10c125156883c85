from __future__ import annotations

from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from tap_platform.config.job import JobConfig
from tap_platform.config.load import merge, validate_job
from tap_platform.config.model import PRESETS, TapConfig

TREE = {
    "name": "plain",
    "model": {"preset": "tiny"},
    "data": {"source": "scenes"},
    "training": {"max_steps": 100, "global_batch": 8},
}


def job(**changes):
    return validate_job(merge(TREE, changes), where="job.yaml")


def complaint(**changes):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        job(**changes)
    assert not isinstance(error.value, ValidationError)
    assert "pydantic" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"optimiser": {}}, "unknown key 'optimiser'; did you mean 'optimizer'?"),
        ({"optimizer": {"lrr": 1}}, "unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'?"),
        (
            {"recipe": {"objective": {"prompts": {"max_point": 2}}}},
            "unknown key 'recipe.objective.prompts.max_point';"
            " did you mean 'recipe.objective.prompts.max_points'?",
        ),
        (
            {"data": {"train_scene": 3}},
            "unknown key 'data.train_scene'; did you mean 'data.train_scenes'?",
        ),
        (
            {"data": {"source": "shards", "path": "x", "partition": 8}},
            "unknown key 'data.partition'; did you mean 'data.partitions'?",
        ),
        (
            {"model": {"encoder_depht": 3}},
            "unknown key 'model.encoder_depht'; did you mean 'model.encoder_depth'?",
        ),
    ],
)
def test_a_wrong_key_is_told_with_the_nearest(changes, told):
    assert complaint(**changes) == f"job.yaml: {told}"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"lr": 1}, "optimizer.lr"),
        ({"max_step": 3}, "training.max_steps"),
        ({"workers": 2}, "scale.workers"),
        ({"optimizer": {"warmup_steps": 3}}, "schedule.warmup_steps"),
    ],
)
def test_a_key_in_the_wrong_section_is_told_where_it_belongs(changes, place):
    assert complaint(**changes).endswith(f"; did you mean {place!r}?")


def test_a_key_of_another_kind_is_told_where_it_goes():
    told = complaint(data={"val_fraction": 0.5})
    assert "unknown key 'data.val_fraction'; it goes with data.source=coco or " in told


def test_a_key_like_no_other_is_told_what_stands_beside_it():
    told = complaint(schedule={"zzz": 1})
    assert told.endswith("'schedule.zzz'; known: final_factor, warmup_factor, warmup_steps")


def test_every_fault_is_told_at_once():
    lines = complaint(optimiser={}, scale={"workers": 0}, storage=3).splitlines()
    assert sorted(lines) == [
        "job.yaml: scale.workers: give a number above 0, or [least, most], got 0",
        "job.yaml: storage: input should be a valid string, got 3",
        "job.yaml: unknown key 'optimiser'; did you mean 'optimizer'?",
    ]


def test_missing_sections_are_named():
    with pytest.raises(ValueError, match="'training' is missing") as error:
        validate_job({"name": "plain", "data": {"path": "x"}}, where="job.yaml")
    assert "'model' is missing" in str(error.value)
    assert "'data.source' is missing" in str(error.value)
    assert complaint(data={"source": "coco"}) == "job.yaml: 'data.path' is missing"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"data": {"source": "scene"}},
            "data.source: no kind 'scene': choose one of 'shards', 'scenes', 'mixture'",
        ),
        (
            {"data": {"source": "shards", "path": "x", "partitions": -1}},
            "data.partitions: input should be greater than 0, got -1",
        ),
        (
            {"model": {"preset": "vitb"}},
            "model: no preset named 'vitb': choose one of tiny, vit_b, vit_l, vit_h",
        ),
        (
            {"optimizer": {"lr": float("inf")}},
            "optimizer.lr: input should be a finite number, got inf",
        ),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr: input should be a valid number"),
        ({"optimizer": {"betas": [0.9]}}, "'optimizer.betas.1' is missing"),
        ({"name": "Two Words"}, "name: string should match pattern"),
        ({"training": {"precision": "fp8"}}, "training.precision: input should be 'fp32', 'bf16'"),
    ],
)
def test_wrong_values_are_told_with_their_dotted_key(changes, told):
    assert complaint(**changes).startswith(f"job.yaml: {told}")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"scale": {"workers": 9}},
            r"scale.workers 9 is above data.partitions 8: .* take 8 workers at most",
        ),
        (
            {"scale": {"workers": [2, 9]}, "checkpoint": {"every_steps": 5}},
            r"scale.workers 9 is above data.partitions 8: .* take 8 workers at most",
        ),
        (
            {"training": {"global_batch": 12}},
            "data.partitions 8 does not divide training.global_batch 12",
        ),
        (
            {"schedule": {"warmup_steps": 100}},
            "warmup_steps 100 is not below training.max_steps 100",
        ),
        (
            {"data": {"jitter": {"minimum": 3}}},
            r"data.jitter.minimum 3.0 is above data.jitter.maximum 2.0",
        ),
        (
            {"training": {"precision": "fp16"}, "scale": {"device": "cpu"}},
            "fp16 needs a GPU: take bf16 or fp32",
        ),
    ],
)
def test_parts_that_do_not_fit_are_told_with_the_numbers(changes, told):
    with pytest.raises(ValueError, match=told):
        job(**changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_size": 100}, "image_size 100 is not a multiple of patch_size x window_size = 128"),
        ({"encoder_dim": 130}, "encoder_dim 130 is not a multiple of encoder_heads 4"),
        ({"text_dim": 129}, "text_dim 129 is not a multiple of text_heads 2"),
        ({"embed_dim": 12, "decoder_heads": 4}, "embed_dim 12 .* 2 x decoder_heads = 8"),
        ({"encoder_depth": 6}, "encoder_depth 6 is not a multiple of 4"),
    ],
)
def test_sizes_that_do_not_fit_are_told(changes, told):
    with pytest.raises(ValueError, match=f"job.yaml: model: {told}"):
        job(model=changes)


def test_presets_are_named_sets_of_sizes():
    with pytest.raises(ValueError, match="no preset named 'huge': choose one of tiny, vit_b"):
        TapConfig.preset("huge")
    assert TapConfig.preset("vit_b") == TapConfig()
    assert TapConfig.preset("vit_l", drop_path=0.5).drop_path == 0.5
    for name in PRESETS:
        assert job(model={"preset": name}).model == TapConfig.preset(name)
    tiny = TapConfig.preset("tiny")
    assert (tiny.grid_size, tiny.mask_size) == (16, 64)


@pytest.mark.parametrize(
    ("workers", "micro_batch", "expected"),
    [
        (1, None, (8, 1)),
        (2, None, (4, 1)),
        (2, 2, (2, 2)),
        (8, 1, (1, 1)),
        (1, 2, (2, 4)),
        # Three workers have 3, 3 and 2 partitions, five have 2, 2, 2, 1 and 1.
        (3, None, (3, 1)),
        (3, 2, (2, 2)),
        (5, None, (2, 1)),
        (5, 1, (1, 2)),
        # A step is cut evenly: two forward passes of two images, not of three and one.
        (2, 3, (2, 2)),
        (1, 100, (8, 1)),
    ],
)
def test_micro_batches_make_up_the_global_batch(workers, micro_batch, expected):
    made = job(scale={"workers": workers}, training={"micro_batch": micro_batch})
    assert (made.micro_batch, made.accumulation) == expected
    assert made.micro_batch <= (micro_batch or 8)
    assert workers * made.micro_batch * made.accumulation >= 8
    assert made.on(workers) == made.on(workers).on(workers)
    assert made.on(workers).accumulation == made.accumulation


def test_an_elastic_job_without_checkpoints_would_begin_anew_at_every_resize():
    told = complaint(scale={"workers": [1, 4]})
    assert "scale.workers [least, most] starts anew from the last checkpoint" in told
    assert "set checkpoint.every_minutes or checkpoint.every_steps" in told
    for often in ({"every_steps": 5}, {"every_minutes": 5}):
        job(scale={"workers": [1, 4]}, checkpoint=often)


def test_an_elastic_job_needs_no_more_memory_on_fewer_workers():
    elastic = job(
        scale={"workers": [1, 4]},
        training={"global_batch": 16},
        checkpoint={"every_minutes": 5},
    )
    assert (elastic.micro_batch, elastic.accumulation) == (4, 1)
    cut = {n: elastic.on(n) for n in range(1, 9)}
    assert {n: (each.micro_batch, each.accumulation) for n, each in cut.items()} == {
        1: (4, 4),
        2: (4, 2),
        3: (3, 2),
        4: (4, 1),
        5: (4, 1),
        6: (4, 1),
        7: (4, 1),
        8: (2, 1),
    }
    assert all(each.scale.workers == n for n, each in cut.items())
    assert all(each.training.max_steps == 100 for each in cut.values())
    with pytest.raises(ValueError, match="take 8 workers at most"):
        elastic.on(9)


def test_sections_are_immutable_and_copies_are_checked():
    made = job()
    with pytest.raises(ValidationError):
        made.optimizer.lr = 2.0
    assert made.optimizer.replaced(lr=2.0).lr == 2.0
    with pytest.raises(ValidationError):
        made.optimizer.replaced(lr=-1.0)


def sections_of(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from sections_of(field.annotation)
    for argument in get_args(annotation):
        yield from sections_of(argument)


def test_every_section_and_field_explains_itself():
    sections = set(sections_of(JobConfig))
    assert len(sections) >= 16
    silent = [
        f"{section.__name__}.{name}"
        for section in sections
        for name, field in section.model_fields.items()
        if not (field.description or "").strip()
    ]
    assert silent == []
    assert all(section.__doc__ for section in sections)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 2**32}, "seed"),
        ({"data": {"seed": 2**32}}, "data.seed"),
        ({"data": {"scene_seed": 2**64}}, "data.scene_seed"),
    ],
)
def test_a_seed_that_a_worker_would_refuse_is_refused_before(changes, key):
    assert complaint(**changes).startswith(f"job.yaml: {key}: input should be less than 4294967296")
