"""Whether every stage of a pipeline can run, asked before the first one does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from tap_platform.config.pipeline import EvaluationStage, JobStage, PipelineConfig
from tap_platform.config.recipe import TapCaptionConfig
from tap_platform.launch.prepare import check_data, prepare_data
from tap_platform.runs.directory import RunDirectory


def check_pipeline(pipeline: PipelineConfig) -> None:
    """Make the data of all stages ready, and refuse what would stop a later stage.

    Weights of earlier stages are not there yet: the sizes of the models are compared when a
    pipeline is read.

    Raises:
        ValueError: if data, initial weights from elsewhere, a tokenizer, or what is to be evaluated
            is missing, broken or does not fit; the message names the stage.
    """
    quiet = Console(quiet=True)
    for stage in pipeline.job_stages:
        with _naming(stage):
            prepare_data(stage.job.data, stage.job.model.concept_dim)
            check_data(stage.job, quiet)
            if pipeline.source_of(stage) is None and stage.job.init_from is not None:
                from tap_platform.launch.initial_weights import check_initial_weights

                check_initial_weights(stage.job, quiet)
    with tempfile.TemporaryDirectory() as folder:
        _check_tokenizers(pipeline, Path(folder))
    for each in pipeline.stages:
        if isinstance(each, EvaluationStage) and each.evaluate.data is not None:
            from tap_platform.evaluation.suites.ground_truth import read_ground_truth

            with _naming(each):
                read_ground_truth(Path(each.evaluate.data))


@contextmanager
def _naming(stage: JobStage | EvaluationStage) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"stage {stage.name}: {error}") from error


def _check_tokenizers(pipeline: PipelineConfig, folder: Path) -> None:
    """Make the tokenizer of every stage that learns captions, as its run will have it."""
    made: dict[str, Path] = {}
    for stage in pipeline.job_stages:
        recipe, source = stage.job.recipe, pipeline.source_of(stage)
        if not isinstance(recipe, TapCaptionConfig):
            continue
        from tap_platform.launch.tokenizers import prepare_tokenizer

        trial = RunDirectory(folder / stage.name)
        trial.path.mkdir()
        inherited = made.get(source.name) if source else None
        named = recipe.tokenizer or (str(inherited) if inherited else None)
        changes = {"recipe": recipe.model_copy(update={"tokenizer": named})}
        start = {"init_from": None} if source else {}
        with _naming(stage):
            prepare_tokenizer(stage.job.model_copy(update={**changes, **start}), trial)
        made[stage.name] = trial.tokenizer
