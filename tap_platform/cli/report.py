"""The verb that writes the page of a run."""

from __future__ import annotations

from pathlib import Path

import click

from tap_platform.cli.options import FOLDER


@click.command()
@click.argument("run")
@click.option("--out", type=FOLDER, help="File to write; by default report/index.html of the run.")
@click.option(
    "--images",
    type=click.IntRange(min=0),
    default=48,
    show_default=True,
    help="Held-out images to show, a region of each; 0 for none.",
)
def report(run: str, out: Path | None, images: int) -> None:
    """Write the page of RUN: curves, numbers, pictures and events in one HTML file.

    RUN is a run's name or its directory. The page opens without a server or a network.
    """
    from tap_platform.launch.run_page import write_page
    from tap_platform.runs.directory import RunDirectory

    click.echo(f"wrote {write_page(RunDirectory.find('runs', run), out, images)}")
