"""A sweep from its file to its best trial, and on from wherever it was cut."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from tap_platform.alerts.run_alerts import alerted
from tap_platform.alerts.webhook import Webhook
from tap_platform.config.job import JobConfig
from tap_platform.config.load import merge, parse_override
from tap_platform.config.sweep import Population, SweepConfig, load_sweep, validate_sweep
from tap_platform.launch.attempt import mirrored
from tap_platform.launch.errors import RunFailedError, RunStoppedError
from tap_platform.launch.new_nodes import is_autoscaled
from tap_platform.launch.prepare import check_data, prepare_data
from tap_platform.launch.ray_session import cpus_needed, joined_ray, ray_session
from tap_platform.launch.signals import run_until_signalled
from tap_platform.launch.stages import recorded
from tap_platform.runs.directory import check_storage
from tap_platform.runs.tracking.sweep import tracked_sweep
from tap_platform.sweeps.budget import Spending
from tap_platform.sweeps.directory import SweepDirectory
from tap_platform.sweeps.live_trial import REAL
from tap_platform.sweeps.prices import prices_of
from tap_platform.sweeps.records import TrialRecord
from tap_platform.sweeps.room import NodeRoom, at_once, check_population
from tap_platform.sweeps.stage import Stage
from tap_platform.sweeps.story import print_best, tell
from tap_platform.sweeps.suggest import trials_of
from tap_platform.sweeps.trial_jobs import check_jobs, sample_jobs, trial_job

FREE = ("budget", "at_once", "retries")
"""What of a sweep may change while it goes on."""


def start_sweep(
    spec: Path,
    overrides: Sequence[str] = (),
    place: str | None = None,
    console: Console | None = None,
    runner: str = REAL,
) -> SweepDirectory:
    """Run the sweep of a file.

    Args:
        spec: the file.
        overrides: `key.path=value`, laid over it.
        place: profile whose prices count, before the file's.
        console: where to tell how it goes.
        runner: what trains trials, `package.module:Class`.

    Raises:
        ValueError: if the file, a value of its space or the data is refused, or there is a sweep of
            that name; nothing has run then.
        RunFailedError: if no trial came to a result, or the sweep was stopped.
    """
    config = load_sweep(spec, overrides, place)
    base = _checked(config, runner)
    sweep = SweepDirectory.at(base.storage, base.project, config.name)
    sweep.create(config)
    return _run(config, sweep, console or Console(), runner)


def resume_sweep(
    name: str,
    overrides: Sequence[str] = (),
    storage: str = "runs",
    console: Console | None = None,
    runner: str = REAL,
) -> SweepDirectory:
    """Go on with a sweep: what is over stays, what was cut goes on from its checkpoint.

    Args:
        name: its name, or the path of its directory.
        overrides: of `budget`, `at_once` and `retries`.
        storage: where to look for a name.
        console: where to tell how it goes.
        runner: what trains trials, `package.module:Class`.

    Raises:
        ValueError: if there is no such sweep, it is driven by another process, or an override would
            make it another sweep.
        RunFailedError: if no trial came to a result, or the sweep was stopped.
    """
    sweep = SweepDirectory.find(storage, name)
    was = sweep.read_config()
    config = _changed(was, overrides, sweep)
    _checked(config, runner)
    return _run(config, sweep, console or Console(), runner)


def sweep_named(
    spec: Path,
    name: str,
    overrides: Sequence[str] = (),
    place: str | None = None,
    console: Console | None = None,
    runner: str = REAL,
) -> SweepDirectory:
    """Begin the sweep of that name, or go on with it: a cluster may call this again and again.

    Args:
        spec: the file; of a sweep that exists, it may differ in what is free to change.
        name: the sweep's.
        overrides: `key.path=value`, laid over the file.
        place: profile whose prices count, before the file's.
        console: where to tell how it goes.
        runner: what trains trials, `package.module:Class`.

    Raises:
        ValueError: as `start_sweep`, or if the sweep of that name is another one.
        RunFailedError: if no trial came to a result, or the sweep was stopped.
    """
    config = load_sweep(spec, [*overrides, f"name={name}"], place)
    base = _checked(config, runner)
    sweep = SweepDirectory.at(base.storage, base.project, name)
    if not sweep.spec.exists():
        sweep.create(config)
    elif _fixed(sweep.read_config()) != _fixed(config):
        raise ValueError(f"{sweep.path} is another sweep than {spec} describes: take another name")
    return _run(config, sweep, console or Console(), runner)


def _changed(was: SweepConfig, overrides: Sequence[str], sweep: SweepDirectory) -> SweepConfig:
    tree = was.model_dump(mode="json", by_alias=True)
    for override in overrides:
        change = parse_override(override)
        if any(key not in FREE for key in change):
            raise ValueError(
                f"{override} would make {sweep.name} another sweep: start a new one; free are"
                f" {', '.join(FREE)}"
            )
        tree = merge(tree, change)
    return validate_sweep(tree, sweep.name)


def _fixed(config: SweepConfig) -> dict[str, object]:
    tree = config.model_dump(mode="json", by_alias=True)
    return {key: value for key, value in tree.items() if key not in (*FREE, "folder")}


def _checked(config: SweepConfig, runner: str) -> JobConfig:
    """Refuse what cannot run, before anything does; make the data ready that trials share."""
    base = check_jobs(config)
    check_storage(base.storage)
    prices_of(config, base)
    Webhook.of_environment(base.alerts.webhook_from)
    if runner == REAL:
        by_data = {job.data.model_dump_json(): job for job in sample_jobs(config)}
        for job in by_data.values():
            prepare_data(job.data, job.model.concept_dim)
            check_data(job)
    return base


def _run(
    config: SweepConfig, sweep: SweepDirectory, console: Console, runner: str
) -> SweepDirectory:
    total = trials_of(config)
    base = trial_job(config, {})
    on: list[Stage] = []
    alerts = alerted(
        sweep.as_run, base.alerts, is_sweep=True, spent=lambda: on[0].used() if on else {}
    )
    beside = tracked_sweep(sweep.path, base.tracking, alerts)
    with (
        mirrored(sweep.as_run, base.mirror, console),
        recorded(sweep.as_run, total or 0, verb="sweep", beside=beside),
    ):
        sweep.write_config(config)
        with _ray_for(config, console) as side_by_side:
            spending = Spending(config, sweep.as_run, prices_of(config, base, side_by_side))
            stage = Stage(config, sweep, spending, side_by_side, runner)
            on.append(stage)
            told = f"{total} trials" if total is not None else "trials until its budget is used up"
            console.print(
                f"[bold]{sweep.name}[/]: {told}, {side_by_side} at once, {stage.conductor.over}"
                " over already",
                highlight=False,
            )
            _run_trials(stage, config, sweep, console)
        print_best(config, sweep, stage.conductor, stage.why_over, console)
        _check_came_to_something(stage)
    return sweep


def _run_trials(stage: Stage, config: SweepConfig, sweep: SweepDirectory, console: Console) -> None:
    from tap_platform.sweeps.on_tune import OWN_ENDING_SECONDS, run_trials

    def told(record: TrialRecord) -> None:
        tell(record, config, stage.conductor, console)

    def ask_to_stop(name: str) -> None:
        stage.is_interrupted = True
        console.print(f"{name}: trials write a checkpoint and end, within {grace:g} s")

    stage.on_change = told
    grace = trial_job(config, {}).scale.grace_seconds
    folder = sweep.path / "ray" / f"attempt-{sweep.as_run.attempt}"
    folder.parent.mkdir(exist_ok=True)
    signal = run_until_signalled(
        lambda: run_trials(stage, folder, config.retries, grace),
        ask_to_stop,
        grace + 2 * OWN_ENDING_SECONDS,
    )
    if signal:
        raise RunStoppedError(f"{sweep.name} was stopped by {signal}")


@contextmanager
def _ray_for(config: SweepConfig, console: Console) -> Iterator[int]:
    """A Ray, and how many trials train on it side by side.

    Raises:
        ValueError: if a Ray that exists is too small for a trial.
    """
    jobs, total = sample_jobs(config), trials_of(config)
    largest = max(jobs, key=cpus_needed)
    with joined_ray(_places(config, largest, total)), ray_session(largest, console):
        import ray

        if is_autoscaled():  # Nodes come as trials ask for them.
            check_population(config, total, config.at_once or 1)
            yield config.at_once or 1
            return
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = [NodeRoom(int(n.get("CPU", 0)), int(n.get("GPU", 0))) for n in nodes]
        yield at_once(config, jobs, room, total)


def _places(config: SweepConfig, largest: JobConfig, total: int | None) -> int:
    """CPUs of a Ray of our own, places in a queue: as many trials as there are cores for."""
    each = cpus_needed(largest)
    by_cores = max(1, len(os.sched_getaffinity(0)) // each)
    wanted = config.at_once or (total if isinstance(config.scheduler, Population) else by_cores)
    return min(wanted or by_cores, total or wanted or by_cores) * each


def _check_came_to_something(stage: Stage) -> None:
    if stage.hopeless:
        raise RunFailedError(stage.hopeless)
    trials = stage.conductor.trials.values()
    if trials and all(record.state == "failed" for record in trials):
        last = next(reversed(trials))
        raise RunFailedError(f"all {len(trials)} trials failed; {last.run}: {last.reason}")
