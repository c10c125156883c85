"""Runs in MLflow, by default in a database beside the runs: no server, no account, no network."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import NAMESPACE_URL, uuid5

from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs.files import locked, write_json
from tap_platform.runs.metrics import MetricsRecord
from tap_platform.runs.status import State
from tap_platform.runs.tables import TableFile
from tap_platform.runs.tracking.base import DataSet, Picture, Session, as_text
from tap_platform.runs.tracking.mlflow_store import advice, experiment_of, open_store, store_uri
from tap_platform.runs.tracking.shown import Shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What a server accepts in one call, and in one value.
METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
DIGEST_LENGTH = 36

NAME_TAGS = {"run": "tap.run", "runs": "tap.run", "sweep": "tap.sweep"}
"""The label that holds the name, by what is shown: a sweep may be called as a run is."""
PARENT_TAG = "mlflow.parentRunId"
_END_STATES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_MLFLOW_TAGS = {
    "git.revision": "mlflow.source.git.commit",
    "command": "mlflow.source.name",
    "owner": "mlflow.user",
}
"""Labels that MLflow's pages show by names of their own; they are kept by ours too."""
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]", re.ASCII)
_SMALL = (256, 256)
"""The most pixels of a picture in a list."""
T = TypeVar("T")


class MlflowTracker:
    """One run in an MLflow experiment that is named after the project."""

    name = "mlflow"

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self._shown: Shown | None = None
        self._run_id = ""
        self._client: MlflowClient | None = None
        self._params: dict[str, str] = {}

    def start(self, shown: Shown, run_id: str | None) -> Session:
        """Open the run of that id, or the one of this run's name and first start, or a new one.

        A stage or a trial lies below its parent, which is made if it is not there yet.

        Raises:
            ValueError: Somebody has deleted the run or the experiment.
        """
        self._shown = shown
        client = open_store(self.config.mlflow.uri, shown.storage)
        own = shown.storage if self.config.mlflow.uri is None else None
        experiment_id = experiment_of(client, shown.project, own)
        known = run_id is not None and _exists(client, run_id)
        self._run_id = (
            run_id if known and run_id else self._find_or_create(client, experiment_id, shown)
        )
        client.update_run(self._run_id, status="RUNNING")
        self._params = dict(client.get_run(self._run_id).data.params)
        self._client = client
        self.set_tags({"job_type": shown.job_type, **self.config.tags})
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

    def log_picture(self, picture: Picture) -> None:
        """Copy a picture, with a small one for lists, to where MLflow shows them by steps.

        Its file names tell name and step, and an id that is made of these: a picture that is sent
        twice is there once.
        """
        from PIL import Image

        assert self._shown is not None
        started = _milliseconds(self._shown.started)
        key = _name(picture.name).replace("/", "~").replace(":", "_")
        identity = uuid5(NAMESPACE_URL, f"{self._run_id}/{key}/{picture.step}")
        stem = f"{key}+step+{picture.step}+timestamp+{started}+{identity}"
        with tempfile.TemporaryDirectory() as folder:
            whole, small = Path(folder, f"{stem}.png"), Path(folder, f"{stem}+compressed.webp")
            shutil.copyfile(picture.path, whole)
            with Image.open(picture.path) as image:
                image.thumbnail(_SMALL)
                image.save(small)
            for path in (whole, small):
                self._open.log_artifact(self._run_id, str(path), "images")
        self._open.set_tag(self._run_id, "mlflow.loggedImages", "True")

    def log_table(self, name: str, step: int, table: TableFile) -> None:
        """Copy a table to `tables/`, where MLflow shows it as one."""
        file = f"tables/{name}-step-{step}.json"
        with _draft(PurePosixPath(file).name) as path:
            write_json(path, table._asdict(), durable=False)
            self._open.log_artifact(self._run_id, str(path), "tables")
        self._add_table(file)

    def _add_table(self, file: str) -> None:
        tags = self._open.get_run(self._run_id).data.tags
        listed = json.loads(tags.get("mlflow.loggedArtifacts", "[]"))
        entry = {"path": file, "type": "table"}
        if entry not in listed:
            text = json.dumps([*listed, entry])
            self._open.set_tag(self._run_id, "mlflow.loggedArtifacts", text)

    def log_file(self, path: Path, name: str) -> None:
        """Copy a file to the run's artifacts."""
        folder = PurePosixPath(name).parent.as_posix()
        self._open.log_artifact(self._run_id, str(path), None if folder == "." else folder)

    def log_text(self, text: str, name: str) -> None:
        """Write an artifact."""
        with _draft(PurePosixPath(name).name) as path:
            path.write_text(text, encoding="utf-8")
            self.log_file(path, name)

    def log_data(self, data: Sequence[DataSet]) -> None:
        """Log data sets as what the run used; one of a name and digest is there once."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=each.name,
                    digest=each.sha256[:DIGEST_LENGTH],
                    source_type=each.source.split("://")[0] if "://" in each.source else "local",
                    source=json.dumps({"uri": each.source}),
                    profile=json.dumps({"sha256": each.sha256}),
                ),
                [InputTag("mlflow.data.context", "training")],
            )
            for each in data
        ]
        if inputs:
            self._open.log_inputs(self._run_id, inputs)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Label the run, by MLflow's own names too for what its pages show."""
        from mlflow.entities import RunTag

        named = {_name(key): text for key, text in tags.items()}
        named |= {_MLFLOW_TAGS[key]: text for key, text in tags.items() if key in _MLFLOW_TAGS}
        entries = [RunTag(key, _cut(text, TAG_LENGTH)) for key, text in named.items()]
        for chunk in _chunks(entries, PARAMS_PER_CALL):
            self._open.log_batch(self._run_id, tags=chunk)

    def describe(self, text: str) -> None:
        """Set the run's description."""
        self._open.set_tag(self._run_id, "mlflow.note.content", _cut(text, TAG_LENGTH))

    def finish(self, state: State, time: str) -> None:
        """Set the run's end; one that was interrupted reads KILLED."""
        self._open.set_terminated(self._run_id, _END_STATES[state], _milliseconds(time))
        self.close()

    def close(self) -> None:
        """Forget the connection; everything that was taken is stored already."""
        self._client = None

    def abandon(self) -> None:
        """Nothing: a thread that waits for an answer ends with the process."""

    def advice(self, error: Exception) -> str | None:
        """As `mlflow_store` knows."""
        storage = self._shown.storage if self._shown else Path()
        return advice(error, store_uri(self.config.mlflow.uri, storage))

    @property
    def _open(self) -> MlflowClient:
        assert self._client is not None, "start() comes first"
        return self._client

    def _find_or_create(self, client: MlflowClient, experiment_id: str, shown: Shown) -> str:
        # A parent and its children that start together must not make it twice.
        with locked(shown.path / ".mlflow.lock"):
            name_tag = NAME_TAGS[shown.kind]
            # Many storages may share a server: a name alone is not one run.
            started = _milliseconds(shown.started)
            wanted = f"tags.`{name_tag}` = '{shown.name}' and attributes.start_time = {started}"
            found = client.search_runs([experiment_id], wanted, max_results=1)
            if found:
                return str(found[0].info.run_id)
            tags = {name_tag: shown.name, "tap.directory": str(shown.path)}
            if shown.parent is not None:
                tags[PARENT_TAG] = self._find_or_create(client, experiment_id, shown.parent)
            created = client.create_run(experiment_id, started, tags, run_name=shown.name)
            return str(created.info.run_id)


def _exists(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    if run.info.lifecycle_stage == "deleted":
        raise ValueError(
            f"the run {run.info.run_name} is deleted in MLflow: bring it back by `mlflow runs"
            f" restore --run-id {run_id}`, or set tracking.tracker=none"
        )
    return True


@contextmanager
def _draft(name: str) -> Iterator[Path]:
    """A file of that name to be copied."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, name)


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
