"""Start a run, or go on with one; whatever ends it is told in the run directory."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from datamodules.storage import location
from tap_platform.alerts.run_alerts import alerted
from tap_platform.alerts.webhook import Webhook
from tap_platform.config.job import JobConfig
from tap_platform.config.load import load_job, validate_job
from tap_platform.config.recipe import TapCaptionConfig
from tap_platform.launch.attempt import alone, mirrored, recorded, tracked
from tap_platform.launch.changed_job import Change, changed_job, write_changes
from tap_platform.launch.data_sets import data_hashes, training_index
from tap_platform.launch.plan import make_plan
from tap_platform.launch.prepare import check_data, prepare_data
from tap_platform.launch.workers import run_workers
from tap_platform.runs import provenance
from tap_platform.runs.directory import RunDirectory, check_storage, new_run_name
from tap_platform.runs.files import read_json, write_json

if TYPE_CHECKING:
    from tap_platform.launch.initial_weights import StartingPoint


def start_run(spec: Path, overrides: Sequence[str] = ()) -> RunDirectory:
    """Train the job of a file, then evaluate it.

    Raises:
        ValueError: if the job or its data is refused; nothing has been scheduled then.
        RunFailedError: if training failed.
    """
    job = load_job(spec, overrides)
    return train(job, create_run(job))


def resume_run(
    name: str,
    overrides: Sequence[str] = (),
    storage: str = "runs",
    console: Console | None = None,
) -> RunDirectory:
    """Go on with a run from its last checkpoint.

    Args:
        name: the run's name, or the path of its directory.
        overrides: changes of its job that leave it the same run, as `changed_job` tells.
        storage: where to look for a name.
        console: where to tell how it goes.

    Raises:
        ValueError: if there is no such run, its config or data is refused, a change would make it
            another run, or the weights that it started from are needed and gone.
        RunFailedError: if training failed.
    """
    run = RunDirectory.find(storage, name)
    if run.pipeline.is_file():
        how = shlex.quote(str(run.path))
        raise ValueError(f"{run.name} is a pipeline; it goes on with: tap run --resume {how}")
    job, changes = changed_job(job_of(run), overrides, run)
    return go_on(job, changes, run, console)


def job_of(run: RunDirectory) -> JobConfig:
    """The job that a run trains.

    Raises:
        ValueError: if its config is broken.
    """
    return validate_job(read_json(run.config), where=str(run.config))


def go_on(
    job: JobConfig,
    changes: Sequence[Change],
    run: RunDirectory,
    console: Console | None = None,
    patience: float = 0.0,
) -> RunDirectory:
    """Another attempt of a run.

    Args:
        job: what it trains from now on.
        changes: in what that is not the job of its config.
        run: its directory.
        console: where to tell how it goes.
        patience: seconds to wait for a driver on another host.

    Raises:
        ValueError: if another process trains the run, its data is refused, or the weights that it
            started from are needed and gone.
        RunFailedError: if training failed.
    """
    if job.init_from is not None:
        from tap_platform.launch.initial_weights import check_resumable

        check_resumable(job, run)
    check_data(job, console)
    if changes:
        with alone(run, patience):
            write_changes(job, changes, run)
    return train(job, run, console, patience)


def create_run(
    job: JobConfig, name: str | None = None, console: Console | None = None
) -> RunDirectory:
    """Make a job's data ready, check it, and make the run directory.

    Args:
        job: the job.
        name: of the run; by default a new one after the job's.
        console: where to tell what it is made of.

    Raises:
        ValueError: if storage, initial weights, data or tokenizer are refused; no run directory is
            left then.
    """
    check_storage(job.storage)
    if job.mirror.url is not None:
        location(job.mirror.url)
    Webhook.of_environment(job.alerts.webhook_from)
    initial = _initial_weights(job, console)
    prepare_data(job.data, job.model.concept_dim, console)
    check_data(job, console)
    run = RunDirectory.create(job.storage, job.project, name or new_run_name(job.name))
    with _removed_on_error(run):
        if initial is not None:
            initial.write(run)
        if isinstance(job.recipe, TapCaptionConfig):
            from tap_platform.launch.tokenizers import prepare_tokenizer

            prepare_tokenizer(job, run)
        _describe(job, run)
    return run


def _initial_weights(job: JobConfig, console: Console | None) -> StartingPoint | None:
    """What a job's model starts from, tried and shown; nothing for a job from scratch."""
    if job.init_from is None:
        return None
    from tap_platform.launch.initial_weights import check_initial_weights

    return check_initial_weights(job, console)


