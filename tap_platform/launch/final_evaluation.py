"""What a run has learned: held-out scores beside two baselines, and a picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console
from rich.progress import Progress

from datamodules.decoding.decode import Frame
from datamodules.shards.index import SampleIndex
from datamodules.shards.records import BadSample
from datamodules.stream.decoder import Decoder
from datamodules.stream.quarantine import Quarantine
from datamodules.stream.sample_stream import EvaluationStream
from datamodules.vocabulary import Vocabulary
from tap_platform.config.job import JobConfig
from tap_platform.evaluation.baselines import evaluate_baselines, measure_training_set
from tap_platform.evaluation.pictures import prediction_grid
from tap_platform.evaluation.regions import evaluate_regions
from tap_platform.evaluation.scores import RegionScores
from tap_platform.evaluation.table import score_dict, score_markdown, score_table
from tap_platform.launch.data_sets import held_out_index, training_index, vocabulary_of
from tap_platform.launch.weights_source import load_run
from tap_platform.models import Tap
from tap_platform.recipes.mae import load_mae_weights
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import write_atomic, write_json, write_picture
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.quarantine import recorder

IMAGES_PER_BATCH = 8
MEASURED_IMAGES = 1024
"""Training images that the trivial baseline learns its mean area and commonest concept from."""


def evaluate_run(job: JobConfig, run: RunDirectory, console: Console) -> dict[str, RegionScores]:
    """Score a run's newest checkpoint, print the table, and write report and picture.

    Returns:
        Scores of `trained`, `untrained` and `trivial baseline`.

    Raises:
        ValueError: if the run has no checkpoint.
    """
    vocabulary = vocabulary_of(job.data)
    embeddings = torch.from_numpy(vocabulary.embeddings)
    found = load_run(run.path)
    trained, step = found.model, found.step
    events = EventLog(run.events, attempt=run.attempt)
    images = job.evaluation.final_images
    held_out = _stream(job, held_out_index(job.data), vocabulary, images, recorder(events, "val"))
    learnt_from = _stream(
        job, training_index(job.data), vocabulary, MEASURED_IMAGES, recorder(events, "train")
    )
    with Progress(console=console, transient=True) as bar:

        def score(model: Tap, what: str) -> RegionScores:
            task = bar.add_task(what, total=held_out.images)
            on_gpu = job.scale.device != "cpu" and torch.cuda.is_available()
            device = "cuda" if on_gpu else "cpu"
            return evaluate_regions(
                model.to(device), held_out, embeddings, lambda images: bar.advance(task, images)
            )

        scores = {
            "trained": score(trained, "evaluating the trained model"),
            "untrained": score(_untrained_model(job), "evaluating the untrained model"),
            "trivial baseline": evaluate_baselines(held_out, measure_training_set(learnt_from)),
        }
        if scores["trained"].regions:
            bar.add_task("drawing the picture", total=None)
            temperature, pictures = job.recipe.objective.temperature, job.evaluation.pictures
            picture = prediction_grid(
                trained, held_out, vocabulary.names, embeddings, temperature, pictures
            )
            write_picture(run.pictures / f"held-out-step-{step}.png", picture)
    _write(run, scores, step)
    console.print(score_table(scores, title=f"{run.name}, step {step}"))
    if vocabulary.kind == "category_names":
        console.print("concepts: embeddings of their names, not of a CLIP teacher")
    return scores


def _untrained_model(job: JobConfig) -> Tap:
    """The model as the run began: the same seed and MAE file give the same weights."""
    torch.manual_seed(job.seed)
    model = Tap(job.model)
    if job.recipe.mae_weights:
        load_mae_weights(model.image_encoder, job.recipe.mae_weights)
    return model


def _stream(
    job: JobConfig,
    index: SampleIndex,
    vocabulary: Vocabulary,
    images: int | None,
    on_bad: Callable[[BadSample], None],
) -> EvaluationStream:
    quarantine = Quarantine(job.data.max_bad_fraction, job.data.bad_sample_grace, on_bad)
    decoder = Decoder(job.data, Frame.of(job.model), vocabulary.indexes, quarantine, training=False)
    return EvaluationStream(index, decoder, batch=IMAGES_PER_BATCH, images=images)


def _write(run: RunDirectory, scores: dict[str, RegionScores], step: int) -> None:
    """`report/scores.json`, the same as Markdown, and the trained model's scores as metrics."""
    write_json(run.report / "scores.json", {"step": step, **score_dict(scores)})
    write_atomic(run.report / "scores.md", score_markdown(scores).encode())
    trained = {k: v for k, v in score_dict(scores)["trained"].items() if v is not None}
    MetricsWriter(run.metrics, attempt=run.attempt).write(step, trained, kind="final")
