"""The weights that a job starts from: found, tried and shown before anything is scheduled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tap_platform.config.initial_weights import InitialWeights
from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TapPretrainConfig
from tap_platform.launch.newest_checkpoint import checkpoint_in_run
from tap_platform.launch.weights_source import newest_checkpoint
from tap_platform.models import Tap
from tap_platform.models.matching import LoadReport, fit_weights
from tap_platform.models.released import WEIGHT_SUFFIXES, State
from tap_platform.runs import checkpoints
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import write_json
from tap_platform.runs.status import read_status
from tap_platform.training.base_weights import (
    BaseWeights,
    check_base,
    fingerprint,
    job_of,
    needs_base,
)
from tap_platform.training.weights import keeps_trained_only

PARTS = ("image_encoder", "prompt_encoder", "image_decoder", "text_decoder")
REST = "rest"
NAMES_SHOWN = 4
UNTRAINED_TEXT = "the text decoder is random as yet: the recipe tap_pretrain does not train it"


@dataclass(frozen=True)
class StartingPoint:
    """Where a model starts: the base, and what became of all tensors."""

    source: str
    """What the job names."""
    base: BaseWeights
    report: LoadReport

    def write(self, run: RunDirectory) -> None:
        """Tell in the run directory what the run starts from."""
        told = {"source": self.source, **self.base.told_in(run), "report": self.report.as_dict()}
        write_json(run.initial_weights, told)


def initialize(model: Tap, config: InitialWeights, storage: str | Path = "runs") -> LoadReport:
    """Load weights into a model, as a job's `init_from` does.

    Args:
        model: changed in place; tensors that are not loaded stay as they are.
        config: which weights, and how their names change.
        storage: where to look for a run's name.

    Returns:
        What was loaded, left out and new.

    Raises:
        ValueError: if the weights are missing, broken, or do not fit the model.
    """
    found, state = _fit(model, config, storage)
    model.load_state_dict(state, strict=False)
    return found.report


def _fit(model: Tap, config: InitialWeights, storage: str | Path) -> tuple[StartingPoint, State]:
    """The tensors that a model takes over, and where they come from."""
    try:
        base = find_base(config.source, storage)
        state, report = fit_weights(base.state(config.prefixes), model, config.skip)
    except ValueError as error:
        raise ValueError(f"init_from {config.source}: {error}") from error
    return StartingPoint(config.source, base, report), state


def find_base(source: str, storage: str | Path) -> BaseWeights:
    """The checkpoint or file that a job names.

    Args:
        source: a run's name or directory, `RUN/checkpoints/step-N`, or a file of weights.
        storage: where to look for a run's name.

    Raises:
        ValueError: if it is not there; a run or checkpoint also if it is not sound.
    """
    path = Path(source).expanduser().absolute()
    if path.is_file():
        return BaseWeights(path, fingerprint(path), f"file {path.name}")
    if re.fullmatch(r"step-\d+", path.name):
        return _checked(_of_checkpoint(path))
    if path.suffix in WEIGHT_SUFFIXES:
        raise ValueError("there is no such file; a run is named without a suffix")
    if source == "previous" or source.startswith("stage:"):
        raise ValueError("only a stage of a pipeline (tap run) can say so: name a run here")
    return _of_checkpoint(newest_checkpoint(RunDirectory.find(storage, source)))


def _checked(base: BaseWeights) -> BaseWeights:
    base.check()
    return base


def _of_checkpoint(folder: Path) -> BaseWeights:
    run, step = RunDirectory(folder.parent.parent), checkpoints.step_of(folder)
    if not checkpoints.is_committed(folder):
        _bring(run, step)
    origin = f"run {run.name}, step {step}"
    return BaseWeights(folder, fingerprint(folder), origin, step, _note(run))


def _bring(run: RunDirectory, step: int) -> None:
    """Copy a checkpoint that lies elsewhere to its run's directory."""
    job = job_of(run)
    try:
        if checkpoint_in_run(job, run, step) is not None:
            return
    except checkpoints.CorruptCheckpointError as error:
        raise ValueError(str(error)) from error
    committed = checkpoints.committed(checkpoints.checkpoint_place(run, job.checkpoint))
    there = ", ".join(each.name for each in committed) or "none"
    raise ValueError(f"there is no committed checkpoint step-{step}; there: {there}")


