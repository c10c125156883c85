"""One scenario: a run, its faults, and what came of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tap_platform.config.load import merge
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import read_status
from tests.chaos.cluster import Cluster, NotHereError
from tests.chaos.driver import Supervised
from tests.chaos.faults import Fault
from tests.chaos.inflict import Heal, Stage, check_possible, inflict, spoil_shard
from tests.chaos.jobs import write_job
from tests.chaos.measure import Cost, cost_of, differences, farthest, last_step
from tests.chaos.processes import wait_until
from tests.chaos.scenarios import REFERENCES, Scenario
from tests.chaos.tracking import TrackingServer

RUN_SECONDS = 600


@dataclass(frozen=True)
class Outcome:
    """A line of the table."""

    scenario: Scenario
    result: str
    passed: bool
    cost: Cost | None = None


@dataclass
class Healing:
    """What ends the faults that do not last, when their time has come."""

    due: list[tuple[Callable[[], bool], Heal]] = field(default_factory=list)

    def add(self, heal: Heal | None, fault: Fault, run: RunDirectory) -> None:
        """End a fault after its seconds, at its step, or with the scenario."""
        if heal is None:
            return
        end = time.monotonic() + (RUN_SECONDS if fault.seconds is None else fault.seconds)
        step = fault.until_step
        if step is None:
            self.due.append((lambda: time.monotonic() >= end, heal))
        else:
            self.due.append((lambda: last_step(run) >= step, heal))

    def go_on(self, *, at_once: bool = False) -> None:
        """End what is due, or everything."""
        for is_due, heal in list(self.due):
            if at_once or is_due():
                self.due.remove((is_due, heal))
                heal()


class Theatre:
    """A cluster and a folder, where scenarios are played one after the other."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.storage = folder / "runs"

    def play(self, scenario: Scenario) -> Outcome:
        """Play a scenario to its end."""
        try:
            for fault in scenario.faults:
                check_possible(fault, self.cluster)
        except NotHereError as reason:
            return Outcome(scenario, f"skipped: {reason}", passed=True)
        reference = self.reference(scenario.reference)
        try:
            stage, happened = self._perform(scenario)
        except (RuntimeError, OSError) as error:
            return Outcome(scenario, f"FAILED: {error}", passed=False)
        if not stage.driver.succeeded:
            log = stage.driver.process.log
            return Outcome(scenario, f"FAILED: the run did not end well, see {log}", passed=False)
        cost = cost_of(stage.run, happened)
        wrong = [*_wrong_in(scenario, stage, cost), *_unlike(reference, scenario, stage.run)]
        if wrong:
            return Outcome(scenario, f"FAILED: {'; '.join(wrong)}", passed=False, cost=cost)
        return Outcome(scenario, _likeness(reference, scenario, stage.run), True, cost)

    def reference(self, name: str) -> RunDirectory:
        """The undisturbed run of a job; it is made once for a folder."""
        of_name = [r for r in RunDirectory.all(self.storage) if r.name.startswith(f"ref-{name}-")]
        if of_name and read_status(of_name[-1].status).state == "finished":
            return of_name[-1]
        print(f"    the undisturbed run of {name}", flush=True)
        changes = merge(REFERENCES[name], self._data_of(name))
        spec = write_job(self.folder, f"ref-{name}", changes)
        driver = Supervised(self.cluster, spec, self.storage)
        try:
            wait_until(driver.has_ended, RUN_SECONDS)
        finally:
            driver.process.kill()
        if driver.run is None or not driver.succeeded or driver.starts > 1:
            raise RuntimeError(f"the undisturbed run failed: see {driver.process.log}")
        return driver.run

    def _perform(self, scenario: Scenario) -> tuple[Stage, float]:
        """Run the job, let the faults happen, and wait for the end.

        Returns:
            What is left, and when the last fault happened, seconds since 1970.
        """
        tracking = TrackingServer(self.cluster, self.folder) if scenario.tracked else None
        if tracking:
            tracking.start()
        name = f"{scenario.name}-{time.strftime('%H%M%S')}"
        spec = write_job(self.folder, name, self._changes(scenario, tracking))
        driver = Supervised(self.cluster, spec, self.storage)
        healing = Healing()
        deadline = time.monotonic() + RUN_SECONDS
        try:
            wait_until(lambda: driver.run or driver.has_ended(), RUN_SECONDS)
            if driver.run is None:
                raise RuntimeError(f"{name} did not start: see {driver.process.log}")
            disk = self.cluster.disk if scenario.small_disk else None
            stage = Stage(self.cluster, driver, driver.run, disk, tracking)
            for fault in scenario.faults:
                _await_step(fault.at_step or 0, stage, healing, deadline)
                happened = time.time()
                healing.add(inflict(fault, stage), fault, stage.run)
                print(f"    {fault}: step {last_step(stage.run)} was recorded", flush=True)
            _await_end(stage, healing, deadline)
        finally:
            driver.process.kill()
            healing.go_on(at_once=True)
            if tracking:
                tracking.stop()
        if disk is not None:
            # Where runs look for it, outside of the hosts too; the next one needs the room.
            shutil.copytree(disk, self.folder / "disk", dirs_exist_ok=True)
            shutil.rmtree(disk / "chaos")
        return stage, happened

    def _changes(self, scenario: Scenario, tracking: TrackingServer | None) -> dict[str, Any]:
        """The job of a scenario: what all have, what it has, and where things lie."""
        changes = merge(REFERENCES[scenario.reference], scenario.changes)
        changes = merge(changes, self._data_of(scenario.reference))
        if scenario.small_disk:
            changes = merge(changes, {"checkpoint": {"storage": str(self.folder / "disk")}})
        if tracking:
            sent = {"tracker": "mlflow", "interval": 0.5, "mlflow": {"uri": tracking.uri}}
            changes = merge(changes, {"tracking": sent})
        return changes

    def _data_of(self, reference: str) -> dict[str, Any]:
        """The data of the plain job, or a copy whose first shard is spoilt."""
        if reference != "spoilt":
            return {}
        copy = self.folder / "scenes-spoilt"
        if not copy.exists():
            shutil.copytree(self.folder / "scenes", copy)
            spoil_shard(copy)
        return {"data": {"path": str(copy)}}


