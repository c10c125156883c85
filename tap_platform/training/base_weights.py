"""The weights that a run starts from: told once, in its directory, and found again from there.

A run that trains a part of its model saves that part only. The rest lies in its base, another run's
checkpoint or a file, which `initial_weights.json` names together with its SHA-256.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datamodules.storage import Location
from tap_platform.config.job import JobConfig
from tap_platform.config.load import validate_job
from tap_platform.models.matching import fit_weights, renamed
from tap_platform.models.released import State, from_released, read_weights
from tap_platform.models.tap import Tap
from tap_platform.runs import checkpoints
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_json, sha256_of
from tap_platform.training.weights import keeps_trained_only, load_model_weights


@dataclass(frozen=True)
class BaseWeights:
    """A checkpoint or a file, known by its content."""

    path: Path
    """The folder of a checkpoint, or a file."""
    sha256: str
    """Of the checkpoint's manifest, or of the file."""
    origin: str
    """What it is, for people."""
    step: int | None = None
    """The step of a checkpoint."""
    note: str = ""
    """What people should know of the weights, if anything."""

    @classmethod
    def of(cls, run: RunDirectory) -> BaseWeights:
        """What a run started from.

        Raises:
            ValueError: if that is not told in the run directory.
        """
        if not run.initial_weights.is_file():
            raise ValueError(f"{run.initial_weights} is missing: it names what the run starts from")
        told = read_json(run.initial_weights)
        path = Path(os.path.normpath(run.path / told["path"]))
        return cls(path, told["sha256"], told["origin"], told["step"], told["note"])

    def told_in(self, run: RunDirectory) -> dict[str, Any]:
        """A value for JSON; within a storage the path is relative, so that a storage may move."""
        near = self.path.is_relative_to(run.storage)
        path = os.path.relpath(self.path, run.path) if near else self.path
        return {
            "origin": self.origin,
            "path": str(path),
            "sha256": self.sha256,
            "step": self.step,
            "note": self.note,
        }

    def check(self) -> None:
        """Compare every byte with what was there when the base was chosen.

        Raises:
            ValueError: if it is gone or changed.
        """
        if not self.path.exists():
            raise ValueError(f"{self.path} is gone")
        if (found := fingerprint(self.path)) != self.sha256:
            raise ValueError(
                f"{self.path} has changed: its SHA-256 begins with {found[:12]}, not with"
                f" {self.sha256[:12]}"
            )
        if self.path.is_dir():
            try:
                checkpoints.verify(self.path)
            except checkpoints.CorruptCheckpointError as error:
                raise ValueError(str(error)) from error

    def state(self, prefixes: Mapping[str, str]) -> State:
        """The whole model's tensors, renamed, as ours: colours are in the order RGB.

        Raises:
            ValueError: if it holds no weights, or rests on a base that is gone or changed.
        """
        if self.path.is_dir():
            return renamed(whole_weights(self.path), prefixes)
        return from_released(renamed(read_weights(self.path), prefixes))


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, or of the manifest of a checkpoint, which holds those of its files.

    Raises:
        ValueError: if a folder is no checkpoint.
    """
    if not path.is_dir():
        return sha256_of(path)
    if not checkpoints.is_committed(path):
        raise ValueError(f"{path} is no committed checkpoint")
    return sha256_of(path / checkpoints.MANIFEST)


def check_base(run: RunDirectory) -> BaseWeights:
    """What a run started from, made sure of.

    Raises:
        ValueError: if it is gone or changed; the message says what to do.
    """
    base = BaseWeights.of(run)
    try:
        base.check()
    except ValueError as error:
        raise ValueError(
            f"{run.name} starts from {base.origin}, and {error}: put the very same files back where"
            " they were (checkpoint.keep_last and people delete checkpoints), or start a new run;"
            f" told in {run.initial_weights}"
        ) from error
    return base


def needs_base(job: JobConfig, checkpoint: Location | None) -> bool:
    """Whether a run that goes on from a checkpoint, or from none, reads its base."""
    return job.init_from is not None and (checkpoint is None or keeps_trained_only(job))


def initial_state(run: RunDirectory, job: JobConfig) -> State:
    """The tensors that a run took over from its base, by the names of its model.

    Raises:
        ValueError: if the base is gone or changed.
    """
    assert job.init_from is not None
    state = check_base(run).state(job.init_from.prefixes)
    with torch.device("meta"):
        model = Tap(job.model)
    return fit_weights(state, model, job.init_from.skip)[0]


def whole_weights(checkpoint: Path) -> State:
    """The model's tensors in a checkpoint, over those that its run left as they were in its base.

    Of a run that averages its weights they are the averages.

    Args:
        checkpoint: the folder of a checkpoint, in the directory of its run.

    Raises:
        ValueError: if the folder lies in no run, or a base that it rests on is gone or changed.
    """
    run = RunDirectory(checkpoint.parent.parent)
    job = job_of(run)
    own = load_model_weights(checkpoint, averaged=job.optimizer.ema_decay is not None)
    return initial_state(run, job) | own if keeps_trained_only(job) else own


def job_of(run: RunDirectory) -> JobConfig:
    """The job that a run carries out.

    Raises:
        ValueError: if the run directory does not tell it, or it does not validate.
    """
    if not run.config.is_file():
        raise ValueError(f"{run.path} is no run directory: {run.config.name} is missing")
    return validate_job(read_json(run.config), where=str(run.config))