def _note(run: RunDirectory) -> str:
    """What no one sees in the weights of a run: a text decoder that nothing has trained."""
    job = job_of(run)
    if not isinstance(job.recipe, TapPretrainConfig):
        return ""
    return BaseWeights.of(run).note if job.init_from else UNTRAINED_TEXT


def check_initial_weights(job: JobConfig, console: Console | None = None) -> StartingPoint | None:
    """Try the weights that a job starts from, and show what fits; nothing for a job from scratch.

    Raises:
        ValueError: if they are missing, broken or do not fit, leave a part random that the job
            freezes, or the job names weights of a masked autoencoder too.
    """
    config = job.init_from
    if config is None:
        return None
    if isinstance(job.recipe, TapPretrainConfig) and job.recipe.mae_weights:
        raise ValueError(
            "init_from and recipe.mae_weights both say what the image encoder starts from: leave"
            " one of them out"
        )
    with torch.device("meta"):
        model = Tap(job.model)
    found, _ = _fit(model, config, job.storage)
    if keeps_trained_only(job):
        _refuse_random_parts(config.source, found.report, model)
    console = console or Console()
    show(found, console)
    if keeps_trained_only(job):
        _warn_of_retention(found.base, console)
    return found


def _warn_of_retention(base: BaseWeights, console: Console) -> None:
    """A run that still trains deletes its older checkpoints, those that others need too."""
    run = RunDirectory(base.path.parent.parent)
    if base.step is not None and read_status(run.status).state in ("preparing", "running"):
        console.print(
            f"[yellow]{run.name} is not finished:[/] it deletes its older checkpoints"
            f" (checkpoint.keep_last), and without {base.path} this run is lost; copy that run's"
            " directory and start from the copy, or wait for its end",
            highlight=False,
            soft_wrap=True,
        )


def check_resumable(job: JobConfig, run: RunDirectory) -> None:
    """Make sure of the weights that a run started from, if it needs them to go on.

    Raises:
        ValueError: if they are gone or changed.
    """
    place = checkpoints.checkpoint_place(run, job.checkpoint)
    newest = next(reversed(checkpoints.committed(place)), None)
    if needs_base(job, newest):
        check_base(run)


def _refuse_random_parts(source: str, report: LoadReport, model: Tap) -> None:
    """A part that is frozen must come from somewhere."""
    random = [name for name in report.new if not name.startswith("text_decoder.")]
    if random:
        raise ValueError(
            f"init_from {source}: {len(random)} tensors of parts that recipe.train text_decoder"
            f" freezes are not loaded ({_few(random)}): they would stay random; take weights that"
            " have them, or recipe.train=all"
        )


def show(found: StartingPoint, console: Console) -> None:
    """Print what a model starts from: counts by part, a few names, and what is worth knowing."""
    report = found.report
    table = Table(title=f"Starts from {found.base.origin}", title_justify="left")
    table.add_column("part")
    counts = [_count(names) for names in (report.loaded, report.left_out, report.new)]
    for title in ("loaded", "left out", "new"):
        table.add_column(title, justify="right")
    for part in (*PARTS, REST):
        table.add_row(part, *(str(count[part]) for count in counts))
    console.print(table)
    lines = {"left out": _few(report.left_out), "new": _few(report.new)}
    if any(name.startswith("text_decoder.") for name in report.loaded):
        lines["note"] = found.base.note
    for title, text in lines.items():
        if text:
            console.print(f"{title}: {text}", soft_wrap=True, highlight=False, markup=False)


def _count(names: Sequence[str]) -> Counter[str]:
    """Tensors by the part of the model that they belong to."""
    parts = (name.partition(".")[0] for name in names)
    return Counter(part if part in PARTS else REST for part in parts)


def _few(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join([*names[:NAMES_SHOWN], *([f"and {more} more"] if more > 0 else [])])
