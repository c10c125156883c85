"""What a run directory holds, read once; what is missing is empty, what is broken is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events
from tap_platform.runs.files import read_json
from tap_platform.runs.metrics import MetricsRecord, read_metrics
from tap_platform.runs.status import RunStatus, read_status

Value = TypeVar("Value", dict[str, Any], list[dict[str, Any]])


@dataclass(frozen=True)
class RunRecords:
    """The files of a run as the page reads them: old and half-written runs have pages too."""

    run: RunDirectory
    status: RunStatus
    config: dict[str, Any]
    plan: dict[str, Any]
    provenance: dict[str, Any]
    initial_weights: dict[str, Any]
    """Where the weights came from; empty for a run that began with random ones."""
    scores: dict[str, Any]
    """The final scores by column and name, and `step`."""
    captions: Sequence[dict[str, Any]]
    """What the model says about every described region, with its score."""
    metrics: Sequence[MetricsRecord]
    """One for each step and kind, ascending by step."""
    events: Sequence[dict[str, Any]]
    pipeline: str | None
    """The run of the pipeline that this run is a stage of."""
    faults: Sequence[str]
    """What could not be read, for people."""

    @classmethod
    def read(cls, run: RunDirectory) -> RunRecords:
        """Read everything but checkpoints.

        Raises:
            FileNotFoundError: the run has no status.
            ValueError: the status is broken.
        """
        faults: list[str] = []

        def document(path: Path) -> dict[str, Any]:
            return _json(path, dict, faults)

        return cls(
            run=run,
            status=read_status(run.status),
            config=document(run.config),
            plan=document(run.plan),
            provenance=document(run.provenance),
            initial_weights=document(run.initial_weights),
            scores=document(run.report / "scores.json"),
            captions=_json(run.report / "captions.json", list, faults),
            metrics=_metrics(run.metrics, faults),
            events=read_events(run.events),
            pipeline=_pipeline_of(run),
            faults=faults,
        )


def _json(path: Path, kind: type[Value], faults: list[str]) -> Value:
    """The JSON object or list of a file; empty, and told, where it is not one."""
    try:
        value = read_json(path)
    except FileNotFoundError:
        return kind()
    except ValueError as error:
        faults.append(str(error))
        return kind()
    if isinstance(value, kind):
        return value
    faults.append(f"{path} is not the kind of JSON that is written there: restore or delete it")
    return kind()


def _metrics(path: Path, faults: list[str]) -> list[MetricsRecord]:
    try:
        return read_metrics(path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        faults.append(f"{path} holds a line that is no measurement ({error}): delete that line")
        return []


def _pipeline_of(run: RunDirectory) -> str | None:
    """The pipeline beside the run whose name the run's name goes on from."""
    siblings = (path.parent.name for path in run.path.parent.glob(f"*/{run.pipeline.name}"))
    return next((name for name in siblings if run.name.startswith(f"{name}-")), None)
