"""The MLflow store: where it is, how to open it, and what its errors mean for people."""

from __future__ import annotations

import logging
import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tap_platform.runs.files import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

DATABASE = "mlflow.db"
"""In the folder of all projects, where no store is named."""
_CREDENTIALS = (
    "the MLflow server at {uri} refuses who asks: set MLFLOW_TRACKING_USERNAME and"
    " MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, where the driver runs"
)
_FORBIDDEN = "the MLflow server at {uri} does not allow it: its account lacks the permission"
_ADVICE = (
    (r"error code 401|\b401\b.*[Uu]nauthorized|not authenticated", _CREDENTIALS),
    (r"error code 403|[Pp]ermission denied|PERMISSION_DENIED", _FORBIDDEN),
    (
        r"Max retries exceeded|Connection refused|timed out|Name or service not known"
        r"|Failed to resolve",
        "the MLflow server at {uri} does not answer; records wait in the run directory",
    ),
    (
        r"out-of-date database schema",
        "the database {uri} is of another version of MLflow: `mlflow db upgrade {uri}`",
    ),
    (r"file is not a database", "{uri} is no database of MLflow: move it away"),
    (r"readonly database|unable to open database", "{uri} cannot be written: see to its folder"),
    (r"database is locked", "another process holds {uri}; records wait in the run directory"),
)
"""What errors say, and what can be done."""


def store_uri(uri: str | None, storage: Path) -> str:
    """Where a store is: the one that is named, else the database beside the runs."""
    return uri if uri is not None else f"sqlite:///{storage / DATABASE}"


def open_store(uri: str | None, storage: Path) -> MlflowClient:
    """A client of a store, whose tables are made if it is new.

    Args:
        uri: Server or database; None for the one beside the runs.
        storage: The folder of all projects.
    """
    quieten()
    from mlflow import MlflowClient

    where = store_uri(uri, storage)
    # Two runs that start together must not make the tables twice.
    is_own = uri is None
    with locked(storage / ".mlflow.lock") if is_own else nullcontext():
        return MlflowClient(where, registry_uri=where)


def experiment_of(client: MlflowClient, project: str, own_storage: Path | None) -> str:
    """The id of a project's experiment, which is made if it is not there.

    Args:
        client: Of the store.
        project: The experiment's name.
        own_storage: The folder of all projects, where the store is the one beside the runs: its
            artifacts then lie beside it.

    Raises:
        ValueError: Somebody has deleted it.
    """
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(project):
        return _alive(found)
    folder = own_storage and own_storage / "mlflow-artifacts" / project
    try:
        location = folder.as_uri() if folder else None
        return str(client.create_experiment(project, artifact_location=location))
    except MlflowException:
        if found := client.get_experiment_by_name(project):
            return _alive(found)
        raise


def _alive(experiment: Experiment) -> str:
    if experiment.lifecycle_stage == "deleted":
        raise ValueError(
            f"the experiment {experiment.name} is deleted in MLflow: bring it back by `mlflow"
            f" experiments restore -x {experiment.experiment_id}`, or give the job another project"
        )
    return str(experiment.experiment_id)


def advice(error: Exception, uri: str) -> str | None:
    """What a person can do about an error of a store; None if nobody knows."""
    text = str(error)
    for pattern, told in _ADVICE:
        if re.search(pattern, text):
            return told.format(uri=uri)
    return None


def quieten() -> None:
    """Silence MLflow's news of itself, and leave retries to the follower, which has patience."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
