from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tap_platform.config.load import load_job
from tap_platform.config.model import PRESETS, TapConfig
from tap_platform.launch.parameters import count_parameters
from tap_platform.launch.plan import make_plan, print_plan
from tap_platform.models import Tap

ROOT = Path(__file__).resolve().parents[2]
FACTS = ROOT.parent / "shared" / "facts"


def counted(config):
    """Parameters of the real modules, by part; nothing is allocated."""
    with torch.device("meta"):
        model = Tap(config)
    return {
        name: sum(each.numel() for each in part.parameters())
        for name, part in model.named_children()
    }


@pytest.mark.parametrize(
    "config",
    [
        *(TapConfig.preset(name) for name in PRESETS),
        TapConfig.preset(
            "tiny",
            patch_size=8,
            window_size=4,
            encoder_depth=8,
            encoder_heads=2,
            embed_dim=96,
            decoder_depth=3,
            decoder_heads=3,
            concept_dim=40,
            text_depth=1,
            text_length=20,
            vocab_size=77,
        ),
    ],
    ids=[*PRESETS, "odd"],
)
def test_arithmetic_counts_what_the_modules_hold(config):
    counts = count_parameters(config)
    assert {name: count for name, count in counted(config).items() if count} == counts


@pytest.mark.parametrize(
    ("name", "encoder", "total"),
    [("vit_b", 97.40, 174.55), ("vit_l", 322.16, 399.31), ("vit_h", 658.64, 735.79)],
)
def test_counts_are_those_of_the_released_models(name, encoder, total):
    counts = count_parameters(TapConfig.preset(name))
    assert round(counts["image_encoder"] / 1e6, 2) == encoder
    assert round(sum(counts.values()) / 1e6, 2) == total


@pytest.fixture
def job():
    return load_job(
        ROOT / "jobs/tap_tiny_scenes.yaml",
        [
            "data.partitions=8",
            "scale.workers=4",
            "training.micro_batch=2",
            "training.global_batch=32",
            "training.max_steps=400",
        ],
    )


def test_batches_are_divided_as_the_plan_says(job):
    batch = make_plan(job).batch
    assert (batch.workers, batch.micro_batch, batch.accumulation) == (4, 2, 4)
    assert (batch.partitions, batch.partitions_per_worker, batch.images_per_partition) == (8, 2, 4)
    assert batch.workers * batch.micro_batch * batch.accumulation == batch.global_batch == 32
    assert batch.partitions * batch.images_per_partition == batch.global_batch
    assert batch.regions_at_most == 32 * 8
    assert batch.images_in_all == 32 * 400


def test_the_text_decoder_is_not_trained(job):
    plan = make_plan(job)
    assert plan.parameters == count_parameters(job.model)
    left_out = sum(plan.parameters.values()) - plan.trained_parameters
    assert left_out == plan.parameters["text_decoder"]


@pytest.mark.parametrize("train", ["text_decoder", "all"])
def test_fine_tuning_trains_the_text_decoder_alone_or_everything(train):
    changes = ["recipe.type=tap_caption", f"recipe.train={train}", "init_from=some-run"]
    plan = make_plan(load_job(ROOT / "jobs/tap_tiny_scenes.yaml", changes))
    everything = train == "all"
    assert plan.trained_parts == (list(plan.parameters) if everything else ["text_decoder"])
    assert plan.trained_parameters == sum(plan.parameters[part] for part in plan.trained_parts)
    text = io.StringIO()
    print_plan(plan, Console(file=text, width=100))
    rows = {line.split()[1]: line for line in text.getvalue().splitlines() if "│" in line}
    assert ("yes" in rows["image_encoder"]) == everything
    assert "yes" in rows["text_decoder"]


def test_a_plan_is_plain_json_that_leads_back_to_the_job(job):
    plan = json.loads(make_plan(job).model_dump_json())
    assert plan["job"]["training"]["global_batch"] == 32
    assert plan["identity"] == job.identity


def test_a_plan_is_printed_for_people(job):
    text = io.StringIO()
    print_plan(make_plan(job), Console(file=text, width=100))
    printed = text.getvalue()
    assert "global_batch: 32" in printed
    assert f"{sum(count_parameters(job.model).values()):,}" in printed
    assert "32 images = 4 workers x 2 images x 4 micro-batches" in printed
    assert "8 partitions give 4 images each, a worker reads 2 of them" in printed


def test_an_elastic_plan_tells_both_ends(job):
    elastic = job.replaced(scale=job.scale.replaced(workers=(3, 4)))
    plan = make_plan(elastic)
    assert plan.batch == make_plan(job).batch
    assert make_plan(job).least_batch is None
    fewest = plan.least_batch
    assert (fewest.workers, fewest.micro_batch, fewest.accumulation) == (3, 2, 6)
    assert fewest.partitions_per_worker == 3
    text = io.StringIO()
    print_plan(plan, Console(file=text, width=100))
    printed = text.getvalue()
    assert "32 images = 4 workers x 2 images x 4 micro-batches" in printed
    assert "at the least 3 workers x at most 2 images x 6 micro-batches, where" in printed
    assert "where a worker reads 2 or 3 of them" in printed
