"""Verbs for models that people rely on."""

from __future__ import annotations

from typing import Any

import click

from tap_platform.cli.options import option
from tap_platform.registry import MEASURES

store_option = click.option(
    "--store",
    metavar="URI",
    help="MLflow's server (http://host:5000) or database; by default mlflow.db in the storage.",
)
storage_option = option("--storage", "storage", click.STRING, "runs", "Where runs lie.")


@click.group()
def registry() -> None:
    """Keep checkpoints as versions of models, and say which is the champion."""


@registry.command("list")
@click.argument("model", required=False)
@store_option
@storage_option
def list_versions(model: str | None, store: str | None, storage: str) -> None:
    """Show the versions of MODEL, or of all models, with their aliases."""
    from rich.console import Console

    from tap_platform.registry.listing import registry_table

    table, count = registry_table(model, store, storage)
    if count:
        Console().print(table)
    else:
        click.echo("no model is registered: tap registry register RUN")


@registry.command()
@click.argument("run")
@click.option("--as", "model", metavar="MODEL", help="The model's name; by default the job's.")
@click.option("--step", type=click.IntRange(min=0), help="Checkpoint; by default the newest.")
@store_option
@storage_option
def register(
    run: str, model: str | None, step: int | None, store: str | None, storage: str
) -> None:
    """Make a checkpoint of RUN a version of a model, and the candidate."""
    from tap_platform.registry.register import register as register_run

    version, is_new = register_run(run, model, step, store, storage)
    click.echo(f"{version.title} is {'registered, and ' if is_new else ''}the candidate")
    click.echo(f"checkpoint {version.checkpoint}")


@registry.command()
@click.argument("model")
@click.argument("version")
@click.option("--to", "alias", default="champion", show_default=True, help="The alias it gets.")
@option("--suite", "suite", click.Choice(list(MEASURES)), "final", "The evaluation that decides.")
@click.option(
    "--metric",
    help="Its measure that decides; by default box_iou, AP, or what the suite is known by.",
)
@click.option("--lower-is-better", is_flag=True, help="Of a measure such as a loss.")
@click.option("--at-least", type=float, help="The worst value that passes, whoever is champion.")
@option(
    "--tolerance",
    "tolerance",
    click.FloatRange(min=0),
    0.0,
    "By how much it may be worse than the champion, in the measure's own unit.",
)
@click.option("--force", is_flag=True, help="Promote it whatever the evaluation says; give --why.")
@click.option("--why", help="Why it is forced: kept with the version.")
@store_option
@storage_option
def promote(
    model: str,
    version: str,
    alias: str,
    force: bool,
    why: str | None,
    store: str | None,
    storage: str,
    **asked: Any,
) -> None:
    """Make VERSION of MODEL the champion, if it is measured to be as good as the present one.

    VERSION is a number or an alias, such as candidate.
    """
    from tap_platform.registry.promote import Gate
    from tap_platform.registry.promote import promote as promote_version

    if force != bool(why and why.strip()):
        raise click.UsageError("--force and --why go together: somebody must answer for it")
    gate = Gate(**{**asked, "metric": asked["metric"] or MEASURES[asked["suite"]]})
    verdict = promote_version(model, version, alias, gate, why, store, storage)
    for objection in verdict.objections:
        click.echo(f"forced: {objection}", err=True)
    if verdict.score:
        click.echo(f"{gate.suite}/{gate.metric} {verdict.score.value:.6g}")
    before = f", after version {verdict.before.number}" if verdict.before else ""
    click.echo(f"{verdict.version.title} is {alias}{before}")
