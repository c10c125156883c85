"""The tokenizer of a run: chosen and copied when the run begins, found again when it speaks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rich.console import Console

from datamodules.phrases import training_phrases
from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TapCaptionConfig
from tap_platform.launch.data_sets import training_index
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import write_atomic
from tap_platform.text.tokenizer import Tokenizer, shipped_model
from tap_platform.text.training import train_tokenizer

SHIPPED, TRAINED = "shipped", "trained"
"""What a job may name in place of a file."""
TOKENIZER_NAME = "tokenizer.model"
RELEASED_PIECES = 32000
LOOKED_AT = 1000
"""Phrases that tell whether a tokenizer knows their language."""
_WORDS = "text_decoder.transformer.tok_embeddings."


def prepare_tokenizer(job: JobConfig, run: RunDirectory) -> None:
    """Put the tokenizer of a run that learns captions in its directory.

    The job names it, or its initial weights bring it, or it is the shipped one. A warning is
    printed if the initial weights were trained with another one.

    Raises:
        ValueError: if it is missing or broken, does not fit the model, or cannot be made from the
            phrases of the training data, or knows no piece of those.
    """
    assert isinstance(job.recipe, TapCaptionConfig)
    if job.recipe.tokenizer == TRAINED:
        train_tokenizer(_phrases(job), job.model.vocab_size, run.tokenizer)
    else:
        chosen = _chosen(job, job.recipe.tokenizer)
        _check(chosen, job)
        _check_spells(chosen, job)
        write_atomic(run.tokenizer, chosen.read_bytes())
    if _speaks_another_language(job, run):
        Console().print(
            "[yellow]captions start from noise:[/] the text decoder of"
            f" {job.init_from and job.init_from.source} was trained with another tokenizer"
            " (released weights with LLaMA's tokenizer.model); name it in recipe.tokenizer, or"
            " start the text decoder anew with init_from.skip=[text_decoder.]",
            highlight=False,
            soft_wrap=True,
        )


def tokenizer_of(run: RunDirectory) -> Path | None:
    """The tokenizer that a run was trained with; None for a run that learns no captions."""
    return run.tokenizer if run.tokenizer.is_file() else None


def tokenizer_beside(weights: Path) -> Path | None:
    """The `tokenizer.model` in the folder of a file of weights, as `tap export` leaves it."""
    beside = weights.parent / TOKENIZER_NAME
    return beside if beside.is_file() else None


def named_tokenizer(name: str) -> Path:
    """What people name: a SentencePiece model by its path, or `shipped`."""
    return shipped_model() if name == SHIPPED else Path(name).expanduser()


def _chosen(job: JobConfig, named: str | None) -> Path:
    return named_tokenizer(named) if named is not None else _inherited(job) or shipped_model()


def _inherited(job: JobConfig) -> Path | None:
    """The tokenizer that comes with the initial weights."""
    if job.init_from is None:
        return None
    path = Path(job.init_from.source).expanduser()
    if path.is_file():
        return tokenizer_beside(path)
    if path.parent.name == "checkpoints":
        return tokenizer_of(RunDirectory(path.parent.parent))
    return tokenizer_of(RunDirectory.find(job.storage, job.init_from.source))


def _check(tokenizer: Path, job: JobConfig) -> None:
    try:
        Tokenizer(tokenizer).check_fits(job.model)
    except ValueError as error:
        raise ValueError(
            f"recipe.tokenizer: {error}; `trained` makes one of model.vocab_size pieces from the"
            " phrases of the training data"
        ) from error


def _phrases(job: JobConfig) -> Iterator[str]:
    """The phrases of the training data, as they are learned."""
    assert isinstance(job.recipe, TapCaptionConfig)
    phrases = training_phrases(training_index(job.data), job.data)
    return map(str.lower, phrases) if job.recipe.caption.lower_case else phrases


def _check_spells(tokenizer: Path, job: JobConfig) -> None:
    """Refuse pieces that none of the first phrases is made of: no caption would be learned."""
    phrases = list(islice(_phrases(job), LOOKED_AT))
    _, usable = Tokenizer(tokenizer).encode_captions(phrases, job.model.text_length - 1)
    if phrases and not usable.any():
        raise ValueError(
            f"recipe.tokenizer: {tokenizer.name} has no piece of the first {len(phrases)} phrases"
            f" of the training data ({phrases[0][:40]!r}, ...): take one of their language;"
            " `trained` makes one from them"
        )


def _speaks_another_language(job: JobConfig, run: RunDirectory) -> bool:
    """Whether the text decoder is taken over, and was trained with other pieces."""
    if job.init_from is None or any(_WORDS.startswith(each) for each in job.init_from.skip):
        return False
    own = _inherited(job)
    if own is not None:
        return own.read_bytes() != run.tokenizer.read_bytes()
    is_file = Path(job.init_from.source).expanduser().is_file()
    return is_file and job.model.vocab_size == RELEASED_PIECES and not _is_released(run)


def _is_released(run: RunDirectory) -> bool:
    return Tokenizer(run.tokenizer).is_released
