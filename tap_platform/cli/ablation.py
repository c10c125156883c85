"""The verb that compares variants."""

from __future__ import annotations

from pathlib import Path

import click

from tap_platform.cli.options import FILE


@click.command()
@click.argument("spec", type=FILE, required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--resume", "run", metavar="RUN", help="Go on with an ablation that was cut, or has grown."
)
def ablate(spec: Path | None, overrides: tuple[str, ...], run: str | None) -> None:
    """Run the variants of SPEC by several seeds, and print them side by side.

    SPEC is a file such as ablations/tap_tables_4_5.yaml. Stages that variants share run once. With
    --resume, SPEC may have more variants, seeds or tables than before: what has run is kept.
    """
    from tap_platform.launch.ablation import resume_ablation, start_ablation

    if run is not None:
        resume_ablation(run, spec, overrides)
    elif spec is None:
        raise click.UsageError("name an ablation file, such as ablations/tap_tables_4_5.yaml")
    else:
        start_ablation(spec, overrides)
