"""`tap`: one verb, one function. Verbs import what they need when they run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tap_platform import __version__
from tap_platform.launch.errors import RunFailedError

SPEC = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
SHARE = click.FloatRange(min=0, max=1, max_open=True)


def option(
    flag: str, name: str, kind: click.ParamType, default: Any, meaning: str
) -> Callable[[Any], Any]:
    """An option whose help tells its range and its default."""
    return click.option(flag, name, type=kind, default=default, show_default=True, help=meaning)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tap")
def tap() -> None:
    """Train Tokenize Anything via Prompting (TAP), from a laptop to a Ray cluster.

    SPEC is a job file such as jobs/tap_tiny_scenes.yaml; key=value pairs change it, as in
    optimizer.lr=3e-4 training.max_steps=100.
    """


@tap.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def demo(overrides: tuple[str, ...]) -> None:
    """Train a tiny TAP on made scenes, and show what it learned."""
    from tap_platform.launch.demo import run_demo

    run_demo(overrides)


@tap.command()
@click.argument("spec", type=SPEC, required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--resume", "run", metavar="RUN", help="Go on from a run's last checkpoint.")
def train(spec: Path | None, overrides: tuple[str, ...], run: str | None) -> None:
    """Train the job SPEC, then evaluate it on held-out images.

    `tap train --resume RUN` takes the job from the run directory; RUN is its name or its path.
    """
    from tap_platform.launch.train import resume_run, start_run

    if run is not None:
        given = ([str(spec)] if spec else []) + list(overrides)
        if given:
            raise click.UsageError(f"--resume takes the job from the run; leave out {given[0]!r}")
        resume_run(run)
    elif spec is None:
        raise click.UsageError("name a job file, such as jobs/tap_tiny_scenes.yaml")
    else:
        start_run(spec, overrides)


@tap.command()
@click.argument("run")
def sync(run: str) -> None:
    """Send the tracker of RUN what it lacks: it was down, or too slow, while the run went on."""
    from tap_platform.runs.tracking.sync import sync_run

    click.echo(f"sent {sync_run(run)} records and files")


@tap.command()
@click.argument("spec", type=SPEC)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(spec: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show the resolved job, its parameter counts and its batch arithmetic."""
    from tap_platform.config.load import load_job
    from tap_platform.launch.plan import make_plan, print_plan

    made = make_plan(load_job(spec, overrides))
    if as_json:
        click.echo(made.model_dump_json(indent=2))
    else:
        print_plan(made)


@tap.command()
def schema() -> None:
    """Print the JSON schema of a job file, for editors."""
    import json

    from tap_platform.config.schema import job_schema

    click.echo(json.dumps(job_schema(), indent=2))


@tap.group()
def data() -> None:
    """Make, import and look at data sets."""


@data.command("scenes")
@click.argument("out", type=FOLDER)
@option("--train", "train_scenes", COUNT, 512, "Scenes to learn from.")
@option("--val", "val_scenes", COUNT, 64, "Scenes held out.")
@option("--size", "size", click.IntRange(min=32), 256, "Long side of a scene, in pixels.")
@option("--seed", "seed", click.IntRange(min=0), 0, "Seed of the scenes.")
@option("--dim", "dim", COUNT, 64, "Width of the concept space.")
def data_scenes(
    out: Path, train_scenes: int, val_scenes: int, size: int, seed: int, dim: int
) -> None:
    """Make procedural scenes with exact masks, names and phrases, as shards in OUT."""
    from tap_platform.config.data import ScenesSource
    from tap_platform.launch.prepare import prepare_data

    source = ScenesSource(
        path=str(out),
        train_scenes=train_scenes,
        val_scenes=val_scenes,
        scene_size=size,
        scene_seed=seed,
    )
    prepare_data(source, dim)


@data.group("import")
def data_import() -> None:
    """Import a data set of others to shards."""


@data_import.command("coco")
@click.argument("folder", type=FOLDER)
@click.argument("out", type=FOLDER)
@option("--vocabulary", "vocabulary", click.STRING, "coco_80", "Concept list or a file.")
@option("--val-fraction", "val_fraction", SHARE, 0.2, "Share of images held out.")
@option("--dim", "dim", COUNT, 64, "Width of the concept space.")
def data_import_coco(
    folder: Path, out: Path, vocabulary: str, val_fraction: float, dim: int
) -> None:
    """Import a COCO-format FOLDER to shards in OUT; priors come from the category names."""
    from tap_platform.config.data import CocoSource
    from tap_platform.launch.prepare import prepare_data

    source = CocoSource(
        path=str(folder), shards=str(out), vocabulary=vocabulary, val_fraction=val_fraction
    )
    prepare_data(source, dim)


def main() -> None:
    """Run `tap`; a mistake, or a file that fails, is one message and not a traceback."""
    try:
        tap.main(prog_name="tap", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (ValueError, OSError) as error:
        click.secho(f"tap: {error}", fg="red", err=True)
        sys.exit(2)
    except RunFailedError as error:
        click.secho(f"tap: {error}", fg="red", err=True)
        sys.exit(1)
