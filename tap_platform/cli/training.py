"""Verbs that plan, train and follow runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tap_platform.cli.options import FILE


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def demo(overrides: tuple[str, ...]) -> None:
    """Train a tiny TAP on made scenes, and show what it learned."""
    from tap_platform.launch.demo import run_demo

    run_demo(overrides)


@click.command()
@click.argument("spec", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--resume", "run", metavar="RUN", help="Go on from a run's last checkpoint.")
def train(spec: str | None, overrides: tuple[str, ...], run: str | None) -> None:
    """Train the job SPEC, then evaluate it on held-out images.

    `tap train --resume RUN` takes the job from the run directory; RUN is its name or its path. What
    leaves it the same run may change: `tap train --resume RUN scale.workers=4`. So may all of
    scale, checkpoint, health and tracking, training.micro_batch, and training.max_steps may grow.
    """
    from tap_platform.config.load_pipeline import is_pipeline
    from tap_platform.launch.train import resume_run, start_run

    if run is not None:
        given = [*([spec] if spec else []), *overrides]
        _refuse_beside_resume([each for each in given if "=" not in each], "job")
        resume_run(run, given)
    elif spec is None:
        raise click.UsageError("name a job file, such as jobs/tap_tiny_scenes.yaml")
    elif is_pipeline(spec):
        raise click.UsageError(f"{spec} is a pipeline of several jobs: tap run {spec}")
    else:
        start_run(Path(spec), overrides)


@click.command("run")
@click.argument("spec", type=FILE, required=False)
@click.argument("overrides", nargs=-1, metavar="[STAGE.KEY=VALUE]...")
@click.option("--resume", "run", metavar="RUN", help="Go on from the stage and step it was in.")
def run_stages(spec: Path | None, overrides: tuple[str, ...], run: str | None) -> None:
    """Run the pipeline SPEC: its jobs one after the other, each from an earlier one's weights.

    `pretrain.training.max_steps=100` changes the stage `pretrain`, `all.tracking.tracker=none` all
    that train, `storage=FOLDER` where they lie. `tap run --resume RUN` goes on with the pipeline of
    a parent run.
    """
    from tap_platform.launch.pipeline import resume_pipeline, start_pipeline

    if run is not None:
        _refuse_beside_resume([*([str(spec)] if spec else []), *overrides], "pipeline")
        resume_pipeline(run)
    elif spec is None:
        raise click.UsageError("name a pipeline, such as jobs/scenes_pipeline.yaml")
    else:
        start_pipeline(spec, overrides)


def _refuse_beside_resume(given: Sequence[str], what: str) -> None:
    if given:
        raise click.UsageError(f"--resume takes the {what} from the run; leave out {given[0]!r}")


@click.command()
@click.argument("spec", type=FILE)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(spec: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show the resolved job, its parameter counts and its batch arithmetic.

    Of a pipeline, show what each stage trains, on what and how long.
    """
    from tap_platform.config.load import load_job
    from tap_platform.config.load_pipeline import is_pipeline, load_pipeline
    from tap_platform.launch.pipeline_plan import make_pipeline_plan, print_pipeline_plan
    from tap_platform.launch.plan import make_plan, print_plan

    if is_pipeline(spec):
        stages = make_pipeline_plan(load_pipeline(spec, overrides))
        if as_json:
            click.echo(stages.model_dump_json(indent=2))
        else:
            print_pipeline_plan(stages)
        return
    made = make_plan(load_job(spec, overrides))
    if as_json:
        click.echo(made.model_dump_json(indent=2))
    else:
        print_plan(made)


@click.command()
@click.option("--pipeline", is_flag=True, help="Of a pipeline file instead.")
def schema(pipeline: bool) -> None:
    """Print the JSON schema of a job file, for editors."""
    import json

    from tap_platform.config.schema import job_schema, pipeline_schema

    click.echo(json.dumps(pipeline_schema() if pipeline else job_schema(), indent=2))
