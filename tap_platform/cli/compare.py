"""The verb that sets runs side by side."""

from __future__ import annotations

from pathlib import Path

import click

from tap_platform.cli.options import FOLDER


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@click.option(
    "--out",
    type=FOLDER,
    default=Path("comparison.html"),
    show_default=True,
    help="The page to write, with the pictures.",
)
@click.option(
    "--storage",
    default="runs",
    show_default=True,
    help="Where runs lie: a folder, or a mirror's URL, whose runs are named PROJECT/RUN.",
)
def compare(runs: tuple[str, ...], out: Path, storage: str) -> None:
    """Set runs side by side: what is set differently, what came out, the same pictures.

    RUN is a run's name or its directory; the others are compared with the first. Runs that differ
    in their seeds alone share a column, and their spread tells what of a difference is chance.
    """
    from tap_platform.compare.page import render_comparison
    from tap_platform.compare.runs import read_runs
    from tap_platform.compare.text import as_markdown
    from tap_platform.runs.files import write_atomic

    if out.is_dir():
        raise ValueError(f"{out} is a folder: name a file in it, such as {out / 'comparison.html'}")
    if out.suffix != ".html":
        raise ValueError(
            f"{out.name}: the page is HTML, and what is printed is Markdown: {out.stem}.html"
        )
    found = read_runs(runs, storage)
    click.echo(as_markdown(found))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, render_comparison(found).encode())
    click.echo(f"wrote {out}")
