"""A run's checkpoint becomes a version of a model, and the candidate."""

from __future__ import annotations

import tempfile
from pathlib import Path

from datamodules.storage import Location, read_bytes
from tap_platform.config.job import JobConfig
from tap_platform.config.load import validate_job
from tap_platform.registry.versions import (
    CANDIDATE,
    CHECKPOINT,
    DIGEST,
    DIRECTORY,
    RUN,
    STEP,
    Registry,
    Version,
    digest_of,
    registry_at,
)
from tap_platform.runs.checkpoints import (
    MANIFEST,
    CorruptCheckpointError,
    checkpoint_place,
    committed,
    step_of,
    verify,
)
from tap_platform.runs.directory import RunDirectory, check_plain_name
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import read_json
from tap_platform.runs.prices import owner
from tap_platform.runs.status import read_status
from tap_platform.runs.tracking import build_follower

CURSOR = "tracking-mlflow.json"


def register(
    name: str,
    model: str | None = None,
    step: int | None = None,
    store: str | None = None,
    storage: str = "runs",
) -> tuple[Version, bool]:
    """Make a checkpoint a version of a model, and give it the alias `candidate`.

    One that is a version of the model already stays that version.

    Args:
        name: The run's name, or its directory.
        model: The model's name; by default that of the job.
        step: Of the checkpoint; by default the newest.
        store: MLflow's server or database; by default where the run is tracked.
        storage: Where to look for a name.

    Returns:
        The version, and whether it is new.

    Raises:
        ValueError: There is no such run or checkpoint, the run goes on, or the store refuses.
        OSError: The store of the checkpoint is down.
    """
    run = RunDirectory.find(storage, name)
    job = validate_job(read_json(run.config), where=str(run.config))
    model = model or job.name
    check_plain_name("model", model)
    folder = _checkpoint(run, job, step)
    own = job.tracking.mlflow.uri if job.tracking.tracker == "mlflow" else None
    with registry_at(store or own, run.storage) as registry:
        digest = digest_of(folder)
        is_tracked_here = job.tracking.tracker == "mlflow" and store in (None, own)
        mlflow_run = _mlflow_run(run, job) if is_tracked_here else None
        with registry.alone():
            _make_model(registry, model)
            known = [v for v in registry.versions(model) if v.tags[DIGEST] == digest]
            number = known[0].number if known else _create(registry, model, run, folder, mlflow_run)
            registry.client.set_registered_model_alias(model, CANDIDATE, number)
            version = registry.version(model, number)
    if not known:
        told = {"model": model, "version": number, "step": version.step, "sha256": digest}
        EventLog(run.events, attempt=run.attempt).record("registered", **told, by=owner())
    return version, not known


def _checkpoint(run: RunDirectory, job: JobConfig, step: int | None) -> Location:
    """The checkpoint to register, every byte of which is what was committed."""
    status = read_status(run.status)
    if not status.ended:
        raise ValueError(
            f"{run.name} is {status.state}: its checkpoints come and go; register it at its end"
        )
    place = checkpoint_place(run, job.checkpoint)
    there = {step_of(folder): folder for folder in committed(place)}
    if not there:
        raise ValueError(f"{run.name} has no checkpoint in {place}")
    wanted = max(there) if step is None else step
    if wanted not in there:
        steps = ", ".join(map(str, sorted(there)))
        raise ValueError(f"{run.name} has no checkpoint of step {wanted}: there are {steps}")
    try:
        verify(there[wanted])
    except CorruptCheckpointError as error:
        raise ValueError(f"the checkpoint of step {wanted} is broken: {error}") from None
    return there[wanted]


def _mlflow_run(run: RunDirectory, job: JobConfig) -> str:
    """MLflow's id of the run, once all of it has been sent there."""
    follower = build_follower(run, job.tracking)
    assert follower is not None
    follower.sync()
    return str(read_json(run.path / CURSOR)["run_id"])


def _make_model(registry: Registry, model: str) -> None:
    from mlflow.exceptions import MlflowException

    if model in registry.models():
        return
    try:
        registry.client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _create(
    registry: Registry, model: str, run: RunDirectory, folder: Location, mlflow_run: str | None
) -> str:
    tags = {
        RUN: run.name,
        DIRECTORY: str(run.path),
        STEP: str(step_of(folder)),
        CHECKPOINT: str(folder),
        DIGEST: digest_of(folder),
        "tap.registered.by": owner(),
    }
    source = _source(registry, folder, mlflow_run)
    told = f"{run.name}, step {step_of(folder)}"
    created = registry.client.create_model_version(
        model, source, mlflow_run, tags=tags, description=told
    )
    return str(created.version)


def _source(registry: Registry, folder: Location, mlflow_run: str | None) -> str:
    """What MLflow calls the checkpoint's place.

    A server takes no path of a computer, which it may not share. It is given the list of the
    checkpoint's files as an artifact of the run; the path is a tag.
    """
    if not isinstance(folder, Path):
        return str(folder)
    if not registry.is_server:
        return folder.as_uri()
    if mlflow_run is None:
        raise ValueError(
            f"{registry.uri} takes no checkpoint at a path, {folder}, but of a run that it tracks:"
            " track the run there, or keep checkpoints at a URL (checkpoint.storage)"
        )
    artifact = f"checkpoints/{folder.name}"
    with tempfile.TemporaryDirectory() as draft:
        path = Path(draft, MANIFEST)
        path.write_bytes(read_bytes(folder / MANIFEST))
        registry.client.log_artifact(mlflow_run, str(path), artifact)
    return f"runs:/{mlflow_run}/{artifact}"
