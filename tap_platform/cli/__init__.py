"""`tap`: one verb, one function. Verbs import what they need when they run."""

from __future__ import annotations

import sys

import click

from tap_platform import __version__
from tap_platform.cli.ablation import ablate
from tap_platform.cli.alerts import alert
from tap_platform.cli.compare import compare
from tap_platform.cli.concepts import concepts
from tap_platform.cli.dashboard import dashboard
from tap_platform.cli.data import data
from tap_platform.cli.models import app, evaluate, export, predict
from tap_platform.cli.places import describe, logs, ps, resubmit, stop, submit
from tap_platform.cli.registry import registry
from tap_platform.cli.report import report
from tap_platform.cli.runs import runs
from tap_platform.cli.sweeps import sweep
from tap_platform.cli.training import demo, plan, run_stages, schema, train
from tap_platform.launch.errors import RunFailedError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tap")
def tap() -> None:
    """Train Tokenize Anything via Prompting (TAP), from a laptop to a Ray cluster.

    SPEC is a job file such as jobs/tap_tiny_scenes.yaml; key=value pairs change it, as in
    optimizer.lr=3e-4 training.max_steps=100.
    """


for verb in (
    ablate,
    demo,
    train,
    run_stages,
    plan,
    submit,
    ps,
    logs,
    stop,
    resubmit,
    describe,
    runs,
    report,
    compare,
    dashboard,
    alert,
    sweep,
    registry,
    schema,
    data,
    evaluate,
    predict,
    app,
    export,
    concepts,
):
    tap.add_command(verb)


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
        # What a Ray task raised comes with the task's traceback around it.
        told = str(getattr(error, "cause", error))
        where = [note for note in getattr(error, "__notes__", []) if note not in told]
        click.secho(f"tap: {': '.join([*where, told])}", fg="red", err=True)
        sys.exit(2)
    except RunFailedError as error:
        click.secho(f"tap: {error}", fg="red", err=True)
        sys.exit(1)
