"""Verbs that hand runs to a place and see to them there."""

from __future__ import annotations

import click

_RUN = click.argument("run")
_PLACE_HELP = "A profile's name or path, a Ray cluster's address, or local."
_ON = click.option("--on", metavar="PLACE", help=f"Where to look. {_PLACE_HELP}")


@click.command(epilog="`tap submit --on cpu -- tap data verify /mnt/tap/coco` submits a verb.")
@click.argument("what", nargs=-1, required=True, metavar="SPEC [KEY=VALUE]...")
@click.option("--on", required=True, metavar="PLACE", help=f"Where it runs. {_PLACE_HELP}")
@click.option("--queue", metavar="QUEUE", help="To wait in, instead of the profile's.")
@click.option("--run", "name", metavar="NAME", help="Of the run; by default a new one.")
@click.option(
    "--code",
    type=click.Choice(["none", "git"]),
    default="none",
    show_default=True,
    help="`git`: take along the files that git tracks here; `none`: run what the place has.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing.")
@click.option("--follow", "-f", is_flag=True, help="Then follow its log until it ends.")
def submit(
    what: tuple[str, ...],
    on: str,
    queue: str | None,
    name: str | None,
    code: str,
    dry_run: bool,
    follow: bool,
) -> None:
    """Run the job SPEC at a place: its name is printed, and tap need not stay.

    Relative paths of the job lie beside the runs of the place. What is refused leaves nothing
    there. A run of a name that the place's storage has goes on from its last checkpoint.
    """
    from tap_platform.places.find import find_profile, place_of
    from tap_platform.places.look import find_run
    from tap_platform.places.submit import Wanted, hand_over, make_submission

    place_name, profile = find_profile(on, queue)
    place = place_of(place_name, profile)
    submission = make_submission(Wanted(what, name, code == "git"), place, profile)
    if submission.code and submission.code.changed:
        changed = ", ".join(submission.code.changed[:5])
        click.echo(f"the code differs from its commit, and is taken as it is: {changed}", err=True)
    if dry_run:
        click.echo(place.render(submission), nl=False)
        return
    hand_over(submission, place, profile)
    state = find_run(submission.run).state()
    click.echo(f"{submission.run} is {state.state} on {place.name}")
    if state.why:
        click.echo(state.why)
    if follow:
        _print_log(submission.run, None, follow=True, rank=None)
    else:
        click.echo(f"follow it with: tap logs {submission.run} -f")


@click.command()
@_ON
@click.option(
    "--all", "show_all", is_flag=True, help="Ended trials, and what ended over a day ago, too."
)
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON lines.")
def ps(on: str | None, show_all: bool, as_json: bool) -> None:
    """Show how runs and sweeps stand: those submitted from here, or all of a place with --on."""
    from tap_platform.places.look import look_at_all
    from tap_platform.places.show import print_states, recent, state_record

    states = look_at_all(on)
    shown = states if show_all else recent(states)
    if as_json:
        for state in shown:
            click.echo(state_record(state))
    else:
        print_states(shown, left_out=len(states) - len(shown))


@click.command()
@_RUN
@_ON
@click.option("--follow", "-f", is_flag=True, help="Wait for more until the run ends.")
@click.option("--rank", type=click.IntRange(min=0), metavar="N", help="One worker's, from 0.")
def logs(run: str, on: str | None, follow: bool, rank: int | None) -> None:
    """Print the log of RUN: the driver's, or with --rank a worker's.

    It comes from the cluster while that is there, and from the run directory afterwards. Of a sweep
    that somebody started in a terminal, it tells what became of the trials.
    """
    _print_log(run, on, follow, rank)


def _print_log(run: str, on: str | None, follow: bool, rank: int | None) -> None:
    from tap_platform.places.look import find_run
    from tap_platform.places.run_logs import run_lines

    for line in run_lines(find_run(run, on), follow, rank):
        click.echo(line)


@click.command()
@_RUN
@_ON
@click.option("--now", is_flag=True, help="End it without a checkpoint.")
def stop(run: str, on: str | None, now: bool) -> None:
    """Have RUN, a run or a sweep, write its checkpoints and end; it tells how to go on."""
    from tap_platform.places.look import find_run
    from tap_platform.places.submit import stop_run

    click.echo(stop_run(find_run(run, on), now=now))


@click.command()
@_RUN
@_ON
def resubmit(run: str, on: str | None) -> None:
    """Submit RUN, which has ended, once more: it goes on from its last checkpoint."""
    from tap_platform.places.look import find_run
    from tap_platform.places.submit import submit_again

    found = find_run(run, on)
    submit_again(found)
    click.echo(f"{run} is {found.state().state} on {found.place.name}")


@click.command()
@_RUN
@_ON
def describe(run: str, on: str | None) -> None:
    """Tell all that is known of RUN, a run or a sweep: how it stands, where it lies, its events."""
    from tap_platform.places.look import find_run
    from tap_platform.places.show import print_run

    print_run(find_run(run, on))
