"""The verb that lists a run's bad samples."""

from __future__ import annotations

import click

from tap_platform.cli.options import option


@click.command("quarantine")
@click.argument("run")
@option("--storage", "storage", click.STRING, "runs", "Where to look for a name.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def quarantine(run: str, storage: str, as_json: bool) -> None:
    """List the bad samples that RUN, a name or a path, has met and left out."""
    import json

    from tap_platform.runs import quarantine as records
    from tap_platform.runs.directory import RunDirectory

    found = RunDirectory.find(storage, run)
    samples = records.quarantined(found.events)
    if as_json:
        click.echo(json.dumps(records.as_json(samples), indent=2))
        return
    for each in samples:
        attempts = ", ".join(map(str, each.attempts))
        met = f"met {each.times}x in attempt {attempts}"
        click.echo(f"{each.split}  {each.shard}  {each.key}  {met}: {each.reason}")
    click.echo(f"{len(samples)} bad samples in {found.name}")
    for reason, count in records.by_reason(samples).items():
        click.echo(f"{count:6}  {reason}")
