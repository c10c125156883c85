"""The verb that writes the page of a run, or the bill of all."""

from __future__ import annotations

from pathlib import Path

import click

from tap_platform.cli.options import FOLDER


@click.command()
@click.argument("run", required=False)
@click.option(
    "--out",
    type=FOLDER,
    multiple=True,
    help="File to write. Of a run: its page, by default report/index.html of the run. Of the bill:"
    " a name that ends in .md, .html or .csv, as often as you like; without one it is printed.",
)
@click.option(
    "--images",
    type=click.IntRange(min=0),
    default=48,
    show_default=True,
    help="Held-out images on a run's page, a region of each; 0 for none.",
)
@click.option("--since", metavar="TIME", help="Of the bill: from 30d, 12h or 2026-11-01 on.")
@click.option(
    "--by",
    type=click.Choice(["team", "project", "user", "cost-centre", "run"]),
    help="Of the bill: who a row is of; by default the project.",
)
@click.option(
    "--storage",
    default="runs",
    show_default=True,
    help="Where runs lie: a folder, or for the bill a mirror's URL, such as s3://bucket/runs.",
)
def report(
    run: str | None,
    out: tuple[Path, ...],
    images: int,
    since: str | None,
    by: str | None,
    storage: str,
) -> None:
    """Write the page of RUN, or without RUN the bill of all runs.

    The page has curves, numbers, pictures and events in one HTML file that opens without a server
    or a network; RUN is a run's name or its directory. The bill tells cost, GPU-hours, goodput,
    successes and best results.
    """
    if run is None:
        from tap_platform.cli.bill import print_bill

        print_bill(storage, since, by or "project", out)
        return
    if since or by or len(out) > 1:
        raise click.UsageError("the page of one RUN takes no --since, no --by and one --out")
    from tap_platform.launch.run_page import write_page
    from tap_platform.runs.directory import RunDirectory

    found = RunDirectory.find(storage, run)
    click.echo(f"wrote {write_page(found, out[0] if out else None, images)}")
