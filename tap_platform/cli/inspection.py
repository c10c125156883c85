"""Verbs that look at a data set and check it."""

from __future__ import annotations

import sys
from typing import Any

import click

from tap_platform.cli.options import option

_PATH_HELP = "PATH is a data set (train/, val/) or one folder of shards, local or a URL."


class _SampleCount(click.ParamType):
    """A number of samples, or all of them (None)."""

    name = "N|all"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        if str(value).lower() == "all":
            return None
        return click.IntRange(min=1).convert(value, param, ctx)


def _default_out(path: str, what: str) -> str:
    """A folder in the current one, named after the data set."""
    name = path.rstrip("/").rpartition("/")[2]
    return f"{name if name.strip('.') else 'data'}-{what}"


@click.command("inspect", epilog=_PATH_HELP)
@click.argument("path")
@click.option("--priors", metavar="FOLDER", help="Sidecar with the priors, as training takes it.")
@option("--samples", "samples", _SampleCount(), 2000, "Annotations to read, spread over the set.")
@option("--pictures", "pictures", click.IntRange(min=0), 12, "Samples to draw.")
@click.option(
    "--out", metavar="FOLDER", help="For the contact sheet; by default NAME-inspection here."
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def inspect(path: str, out: str | None, **settings: Any) -> None:
    """Tell what is in the data set PATH, and draw a contact sheet of it."""
    from tap_platform.launch.inspection import inspect_data

    inspect_data(path, out=out or _default_out(path, "inspection"), **settings)


@click.command("verify", epilog=_PATH_HELP)
@click.argument("path")
@click.option("--priors", metavar="FOLDER", help="Sidecar with the priors, checked too.")
@click.option("--vocabulary", metavar="FILE", help="Concepts; by default the data set's own.")
@click.option("--fast", is_flag=True, help="Do not decode the images, only read their headers.")
@option("--workers", "workers", click.IntRange(min=0), 0, "Ray Data tasks; 0: in this process.")
@click.option("--out", metavar="FOLDER", help="For the report; by default NAME-verification here.")
@click.option("--repair-list", metavar="FILE", help="Write the damaged shards there, one a line.")
@click.option("--strict", is_flag=True, help="Exit with 1 for what is only suspicious, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def verify(path: str, out: str | None, **settings: Any) -> None:
    """Check every shard and sample of the data set PATH.

    What training would skip is bad, and listed in quarantine.jsonl; what it reads, but should be
    looked at, is suspicious. Exits with 1 if anything is bad or a shard is not the one that was
    indexed, with 0 if not.
    """
    from tap_platform.launch.inspection import verify_data

    if not verify_data(path, out=out or _default_out(path, "verification"), **settings):
        sys.exit(1)