def _await_step(step: int, stage: Stage, healing: Healing, deadline: float) -> None:
    while last_step(stage.run) < step:
        _let_pass(stage, healing, deadline)
        if stage.driver.has_ended():
            raise RuntimeError(f"{stage.run.name} ended before step {step}")


def _await_end(stage: Stage, healing: Healing, deadline: float) -> None:
    while not stage.driver.has_ended():
        _let_pass(stage, healing, deadline)


def _let_pass(stage: Stage, healing: Healing, deadline: float) -> None:
    healing.go_on()
    if time.monotonic() > deadline:
        raise TimeoutError(f"{stage.run.name} goes on for more than {RUN_SECONDS} s")
    time.sleep(0.05)


def _wrong_in(scenario: Scenario, stage: Stage, cost: Cost) -> list[str]:
    """What must hold of the run itself, and does not."""
    wrong = [said for check in scenario.checks if (said := check(stage.run))]
    if cost.steps > scenario.most_steps_lost:
        wrong.append(f"{cost.steps} steps lost, more than {scenario.most_steps_lost}")
    if stage.driver.starts > scenario.drivers:
        wrong.append(f"{stage.driver.starts} drivers, more than {scenario.drivers}")
    return wrong


def _unlike(reference: RunDirectory, scenario: Scenario, run: RunDirectory) -> list[str]:
    """How the run differs from the undisturbed one, and should not."""
    if not scenario.tolerance:
        return [said] if (said := differences(run, reference)) else []
    apart = farthest(run, reference)
    return [f"losses are {apart:.1e} apart"] if apart > scenario.tolerance else []


def _likeness(reference: RunDirectory, scenario: Scenario, run: RunDirectory) -> str:
    if not scenario.tolerance:
        return "equal bits"
    return f"losses within {farthest(run, reference):.0e}"
