"""What a run has learned: held-out scores beside two baselines, captions, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from datamodules.decoding.decode import Frame
from datamodules.shards.index import SampleIndex
from datamodules.shards.records import BadSample
from datamodules.stream.batch import RegionBatch
from datamodules.stream.decoder import Decoder
from datamodules.stream.quarantine import Quarantine
from datamodules.stream.sample_stream import EvaluationStream
from datamodules.vocabulary import Vocabulary
from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TapPretrainConfig
from tap_platform.evaluation.answers import Answers
from tap_platform.evaluation.baselines import evaluate_baselines, measure_training_set
from tap_platform.evaluation.captions import (
    CaptionCollector,
    CaptionedAnswer,
    ScoredCaptions,
    answer_records,
    compare_answers,
)
from tap_platform.evaluation.confusion import COLUMNS, ConfusionCollector, confusion_rows
from tap_platform.evaluation.pictures import prediction_grid
from tap_platform.evaluation.regions import evaluate_regions
from tap_platform.evaluation.scores import RegionScores
from tap_platform.evaluation.table import caption_table, score_dict, score_markdown, score_table
from tap_platform.launch.data_sets import held_out_index, training_index, vocabulary_of
from tap_platform.launch.tokenizers import tokenizer_of
from tap_platform.launch.weights_source import RunWeights, load_run
from tap_platform.models import Tap
from tap_platform.prediction.captions import Speech
from tap_platform.recipes.mae import load_mae_weights
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import write_atomic, write_json, write_picture
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.quarantine import recorder
from tap_platform.runs.tables import write_table
from tap_platform.text.tokenizer import Tokenizer

IMAGES_PER_BATCH = 8
MEASURED_IMAGES = 1024
"""Training images that the trivial baseline learns its mean area and commonest words from."""


@dataclass(frozen=True)
class _Judged:
    """One model or baseline."""

    scores: RegionScores
    answers: Sequence[CaptionedAnswer]
    """What it says; nothing where it cannot speak, or nobody has described a region."""
    captions: ScoredCaptions | None = None
    named: Sequence[tuple[str, str]] = ()
    """The true name of each named region, and the likeliest one."""

    def with_captions(self, captions: ScoredCaptions) -> _Judged:
        """The same, its answers scored."""
        scores = replace(self.scores, **asdict(captions.means))
        return replace(self, scores=scores, captions=captions)


@dataclass(frozen=True)
class _Judge:
    """Puts the same questions about held-out regions to everyone."""

    held_out: EvaluationStream
    vocabulary: Vocabulary
    embeddings: Tensor
    speech: Speech | None
    device: str
    bar: Progress

    def judge(self, model: Tap, what: str) -> _Judged:
        """Score a model; its captions are taken in the same look at the images."""
        task = self.bar.add_task(f"evaluating the {what} model", total=self.held_out.images)
        model = model.to(self.device)
        names = self.vocabulary.names
        confuse = ConfusionCollector(names, self.embeddings)
        collect = CaptionCollector(model, self.speech, names) if self.speech else None

        def listen(batch: RegionBatch, answers: Answers) -> None:
            confuse(batch, answers)
            if collect:
                collect(batch, answers)

        def advance(images: int) -> None:
            self.bar.advance(task, images)

        scores = evaluate_regions(model, self.held_out, self.embeddings, advance, listen)
        return _Judged(scores, collect.answers if collect else (), named=confuse.pairs)

    def judge_baseline(
        self, learnt_from: EvaluationStream, asked: Sequence[CaptionedAnswer]
    ) -> _Judged:
        """Score the trivial answers; of the regions asked about it says the commonest phrase."""
        measured = measure_training_set(learnt_from)
        answers = [replace(each, caption=measured.commonest_phrase) for each in asked]
        return _Judged(evaluate_baselines(self.held_out, measured), answers)


def evaluate_run(job: JobConfig, run: RunDirectory, console: Console) -> dict[str, RegionScores]:
    """Score a run's newest checkpoint, print the table, and write report and picture.

    A run that learned captions is scored on them too; all are written, the first ten are printed.

    Returns:
        Scores of `trained`, `untrained` and `trivial baseline`.

    Raises:
        ValueError: if the run has no checkpoint.
    """
    vocabulary = vocabulary_of(job.data)
    embeddings = torch.from_numpy(vocabulary.embeddings)
    found = load_run(run.path)
    speech = _speech(found)
    events = EventLog(run.events, attempt=run.attempt)
    images = job.evaluation.final_images
    held_out = _stream(job, held_out_index(job.data), vocabulary, images, recorder(events, "val"))
    learnt_from = _stream(
        job, training_index(job.data), vocabulary, MEASURED_IMAGES, recorder(events, "train")
    )
    on_gpu = job.scale.device != "cpu" and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    with Progress(console=console, transient=True) as bar:
        judge = _Judge(held_out, vocabulary, embeddings, speech, device, bar)
        trained = judge.judge(found.model, "trained")
        judged = {
            "trained": trained,
            "untrained": judge.judge(_untrained_model(job), "untrained"),
            "trivial baseline": judge.judge_baseline(learnt_from, trained.answers),
        }
        if trained.scores.regions:
            bar.add_task("drawing the picture", total=None)
            temperature, pictures = job.recipe.objective.temperature, job.evaluation.pictures
            picture = prediction_grid(
                found.model, held_out, vocabulary.names, embeddings, temperature, pictures, speech
            )
            write_picture(run.pictures / f"held-out-step-{found.step}.png", picture)
        if trained.answers:
            bar.add_task("scoring the captions", total=None)
            captions = compare_answers([each.answers for each in judged.values()])
            judged = {
                who: each.with_captions(scored)
                for (who, each), scored in zip(judged.items(), captions, strict=True)
            }
    _report(run, found.step, judged, console)
    if vocabulary.kind == "category_names":
        console.print("concepts: embeddings of their names, not of a CLIP teacher")
    return {who: each.scores for who, each in judged.items()}


def _speech(found: RunWeights) -> Speech | None:
    """How a run speaks that has learned captions."""
    tokenizer = tokenizer_of(found.run)
    return Speech(Tokenizer(tokenizer), found.caption_token) if tokenizer else None


def _untrained_model(job: JobConfig) -> Tap:
    """The model with random weights, those that the same seed gives, and those of a MAE file."""
    torch.manual_seed(job.seed)
    model = Tap(job.model)
    if isinstance(job.recipe, TapPretrainConfig) and job.recipe.mae_weights:
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


def _report(run: RunDirectory, step: int, judged: Mapping[str, _Judged], console: Console) -> None:
    """Files in `report/`, the trained model's scores as metrics, and tables in the terminal."""
    scores = {who: each.scores for who, each in judged.items()}
    trained = judged["trained"]
    notes = trained.captions.notes if trained.captions else ()
    write_json(run.report / "scores.json", {"step": step, **score_dict(scores)})
    write_atomic(run.report / "scores.md", score_markdown(scores, notes).encode())
    known = {k: v for k, v in score_dict(scores)["trained"].items() if v is not None}
    MetricsWriter(run.metrics, attempt=run.attempt).write(step, known, kind="final")
    if trained.named:
        write_table(run, "held-out-confusion", step, COLUMNS, confusion_rows(trained.named))
    console.print(score_table(scores, title=f"{run.name}, step {step}", notes=notes))
    if trained.captions:
        records = answer_records(trained.answers, trained.captions)
        write_json(run.report / "captions.json", records)
        console.print(caption_table(trained.answers, trained.captions))
