"""`tap plan --on`: what is printed, what JSON holds, what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tap_platform.config.load import load_job
from tap_platform.config.load_profile import load_profile
from tap_platform.launch.plan_estimate import EstimatedPlan, make_estimated_plan
from tap_platform.launch.plan_tables import print_estimate
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import write_json
from tap_platform.runs.metrics import MetricsWriter

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "jobs/tap_tiny_scenes.yaml"
SMALL = ("model={preset: tiny, image_size: 128, window_size: 4}", "data.regions_per_image=4")
H100 = {
    "place": "ray",
    "address": "http://head:8265",
    "groups": [
        {
            "name": "h100",
            "gpu": {"type": "H100", "count": 8, "memory_gb": 2},
            "cpus": 64,
            "memory": "64Gi",
            "nvlink_gbps": 3600,
            "price_per_hour": 55,
        }
    ],
}


@pytest.fixture
def h100(tmp_path):
    path = tmp_path / "two_gb.yaml"
    path.write_text(json.dumps(H100))
    return path


def estimated(path, *overrides, like=None):
    name, profile = load_profile(str(path))
    return make_estimated_plan(load_job(JOB, [*SMALL, *overrides]), profile, name, like)


def printed(plan):
    text = io.StringIO()
    print_estimate(plan.estimate, Console(file=text, width=100))
    return text.getvalue()


def test_json_leads_back_to_the_plan(tap, h100):
    status, output, _ = tap("plan", JOB, *SMALL, "training.precision=bf16", "--on", h100, "--json")
    assert status == 0
    plan = EstimatedPlan.model_validate_json(output)
    told = plan.estimate
    assert told.profile == "two_gb"
    assert told.nodes[0].gpus_per_pod == told.nodes[0].workers_per_pod == 2
    assert told.work.flops_per_step == 2 * told.work.flops_per_worker
    assert told.activations.recomputed < told.activations.kept
    assert told.memory.fits
    assert told.bill.total == pytest.approx(told.pace.hours * 55 / 4)
    assert plan.batch.workers == 2


@pytest.mark.long
def test_an_elastic_job_is_estimated_at_the_workers_that_find_room(h100):
    large = ("training.precision=bf16", "training.global_batch=64", "data.partitions=64")
    elastic = ("scale.strategy=zero_2", "checkpoint.every_steps=10", "training.micro_batch=1")
    told = estimated(h100, *large, *elastic, "scale.workers=[2, 64]").estimate
    alone = estimated(h100, *large, *elastic, "scale.workers=8").estimate
    assert told.nodes[0].pods_most * told.nodes[0].workers_per_pod == 8
    for part in ("memory", "work", "pace", "bill", "feed", "checkpoint", "ways"):
        assert getattr(told, part) == getattr(alone, part), part
    assert any("8 workers all the time, for more find no room of 64" in a for a in told.assumptions)


@pytest.mark.long
def test_a_plan_says_what_would_fit_and_that_does(h100):
    gpus = {**H100["groups"][0], "gpu": {"type": "H100", "count": 8, "memory_gb": 1.6}}
    h100.write_text(json.dumps({**H100, "groups": [gpus]}))
    heavy = ("training.precision=bf16", "training.global_batch=8", "data.regions_per_image=32")
    plan = estimated(h100, *heavy)
    told = plan.estimate
    assert not told.memory.fits
    assert told.warnings[0].startswith("it does not fit")
    assert told.ways
    text = printed(plan)
    assert "does not fit" in text
    assert max(map(len, text.splitlines())) <= 100
    for way in told.ways:
        assert way.total <= told.memory.available
        assert all(override in text for override in way.overrides)
    again = estimated(h100, *heavy, *told.ways[0].overrides).estimate.memory
    assert again.fits
    assert again.total == told.ways[0].total


def test_tables_are_for_people(h100):
    text = printed(estimated(h100, "training.precision=bf16", "optimizer.ema_decay=0.99"))
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for word in (
        "weights",
        "gradients",
        "optimizer",
        "moving average",
        "activations",
        "USD",
        "hours",
    ):
        assert word in text


def test_a_laptop_is_told_that_nothing_tells_its_time(tap):
    status, output, _ = tap("plan", JOB, *SMALL, "--on", "local")
    assert status == 0
    assert "not known: nothing tells how fast these CPUs are" in output.replace("\n", " ") or (
        "nothing tells how fast" in output
    )
    assert "the profile has no prices" in output


@pytest.mark.long
def test_a_measured_run_tells_the_time(tmp_path):
    job = load_job(JOB, [*SMALL, f"storage={tmp_path}"])
    run = RunDirectory.create(tmp_path, job.project, "measured-1")
    write_json(run.config, job.model_dump(mode="json"))
    writer = MetricsWriter(run.metrics)
    for step, seconds in ((10, 9.0), (20, 0.5), (30, 0.5)):
        writer.write(step, {"speed/seconds_per_step": seconds})
    # The same steps, then steps of twice the images.
    same = estimated("local", f"storage={tmp_path}", like="measured-1").estimate
    assert same.pace.step_seconds == pytest.approx(0.5)
    assert "measured-1" in same.pace.basis
    twice = estimated(
        "local", f"storage={tmp_path}", "training.global_batch=8", like="measured-1"
    ).estimate
    assert twice.pace.step_seconds == pytest.approx(1.0, rel=0.01)


def test_a_run_without_measures_is_refused(tmp_path):
    job = load_job(JOB, [*SMALL, f"storage={tmp_path}"])
    run = RunDirectory.create(tmp_path, job.project, "empty-1")
    write_json(run.config, job.model_dump(mode="json"))
    with pytest.raises(ValueError, match="empty-1 has no speed/seconds_per_step"):
        estimated("local", f"storage={tmp_path}", like="empty-1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--on", "nowhere"), "there is no profile 'nowhere'"),
        (("--on", "cpu", "scale.workers=2", "scale.device=gpu"), "group cpu has no GPUs"),
        (
            (
                "--on",
                "node_8xh100",
                "data.partitions=16",
                "scale.workers=16",
                "training.global_batch=16",
            ),
            "8 H100 GPUs, the job wants 16",
        ),
        (("--like", "some-run"), "name it with --on"),
        (("--on", "node_8xh100", "storage=elsewhere"), "the profile says where runs lie"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(tap, arguments, said):
    status, _, errors = tap("plan", JOB, *arguments)
    assert status == 2
    assert said in errors
