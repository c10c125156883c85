"""Verbs that plan, train and follow runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tap_platform.cli.options import FILE

if TYPE_CHECKING:
    from tap_platform.config.profile import Profile


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
@click.option("--run", "name", metavar="NAME", help="Begin the run of that name, or go on with it.")
def train(spec: str | None, overrides: tuple[str, ...], run: str | None, name: str | None) -> None:
    """Train the job SPEC, then evaluate it on held-out images.

    `tap train --resume RUN` takes the job from the run directory; RUN is its name or its path. What
    leaves it the same run may change: `tap train --resume RUN scale.workers=4`. So may all of
    scale, checkpoint, health, tracking and mirror, training.micro_batch, and training.max_steps may
    grow.

    `tap train SPEC --run NAME` may be called again and again, as a cluster does that tries a job
    again: it begins the run, goes on with it, or ends at once where it is finished.

    The exit status is 0 only when the run is finished; 1 when training failed or was stopped, even
    if it was asked to stop: whoever watches a cluster that is taken away should try again; 2 when
    the job, its data or the command line is refused.
    """
    from tap_platform.config.load_pipeline import is_pipeline
    from tap_platform.launch.named_run import train_named
    from tap_platform.launch.train import resume_run, start_run

    if run is not None and name is not None:
        raise click.UsageError("--resume goes on with a run, --run begins it too: give one of them")
    if run is not None:
        given = [*([spec] if spec else []), *overrides]
        _refuse_beside_resume([each for each in given if "=" not in each], "job")
        resume_run(run, given)
    elif spec is None:
        raise click.UsageError("name a job file, such as jobs/tap_tiny_scenes.yaml")
    elif is_pipeline(spec):
        raise click.UsageError(f"{spec} is a pipeline of several jobs: tap run {spec}")
    elif name is not None:
        train_named(Path(spec), name, overrides)
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
@click.option("--on", metavar="PROFILE", help="Machines to plan for: a profile's name or its path.")
@click.option("--like", metavar="RUN", help="A run whose measured speed is taken, by name or path.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(
    spec: Path, overrides: tuple[str, ...], on: str | None, like: str | None, as_json: bool
) -> None:
    """Show the resolved job, its parameter counts and its batch arithmetic.

    With --on, also what it takes there: nodes, memory by part, FLOPs, hours, cost, data, CPUs and
    checkpoints; and what would fit, where it does not. No GPU, cluster or network is asked.

    Of a pipeline, show what each stage trains, on what and how long.
    """
    from tap_platform.config.load_pipeline import is_pipeline

    if like is not None and on is None:
        raise click.UsageError("--like tells the time on a profile: name it with --on")
    if is_pipeline(spec):
        if on is not None:
            raise click.UsageError("--on plans one job, and this is a pipeline: plan its jobs")
        _plan_pipeline(spec, overrides, as_json)
    elif on is not None:
        _plan_on(spec, overrides, (on, like), as_json)
    else:
        from tap_platform.config.load import load_job
        from tap_platform.launch.plan import make_plan, print_plan

        made = make_plan(load_job(spec, overrides))
        if as_json:
            click.echo(made.model_dump_json(indent=2))
        else:
            print_plan(made)


def _plan_pipeline(spec: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    from tap_platform.config.load_pipeline import load_pipeline
    from tap_platform.launch.pipeline_plan import make_pipeline_plan, print_pipeline_plan

    stages = make_pipeline_plan(load_pipeline(spec, overrides))
    if as_json:
        click.echo(stages.model_dump_json(indent=2))
    else:
        print_pipeline_plan(stages)


def _plan_on(
    spec: Path, overrides: tuple[str, ...], wanted: tuple[str, str | None], as_json: bool
) -> None:
    from rich.console import Console

    from tap_platform.config.load import load_job
    from tap_platform.config.load_profile import load_profile
    from tap_platform.launch.plan import print_plan
    from tap_platform.launch.plan_estimate import make_estimated_plan
    from tap_platform.launch.plan_tables import print_estimate

    on, like = wanted
    name, profile = load_profile(on)
    if profile.place == "kubernetes":
        _render_on(spec, overrides, name, profile)
    made = make_estimated_plan(load_job(spec, overrides), profile, name, like)
    if as_json:
        click.echo(made.model_dump_json(indent=2))
        return
    console = Console()
    print_plan(made, console)
    print_estimate(made.estimate, console)


def _render_on(spec: Path, overrides: tuple[str, ...], name: str, profile: Profile) -> None:
    """Refuse what `tap submit` would: what is rendered is thrown away.

    Raises:
        ValueError: if a rule of Kubernetes or KubeRay is broken.
    """
    from tap_platform.places.find import place_of
    from tap_platform.places.submit import Wanted, make_submission

    place = place_of(name, profile)
    wanted = Wanted((str(spec), *overrides), name=None, with_code=False)
    place.render(make_submission(wanted, place, profile))


@click.command()
@click.option("--pipeline", "kind", flag_value="pipeline", help="Of a pipeline file instead.")
@click.option("--profile", "kind", flag_value="profile", help="Of a profile of a cluster instead.")
@click.option("--sweep", "kind", flag_value="sweep", help="Of a sweep file instead.")
def schema(kind: str | None) -> None:
    """Print the JSON schema of a job file, for editors."""
    import json

    from tap_platform.config import schema as schemas

    make = {
        None: schemas.job_schema,
        "pipeline": schemas.pipeline_schema,
        "profile": schemas.profile_schema,
        "sweep": schemas.sweep_schema,
    }[kind]
    click.echo(json.dumps(make(), indent=2))
