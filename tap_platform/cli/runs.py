"""Verbs for runs that are there already."""

from __future__ import annotations

import click

from tap_platform.cli.options import option


@click.group()
def runs() -> None:
    """See to runs that are there already."""


@runs.command()
@click.argument("run")
@option("--storage", "storage", click.STRING, "runs", "Where to look for a name.")
def sync(run: str, storage: str) -> None:
    """Send the tracker of RUN what it lacks: it was down, or too slow, while the run went on."""
    from tap_platform.runs.tracking.sync import sync_run

    click.echo(f"sent {sync_run(run, storage)} records and files")
