"""The verb that searches for the best values of a job."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("spec", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--resume", "name", metavar="SWEEP", help="Go on with a sweep, by name or path.")
@click.option(
    "--run", "named", metavar="NAME", help="Begin the sweep of that name, or go on with it."
)
@click.option(
    "--on",
    metavar="PLACE",
    help="Where it runs: a profile's name or path, or a Ray cluster's address.",
)
@click.option(
    "--code",
    type=click.Choice(["none", "git"]),
    default="none",
    show_default=True,
    help="With --on: `git` takes along the files that git tracks here.",
)
@click.option(
    "--dry-run", is_flag=True, help="Check the sweep, print what would run; start nothing."
)
def sweep(
    spec: str | None,
    overrides: tuple[str, ...],
    name: str | None,
    named: str | None,
    on: str | None,
    code: str,
    dry_run: bool,
) -> None:
    """Try the values of SPEC, each trial an ordinary run, and rank what comes out.

    SPEC is a file such as sweeps/scenes_lr.yaml; key=value pairs change it, as in budget.trials=8
    or base.training.max_steps=100. Every key and value is checked against the job first.

    `tap sweep --resume SWEEP` goes on where the sweep was cut: trials from their checkpoints, the
    scheduler and the search where they stood. budget, at_once and retries may change then.
    """
    if name is not None:
        from tap_platform.sweeps.sweep import resume_sweep

        others = {"--run": named, "--on": on, "--code": code == "git", "--dry-run": dry_run}
        if given_too := [option for option, is_given in others.items() if is_given]:
            raise click.UsageError(
                f"--resume goes on here, as the sweep is: leave out {given_too[0]}"
            )
        given = [*([spec] if spec else []), *overrides]
        if files := [each for each in given if "=" not in each]:
            raise click.UsageError(
                f"--resume takes the sweep from its directory; leave out {files[0]}"
            )
        resume_sweep(name, given)
    elif spec is None:
        raise click.UsageError("name a sweep file, such as sweeps/scenes_lr.yaml")
    elif dry_run:
        from tap_platform.sweeps.outline import print_outline

        print_outline(Path(spec), overrides, on)
    elif on not in (None, "local"):
        assert on is not None
        from tap_platform.sweeps.hand_over import submit_sweep

        submit_sweep(Path(spec), overrides, on, named, with_code=code == "git")
    elif named is not None:
        from tap_platform.sweeps.sweep import sweep_named

        sweep_named(Path(spec), named, overrides)
    else:
        from tap_platform.sweeps.sweep import start_sweep

        start_sweep(Path(spec), overrides)
