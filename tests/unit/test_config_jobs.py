"""The jobs that ship: each loads, and the large ones are the paper's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tap_platform.config.load import load_job
from tap_platform.config.load_pipeline import is_pipeline, load_pipeline
from tap_platform.launch.demo import JOB, job_file

JOBS = Path(__file__).resolve().parents[2] / "jobs"
PAPER = {"vit_b": (12, 768, 12, 0.1), "vit_l": (24, 1024, 16, 0.2), "vit_h": (32, 1280, 16, 0.2)}


def test_the_promised_jobs_are_there_and_are_named_after_their_files():
    names = {path.stem for path in JOBS.glob("*.yaml")}
    assert names >= {"tap_tiny_scenes", "tap_tiny_coco", "tap_vit_b", "tap_vit_l", "tap_vit_h"}
    assert names >= {"vg_partial_ft", "vg_full_ft", "coco_names_as_captions", "scenes_pipeline"}
    for name in names:
        path = JOBS / f"{name}.yaml"
        load = load_pipeline if is_pipeline(path) else load_job
        assert load(path).name == name


def test_the_demo_finds_its_job():
    assert load_job(job_file(JOB)).data.source == "scenes"


def test_the_first_job_of_a_cluster_survives_a_lost_worker():
    job = load_job(JOBS / "tap_tiny_scenes.yaml")
    assert job.scale.max_failures > 0
    assert job.checkpoint.every_steps < job.training.max_steps / 10


def test_the_coco_job_says_where_its_priors_come_from():
    job = load_job(JOBS / "tap_tiny_coco.yaml")
    assert (job.data.source, job.data.priors) == ("coco", "category_names")


@pytest.mark.parametrize("name", ["vg_partial_ft", "vg_full_ft"])
def test_fine_tuning_is_the_papers(name):
    job, pretraining = load_job(JOBS / f"{name}.yaml"), load_job(JOBS / "tap_vit_b.yaml")
    assert job.model == pretraining.model
    assert job.model.text_dropout == 0.4
    assert job.optimizer == pretraining.optimizer
    assert (job.training.max_steps, job.training.global_batch) == (60_000, 64)
    assert (job.scale.workers, job.micro_batch, job.accumulation) == (64, 1, 1)
    jitter = job.data.jitter
    assert (jitter.minimum, jitter.maximum, jitter.flip_probability) == (1.0, 1.0, 0.0)
    assert job.recipe.caption.prompt == "box"
    assert job.recipe.caption.token == "semantic"


def test_partial_fine_tuning_learns_phrases_of_grits_split():
    job = load_job(JOBS / "vg_partial_ft.yaml")
    assert (job.recipe.train, job.data.source, job.data.held_out) == (
        "text_decoder",
        "grit",
        "test",
    )
    assert job.data.phrases == "own"


def test_full_fine_tuning_mixes_masks_and_phrases():
    job = load_job(JOBS / "vg_full_ft.yaml")
    assert (job.recipe.train, job.data.source) == ("all", "mixture")
    assert len(job.data.mixture) == 2


def test_names_of_categories_stand_for_captions():
    job = load_job(JOBS / "coco_names_as_captions.yaml")
    assert (job.data.source, job.data.phrases) == ("coco", "category")
    assert job.recipe.trained_parts == ("text_decoder",)


def test_the_pipeline_of_scenes_goes_from_random_weights_to_captions():
    pipeline = load_pipeline(JOBS / "scenes_pipeline.yaml")
    assert [stage.name for stage in pipeline.stages] == ["pretrain", "partial", "full", "evaluate"]
    trained = [len(stage.job.recipe.trained_parts) for stage in pipeline.job_stages]
    assert trained == [3, 1, 4]
    objectives = [stage.job.recipe.objective for stage in pipeline.job_stages]
    assert objectives[0] == objectives[2]


@pytest.fixture(params=PAPER)
def size(request):
    return request.param


@pytest.fixture
def job(size):
    return load_job(JOBS / f"tap_{size}.yaml")


def test_model_of_the_paper(job, size):
    model = job.model
    shape = (model.encoder_depth, model.encoder_dim, model.encoder_heads, model.drop_path)
    assert shape == PAPER[size]
    assert (model.image_size, model.patch_size, model.window_size) == (1024, 16, 16)
    assert (model.embed_dim, model.decoder_depth, model.decoder_heads) == (256, 2, 8)
    assert (model.text_depth, model.text_dim, model.text_heads) == (12, 512, 8)
    assert (model.text_length, model.vocab_size, model.concept_dim) == (40, 32000, 1024)
    assert (model.decoder_dropout, model.text_dropout) == (0.1, 0.4)
    assert model.coordinate_scale == 1.0


def test_optimization_of_the_paper(job):
    optimizer, training = job.optimizer, job.training
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (1e-3, (0.9, 0.999), 0.1)
    assert optimizer.decay_rule == "v1.1"
    assert optimizer.gradient_clip is None
    assert (training.max_steps, training.global_batch) == (180_000, 256)
    assert (job.scale.workers, job.scale.device) == (256, "gpu")
    assert (job.micro_batch, job.accumulation) == (1, 1)


def test_objective_of_the_paper(job):
    objective = job.recipe.objective
    assert (objective.focal_weight, objective.dice_weight, objective.iou_weight) == (20, 1, 1)
    assert (objective.segmentation_weight, objective.concept_weight) == (1, 1)
    assert (objective.focal_alpha, objective.focal_gamma, objective.dice_epsilon) == (0.25, 2, 1)
    assert (objective.concept_loss, objective.temperature) == ("kl", 0.01)
    assert objective.prompts.max_points == 9
    assert objective.prompts.box_probability == 0.5
    assert objective.prompts.interactive_probability == 0.5


def test_data_of_the_paper(job):
    data = job.data
    assert (data.jitter.minimum, data.jitter.maximum) == (0.5, 2.0)
    assert data.regions_per_image == 64
    assert data.partitions % job.scale.workers == 0
