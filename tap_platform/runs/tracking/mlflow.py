"""Runs in MLflow, by default in a database beside the runs: no server, no account, no network."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import locked
from tap_platform.runs.metrics import MetricsRecord
from tap_platform.runs.status import State, read_status
from tap_platform.runs.tracking.base import Session, as_text

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What a server accepts in one call, and in one value.
METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 8000

RUN_TAG = "tap.run"
PARENT_TAG = "mlflow.parentRunId"
_END_STATES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_MLFLOW_TAGS = {"git.revision": "mlflow.source.git.commit", "command": "mlflow.source.name"}
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]", re.ASCII)
T = TypeVar("T")


class MlflowTracker:
    """One run in an MLflow experiment that is named after the project."""

    name = "mlflow"

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self._run_id = ""
        self._client: MlflowClient | None = None
        self._params: dict[str, str] = {}

    def start(self, run: RunDirectory, run_id: str | None) -> Session:
        """Open the run of that id, or the one tagged with this run's name, or a new one.

        The run of a stage lies below that of its parent, which is made if it is not there yet.
        """
        client = self._connect(run)
        experiment_id = self._experiment(client, run)
        known = run_id is not None and _exists(client, run_id)
        self._run_id = (
            run_id if known and run_id else self._find_or_create(client, experiment_id, run)
        )
        client.update_run(self._run_id, status="RUNNING")
        self._params = dict(client.get_run(self._run_id).data.params)
        self._client = client
        self.set_tags(self.config.tags)
        return Session(self._run_id, next_step=None if known else 0)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings; MLflow's never change, so one that did is also a tag `changed.NAME`."""
        from mlflow.entities import Param

        texts = {_name(key): _cut(as_text(value), PARAM_LENGTH) for key, value in params.items()}
        new = {key: text for key, text in texts.items() if key not in self._params}
        for chunk in _chunks(new.items(), PARAMS_PER_CALL):
            self._open.log_batch(self._run_id, params=[Param(key, text) for key, text in chunk])
        self._params.update(new)
        changed = {key: text for key, text in texts.items() if self._params[key] != text}
        self.set_tags({f"changed.{key}": text for key, text in changed.items()})

    def log_metrics(self, records: Sequence[MetricsRecord]) -> None:
        """Log measures with their own times: the store knows them again if they come twice."""
        from mlflow.entities import Metric

        metrics = [
            Metric(_name(name), value, _milliseconds(record.time), record.step)
            for record in records
            for name, value in record.named_values.items()
        ]
        for chunk in _chunks(metrics, METRICS_PER_CALL):
            self._open.log_batch(self._run_id, metrics=chunk)

    def log_picture(self, path: Path, step: int | None) -> None:
        """Copy a picture to the run's `pictures/`; the step is in its name."""
        self._open.log_artifact(self._run_id, str(path), "pictures")

    def log_file(self, path: Path) -> None:
        """Copy a file to the run's artifacts."""
        self._open.log_artifact(self._run_id, str(path))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Label the run, with MLflow's own names for what its pages show."""
        from mlflow.entities import RunTag

        entries = [
            RunTag(_MLFLOW_TAGS.get(key, _name(key)), _cut(text, TAG_LENGTH))
            for key, text in tags.items()
        ]
        for chunk in _chunks(entries, PARAMS_PER_CALL):
            self._open.log_batch(self._run_id, tags=chunk)

    def finish(self, state: State, time: str) -> None:
        """Set the run's end; one that was interrupted reads KILLED."""
        self._open.set_terminated(self._run_id, _END_STATES[state], _milliseconds(time))
        self.close()

    def close(self) -> None:
        """Forget the connection; everything that was taken is stored already."""
        self._client = None

    def abandon(self) -> None:
        """Nothing: a thread that waits for an answer ends with the process."""

    @property
    def _open(self) -> MlflowClient:
        assert self._client is not None, "start() comes first"
        return self._client

    def _connect(self, run: RunDirectory) -> MlflowClient:
        _quieten()
        from mlflow import MlflowClient

        if self.config.mlflow.uri is not None:
            return MlflowClient(self.config.mlflow.uri)
        # Two runs that start together must not make the tables twice.
        with locked(run.storage / ".mlflow.lock"):
            return MlflowClient(f"sqlite:///{run.storage / 'mlflow.db'}")

    def _experiment(self, client: MlflowClient, run: RunDirectory) -> str:
        """The project's experiment; a local store keeps its artifacts beside the database."""
        from mlflow.exceptions import MlflowException

        if found := client.get_experiment_by_name(run.project):
            return str(found.experiment_id)
        folder = run.storage / "mlflow-artifacts" / run.project
        location = folder.as_uri() if self.config.mlflow.uri is None else None
        try:
            return client.create_experiment(run.project, artifact_location=location)
        except MlflowException:
            if found := client.get_experiment_by_name(run.project):
                return str(found.experiment_id)
            raise

    def _find_or_create(self, client: MlflowClient, experiment_id: str, run: RunDirectory) -> str:
        found = client.search_runs(
            [experiment_id], f"tags.`{RUN_TAG}` = '{run.name}'", max_results=1
        )
        if found:
            return str(found[0].info.run_id)
        tags = {RUN_TAG: run.name, "tap.directory": str(run.path)}
        if parent := run.parent:
            # Stages that start together must not make it twice.
            with locked(parent.path / ".mlflow.lock"):
                tags[PARENT_TAG] = self._find_or_create(client, experiment_id, parent)
        started = _milliseconds(read_status(run.status).started)
        created = client.create_run(experiment_id, started, tags, run_name=run.name)
        return str(created.info.run_id)


def _quieten() -> None:
    """Silence MLflow's news of itself, and leaves retries to the follower, which has patience."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _exists(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _name(text: str) -> str:
    return _NOT_IN_NAMES.sub("_", text)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _milliseconds(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp() * 1000)
