"""`python -m tests.chaos.run`: break runs, print what it cost, and write it into the docs."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tests.chaos.cluster import REPOSITORY, Cluster, HostCluster, RayletCluster
from tests.chaos.hosts import why_not
from tests.chaos.play import Outcome, Theatre
from tests.chaos.scenarios import SCENARIOS, Scenario

PAGE = REPOSITORY / "docs" / "chaos.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
HEADER = (
    "| fault | what goes on | steps lost | seconds to recover | result |\n|---|---|--:|--:|---|"
)


@contextmanager
def a_cluster(folder: Path, raylets: bool = False) -> Iterator[Cluster]:
    """A cluster of hosts, or of raylets where there can be none; nothing of it is left."""
    reason = "as asked for" if raylets else why_not()
    cluster: Cluster = RayletCluster(folder, reason) if reason else HostCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def row(outcome: Outcome) -> str:
    """A line of the table."""
    scenario, cost = outcome.scenario, outcome.cost
    lost = "" if cost is None else str(cost.steps)
    seconds = "" if cost is None else f"{cost.seconds:.0f}"
    faults = ", ".join(f"`{fault}`" for fault in scenario.faults)
    return f"| {faults} | {scenario.by} | {lost} | {seconds} | {outcome.result} |"


def write_rows(outcomes: Iterable[Outcome], page: Path = PAGE) -> None:
    """Put lines into the page's table; those of other scenarios stay."""
    before, rest = page.read_text().split(BEGIN)
    table, after = rest.split(END)
    rows = {line.split("|")[1]: line for line in table.strip().splitlines()[2:]}
    rows |= {line.split("|")[1]: line for line in map(row, outcomes)}
    order = [row(Outcome(scenario, "", True)).split("|")[1] for scenario in SCENARIOS]
    lines = [rows[name] for name in order if name in rows]
    page.write_text("\n".join([f"{before}{BEGIN}", HEADER, *lines, f"{END}{after}"]))


def chosen(quick: bool, only: tuple[str, ...]) -> list[Scenario]:
    """The scenarios that are asked for."""
    names = [scenario.name for scenario in SCENARIOS]
    if unknown := set(only) - set(names):
        raise click.UsageError(f"no scenario {unknown.pop()}: there are {', '.join(names)}")
    if only:
        return [scenario for scenario in SCENARIOS if scenario.name in only]
    return [scenario for scenario in SCENARIOS if scenario.quick or not quick]


@click.command()
@click.option("--quick", is_flag=True, help="Only what continuous integration plays.")
@click.option("--only", multiple=True, metavar="NAME", help="One scenario; may be given again.")
@click.option("--write", is_flag=True, help="Write what passes into docs/chaos.md.")
@click.option("--raylets", is_flag=True, help="No namespaces: several raylets on one host.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep runs and logs there.")
def main(
    quick: bool, only: tuple[str, ...], write: bool, raylets: bool, folder: Path | None
) -> None:
    """Break runs on a real cluster, one fault after the other."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    kept = folder or Path(tempfile.mkdtemp(prefix="tap-chaos-", dir="/var/tmp"))
    kept.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with a_cluster(kept, raylets) as cluster:
        print(f"a cluster of {cluster.kind}", flush=True)
        theatre = Theatre(cluster, kept)
        for scenario in chosen(quick, only):
            print(f"  {scenario.name}", flush=True)
            outcomes.append(theatre.play(scenario))
            print(f"    {row(outcomes[-1])}", flush=True)
            if write and outcomes[-1].passed and outcomes[-1].cost:
                write_rows(outcomes[-1:])
    print(HEADER, *map(row, outcomes), sep="\n")
    if not all(outcome.passed for outcome in outcomes):
        raise SystemExit(f"see {kept}")
    if folder is None:
        shutil.rmtree(kept)


if __name__ == "__main__":
    main()