@contextmanager
def _removed_on_error(run: RunDirectory) -> Iterator[None]:
    """Leave no half run behind."""
    try:
        yield
    except BaseException:
        shutil.rmtree(run.path)
        raise


def _describe(job: JobConfig, run: RunDirectory) -> None:
    """Write down what the run will do and what it is made of."""
    made_of = provenance.collect(
        config_hash=job.identity,
        data_hash=training_index(job.data).sha256,
        data=data_hashes(job.data),
    )
    write_json(run.plan, make_plan(job).model_dump(mode="json"))
    write_json(run.provenance, made_of.to_json())
    # The last one: a run without a config was killed while it was made, and can be made anew.
    write_json(run.config, job.model_dump(mode="json"))


def train(
    job: JobConfig, run: RunDirectory, console: Console | None = None, patience: float = 0.0
) -> RunDirectory:
    """One attempt of a run: workers, tracking, the final evaluation and the page of the run.

    Args:
        job: what the run's config says.
        run: its directory.
        console: where to tell how it goes; the terminal by default.
        patience: seconds to wait for a driver on another host, which may be gone.

    Raises:
        ValueError: if another process trains the run.
        RunFailedError: if training failed, or was stopped.
    """
    console = console or Console()
    with alone(run, patience):
        attempt = run.begin_attempt()
        console.print(f"[bold]{run.name}[/], attempt {attempt}")
        with mirrored(run, job.mirror, console), tracked(run, job.tracking, console):
            with alerted(run, job.alerts), recorded(run, job, attempt):
                run_workers(job, run, attempt, console)
                if job.evaluation.final_images != 0:
                    from tap_platform.launch.final_evaluation import evaluate_run

                    evaluate_run(job, run, console)
            if job.evaluation.page:
                _write_page(run, console)
    console.print(where_everything_lies(job, run), soft_wrap=True, highlight=False)
    return run


def _write_page(run: RunDirectory, console: Console) -> None:
    """Write the run's page; a page that fails does not spoil a run that is done."""
    from tap_platform.launch.run_page import write_page

    try:
        write_page(run)
    except Exception as error:  # whatever it is, the run itself has ended well
        how = shlex.quote(str(run.path))
        console.print(f"[yellow]no page was written ({error});[/] try: tap report {how}")


def where_everything_lies(job: JobConfig, run: RunDirectory) -> str:
    """What a person may want to open next."""
    lines = [f"run directory  {run.path}"]
    lines += [f"picture        {picture}" for picture in sorted(run.pictures.glob("*.png"))]
    lines += [f"page           {page}" for page in run.report.glob("index.html")]
    if job.tracking.tracker == "mlflow":
        uri = job.tracking.mlflow.uri or f"sqlite:///{run.storage / 'mlflow.db'}"
        lines.append(
            f"dashboard      {_program('mlflow')} ui --backend-store-uri {shlex.quote(uri)}"
        )
    elif job.tracking.tracker == "wandb" and job.tracking.wandb.mode == "offline":
        folder = shlex.quote(f"{run.path}/wandb")
        lines.append(f"tracking       {_program('wandb')} sync {folder}/offline-run-*")
    return "\n".join(lines)


def _program(name: str) -> str:
    """How to call a program of our environment from where the caller stands."""
    path = Path(sys.executable).with_name(name)
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
