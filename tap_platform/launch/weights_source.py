"""A model from wherever its weights lie: a run, a released file, or a file that a run exported."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from datamodules.vocabulary import Vocabulary
from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TapCaptionConfig
from tap_platform.launch.data_sets import VOCABULARY_NAME, has_vocabulary, vocabulary_of
from tap_platform.launch.newest_checkpoint import newest_in_run
from tap_platform.launch.tokenizers import tokenizer_beside, tokenizer_of
from tap_platform.models import Tap, load_released_weights
from tap_platform.models.released import WEIGHT_SUFFIXES
from tap_platform.prediction.captions import CaptionToken
from tap_platform.runs import checkpoints
from tap_platform.runs.directory import RunDirectory
from tap_platform.training.base_weights import BaseWeights, job_of, whole_weights

CAPTION_TOKEN = "caption_token"
"""Key of an exported file's metadata."""


@dataclass(frozen=True)
class Loaded:
    """A model ready for inference, and what is known about it."""

    model: Tap
    """In evaluation mode, float32, on the CPU."""
    vocabulary: Vocabulary | None
    """The concepts that it was trained with, as far as they are still there."""
    preset: str | None
    """The preset whose sizes the model has; None for sizes of its own."""
    origin: str
    """Where the weights come from, for people."""
    temperature: float = 0.01
    """What cosines with concepts are divided by."""
    tokenizer: Path | None = None
    """The SentencePiece model of the text decoder's training, if it comes with the weights."""
    caption_token: CaptionToken = "semantic"
    """What prompted the text decoder in its training."""


@dataclass(frozen=True)
class RunWeights:
    """The newest committed checkpoint of a run, as a model."""

    run: RunDirectory
    job: JobConfig
    model: Tap
    step: int

    @property
    def origin(self) -> str:
        """Where the weights come from, for people."""
        averaged = ", averaged" if self.job.optimizer.ema_decay else ""
        return f"run {self.run.name}, step {self.step}{averaged}"

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The concepts of the run's data; None where the data has gone."""
        return vocabulary_of(self.job.data) if has_vocabulary(self.job.data) else None

    @property
    def base(self) -> BaseWeights | None:
        """What the run started from; None for random weights."""
        return BaseWeights.of(self.run) if self.job.init_from else None

    @property
    def caption_token(self) -> CaptionToken:
        """What prompts the text decoder."""
        recipe = self.job.recipe
        return recipe.caption.token if isinstance(recipe, TapCaptionConfig) else "semantic"


def load_weights(source: str | Path, storage: str = "runs") -> Loaded:
    """Load a model from a run or from a file.

    Args:
        source: a run's name or directory (its newest committed checkpoint is taken), or a file:
            a released `.pkl`, a `.safetensors` that `tap export` wrote, a torch state dict. The
            concepts and the tokenizer of a file are read from `vocabulary.safetensors` and
            `tokenizer.model` beside it, if they are there.
        storage: where to look for a run's name.

    Raises:
        ValueError: if there is neither such a run nor such a file, the run has no sound checkpoint,
            or the file does not hold the weights of a model.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _from_file(path)
    if path.suffix in WEIGHT_SUFFIXES:
        raise ValueError(f"there is no file {path}: give weights that exist, or the name of a run")
    found = load_run(source, storage)
    return Loaded(
        model=found.model,
        vocabulary=found.vocabulary,
        preset=found.job.model.preset_name,
        origin=found.origin,
        temperature=found.job.recipe.objective.temperature,
        tokenizer=tokenizer_of(found.run),
        caption_token=found.caption_token,
    )


def load_run(name: str | Path, storage: str = "runs") -> RunWeights:
    """Load the newest committed checkpoint of a run, whole.

    A run that trains a part of its model has the rest from its base. One that averages its weights
    (`optimizer.ema_decay`) gives the averages.

    Args:
        name: the run's name, or the path of its directory.
        storage: where to look for a name.

    Raises:
        ValueError: if there is no such run, it has no sound checkpoint, or its base is gone.
    """
    run = RunDirectory.find(storage, name)
    job = job_of(run)
    newest = newest_checkpoint(run)
    model = Tap(job.model)
    model.load_state_dict(whole_weights(newest))
    return RunWeights(run, job, model.eval(), checkpoints.step_of(newest))


def newest_checkpoint(run: RunDirectory) -> Path:
    """The newest sound checkpoint of a run; a warning tells of newer ones that are not.

    Raises:
        ValueError: if there is none.
    """
    newest = newest_in_run(
        job_of(run), run, lambda folder, why: logging.warning("%s: %s", folder, why)
    )
    if newest is None:
        raise ValueError(f"{run.path} has no committed checkpoint yet: train it further first")
    return newest


def _from_file(path: Path) -> Loaded:
    model = load_released_weights(path).eval()
    vocabulary = _vocabulary_beside(path, model.config.concept_dim)
    return Loaded(
        model=model,
        vocabulary=vocabulary,
        preset=model.config.preset_name,
        origin=f"file {path}",
        temperature=vocabulary.temperature if vocabulary else 0.01,
        tokenizer=tokenizer_beside(path),
        caption_token=_caption_token(path),
    )


def _caption_token(path: Path) -> CaptionToken:
    """What prompted the text decoder, which only an exported file can tell to be another."""
    if path.suffix != ".safetensors":
        return "semantic"
    with safe_open(path, "pt") as file:
        told = (file.metadata() or {}).get(CAPTION_TOKEN)
    return "mask" if told == "mask" else "semantic"


def _vocabulary_beside(path: Path, width: int) -> Vocabulary | None:
    """The vocabulary in the folder of a file, unless it belongs to another concept space."""
    beside = path.parent / VOCABULARY_NAME
    if not beside.is_file():
        return None
    vocabulary = Vocabulary.load(beside)
    return vocabulary if vocabulary.embeddings.shape[1] == width else None
