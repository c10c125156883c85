"""Run an ablation: its runs side by side, each an ordinary run, then its tables."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from rich.console import Console

from tap_platform.config.ablation import AblationConfig, load_ablation
from tap_platform.launch.ablation_tables import rich_table, verdicts, write_tables
from tap_platform.launch.ablation_units import Unit, ablation_units, scores_of
from tap_platform.launch.prepare import check_data, prepare_data
from tap_platform.launch.ray_session import cpus_needed, joined_ray
from tap_platform.launch.signals import own_signals
from tap_platform.launch.stages import recorded, run_stage, stage_run
from tap_platform.runs.directory import RunDirectory, check_storage, new_run_name
from tap_platform.runs.files import read_json, write_json
from tap_platform.runs.status import read_status, update_status

CONFIG = "ablation.json"


def start_ablation(spec: Path, overrides: Sequence[str] = ()) -> RunDirectory:
    """Run an ablation from its file to its tables.

    Returns:
        The parent run, whose `report/` holds the tables.

    Raises:
        ValueError: if the file, one of its jobs or its data is refused; nothing has run then.
        RunFailedError: if a run failed, or was stopped.
    """
    config = load_ablation(spec, overrides)
    check_storage(config.storage)
    name = new_run_name(config.name)
    _check(ablation_units(config, name, Path(config.storage) / config.project))
    parent = RunDirectory.create(config.storage, config.project, name)
    write_json(parent.path / CONFIG, config.model_dump(mode="json"))
    return _run(config, parent)


def resume_ablation(
    name: str, spec: Path | None = None, overrides: Sequence[str] = (), storage: str = "runs"
) -> RunDirectory:
    """Go on with an ablation: what has finished stays, what was cut goes on from its checkpoint.

    Args:
        name: the parent run's name, or the path of its directory.
        spec: its file, where that has changed since; by default the ablation as it was. Runs of
            jobs that are as before are kept.
        overrides: changes of the file.
        storage: where to look for a name.

    Raises:
        ValueError: if there is no such ablation, or the file, one of its jobs or its data is
            refused.
        RunFailedError: if a run failed, or was stopped.
    """
    parent = RunDirectory.find(storage, name)
    if not (parent.path / CONFIG).is_file():
        raise ValueError(f"{parent.path} is no ablation: it has no {CONFIG}")
    if spec is None:
        return _run(AblationConfig.model_validate(read_json(parent.path / CONFIG)), parent)
    beside = [f"storage={parent.storage}", f"project={parent.project}"]
    config = load_ablation(spec, [*overrides, *beside])
    _check(ablation_units(config, parent.name, parent.path.parent))
    write_json(parent.path / CONFIG, config.model_dump(mode="json"))
    return _run(config, parent)


def _check(units: Sequence[Unit]) -> None:
    """Refuse data that a stage cannot learn from, before any stage runs."""
    kinds = {(unit.job.data.replaced(seed=0).model_dump_json(), unit.stage): unit for unit in units}
    for unit in kinds.values():
        prepare_data(unit.job.data, unit.job.model.concept_dim)
        check_data(unit.job)


def _run(config: AblationConfig, parent: RunDirectory) -> RunDirectory:
    console = Console()
    units = ablation_units(config, parent.name, parent.path.parent)
    console.print(
        f"[bold]{parent.name}[/]: {len(units)} runs, {config.at_once} at once", highlight=False
    )
    places = config.at_once * max(cpus_needed(unit.job) for unit in units)
    with recorded(parent, len(units), verb="ablate"), joined_ray(places), own_signals():
        _run_all(config, parent, units, console)
    scores = scores_of(units, parent, config.seeds)
    for table in config.tables:
        console.print(rich_table(table, config.variants, scores))
        for line in verdicts(table, scores):
            console.print(f"  {line}", highlight=False)
    console.print(
        f"tables  {write_tables(config, parent, scores)}", soft_wrap=True, highlight=False
    )
    return parent


def _run_all(
    config: AblationConfig, parent: RunDirectory, units: Sequence[Unit], console: Console
) -> None:
    """Run every unit as soon as what it starts from is there, a few side by side."""
    waiting, finished = list(units), set[str]()
    running: dict[Future[None], Unit] = {}
    pool = ThreadPoolExecutor(config.at_once, "ablation")
    try:
        while waiting or running:
            ready = [unit for unit in waiting if unit.after is None or unit.after in finished]
            for unit in ready[: config.at_once - len(running)]:
                waiting.remove(unit)
                running[pool.submit(run_unit, unit, parent)] = unit
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                unit = running.pop(future)
                future.result()
                finished.add(unit.name)
                _tell(unit, parent, len(finished), len(units), console)
                write_tables(config, parent, scores_of(units, parent, config.seeds))
    finally:
        # Runs that go on beside one that failed end with Ray; a resume takes them up again.
        pool.shutdown(wait=False, cancel_futures=True)


def run_unit(unit: Unit, parent: RunDirectory) -> None:
    """Bring one run to its end; what it prints goes to a file, for others run beside it."""
    run = stage_run(parent, unit.name)
    log = parent.logs / f"{run.name}.log"
    with log.open("a", encoding="utf-8") as file:
        run_stage(unit.job, parent, unit.name, Console(file=file, width=120))


def _tell(unit: Unit, parent: RunDirectory, done: int, total: int, console: Console) -> None:
    update_status(parent.status, step=done)
    status = read_status(stage_run(parent, unit.name).status)
    console.print(
        f"{done}/{total}  {unit.stage} of {', '.join(unit.variants)}, seed {unit.seed}:"
        f" {status.step} steps",
        highlight=False,
    )
