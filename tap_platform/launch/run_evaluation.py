"""`tap eval`: which suites run on what, and where their numbers go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from datamodules.storage import location
from datamodules.vocabulary import Vocabulary
from tap_platform.concepts import read_released_concepts
from tap_platform.config.load import validate_job
from tap_platform.config.sources import ImportedSource
from tap_platform.evaluation.confusion import COLUMNS, confusion_rows
from tap_platform.evaluation.suites.captions import CaptionSuite
from tap_platform.evaluation.suites.classification import (
    ClassificationSuite,
    ScoreRule,
    category_embeddings,
)
from tap_platform.evaluation.suites.ground_truth import (
    GroundTruth,
    read_boxes,
    read_ground_truth,
    truth_of_shards,
)
from tap_platform.evaluation.suites.instances import InstanceSuite
from tap_platform.evaluation.suites.prompts import PromptSuite
from tap_platform.evaluation.suites.report import Evaluation, report_tables, write_report
from tap_platform.evaluation.suites.suite import SUITE_NAMES, Suite, SuiteName
from tap_platform.evaluation.suites.view import check_width
from tap_platform.launch.data_sets import data_sets, held_out_index
from tap_platform.launch.evaluate import Workers, evaluate
from tap_platform.launch.tokenizers import SHIPPED, named_tokenizer
from tap_platform.launch.weights_source import Loaded, RunWeights, load_run, load_weights
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import read_json, write_atomic
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.tables import write_table
from tap_platform.runs.tracking import build_follower
from tap_platform.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class EvaluationSettings:
    """What the command line says."""

    source: str
    """A run, by name or folder, or a file of weights."""
    suites: Sequence[SuiteName]
    """One is wanted and must run; several, and those that the data do not allow are left out."""
    data: Path | None = None
    """See `read_ground_truth`; None for the held-out shards of the run."""
    boxes: Path | None = None
    """Boxes of a detector, for instances; None for the true ones."""
    concepts: Path | None = None
    """A vocabulary to classify with; None for the model's own."""
    tokenizer: str | None = None
    """The SentencePiece model of the text decoder's training, or `shipped`; None for the one that
    comes with the weights."""
    rule: ScoreRule = "own"
    images: int | None = None
    """Only the first so many images; None for all."""
    workers: int = 1
    device: str = "auto"


def run_evaluation(settings: EvaluationSettings, out: Path, console: Console) -> Evaluation:
    """Evaluate, print the tables, write the report to a folder and the numbers to the run.

    Raises:
        ValueError: if weights, data or boxes are missing or broken, or a suite cannot run.
    """
    loaded = load_weights(settings.source)
    run = None if Path(settings.source).is_file() else load_run(settings.source)
    truth = _ground_truth(settings, run)
    suites, skipped = _suites(settings, truth, loaded)
    for name, why in skipped.items():
        console.print(f"[yellow]{name} is left out:[/] {why}", highlight=False)
    workers = Workers(
        str(run.run.path if run else Path(settings.source).absolute()),
        settings.workers,
        settings.device,
    )
    results = evaluate(suites, truth, workers, console)
    warning = _seen_in_training(settings, run)
    evaluation = Evaluation(loaded.origin, truth.origin, results, skipped, warning)
    pictures = write_report(evaluation, truth, out)
    for table in report_tables(evaluation):
        console.print(table)
    if warning:
        console.print(f"[yellow]{warning}[/]", highlight=False)
    console.print(f"report, predictions and pictures: {out}", highlight=False)
    if run is not None:
        _log(run, evaluation, pictures, console)
    return evaluation


def _ground_truth(settings: EvaluationSettings, run: RunWeights | None) -> GroundTruth:
    if settings.data is not None:
        truth = read_ground_truth(settings.data, run.job.data.phrases if run else "own")
    elif run is not None:
        folders = ", ".join(str(each.folder / "val") for each in data_sets(run.job.data))
        truth = truth_of_shards(held_out_index(run.job.data), folders, run.job.data.phrases)
    else:
        raise ValueError(
            "there is nothing to evaluate on: a file of weights has no data of its own; give --data"
        )
    return truth.first_images(settings.images) if settings.images else truth


def _seen_in_training(settings: EvaluationSettings, run: RunWeights | None) -> str | None:
    """A warning if the run has learned from the data that it is measured on."""
    if settings.data is None or run is None:
        return None
    learnt_from = [each.folder / "train" for each in data_sets(run.job.data)]
    if isinstance(run.job.data, ImportedSource):
        learnt_from.append(location(run.job.data.path))
    local = [folder.resolve() for folder in learnt_from if isinstance(folder, Path)]
    if settings.data.resolve() not in local:
        return None
    return "the run has trained on a part of these images; leave out --data for held-out ones only"


def _suites(
    settings: EvaluationSettings, truth: GroundTruth, loaded: Loaded
) -> tuple[list[Suite], dict[str, str]]:
    """The suites that can run, and why others cannot.

    Raises:
        ValueError: if none can; the message is the first one's.
    """
    suites: list[Suite] = []
    skipped: dict[str, str] = {}
    for name in settings.suites:
        try:
            suite = _suite(name, settings, truth, loaded)
            suite.requests()
            suites.append(suite)
        except ValueError as error:
            if settings.boxes and name == "instances":
                raise
            skipped[name] = str(error)
    if not suites:
        raise ValueError(next(iter(skipped.values())))
    return suites, skipped


def _suite(
    name: SuiteName, settings: EvaluationSettings, truth: GroundTruth, loaded: Loaded
) -> Suite:
    if name == "instances":
        boxes = read_boxes(settings.boxes) if settings.boxes else None
        return InstanceSuite(truth.with_masks(), boxes)
    if name == "prompts":
        return PromptSuite(truth)
    if name == "classification":
        vocabulary = _vocabulary(settings, loaded)
        check_width(vocabulary, loaded.model)
        category_embeddings(truth, vocabulary)
        return ClassificationSuite(truth, vocabulary, loaded.temperature, settings.rule)
    return CaptionSuite(truth, _tokenizer(settings, loaded), loaded.caption_token)


def _vocabulary(settings: EvaluationSettings, loaded: Loaded) -> Vocabulary:
    if settings.concepts:
        pickled = settings.concepts.suffix == ".pkl"
        read = read_released_concepts if pickled else Vocabulary.load
        return read(settings.concepts)
    if loaded.vocabulary is None:
        raise ValueError(
            f"{loaded.origin} brings no concepts to classify with: give --concepts, a"
            " vocabulary.safetensors or a released concept file"
        )
    return loaded.vocabulary


def _tokenizer(settings: EvaluationSettings, loaded: Loaded) -> Path:
    path = named_tokenizer(settings.tokenizer) if settings.tokenizer else loaded.tokenizer
    if path is None:
        raise ValueError(
            "captions need the tokenizer of the text decoder's training, and none comes with"
            f" {loaded.origin}: give --tokenizer, a SentencePiece model or {SHIPPED!r}"
        )
    Tokenizer(path).check_fits(loaded.model.config)
    return path


def _log(
    run: RunWeights, evaluation: Evaluation, pictures: Sequence[Path], console: Console
) -> None:
    """Metrics, what they are of, and pictures to the run, and from there to its tracker."""
    writer = MetricsWriter(run.run.metrics, attempt=run.run.attempt)
    events = EventLog(run.run.events, attempt=run.run.attempt)
    for result in evaluation.results:
        values = {_plain(n): value for n, value in result.metrics.items() if value is not None}
        writer.write(run.step, values, kind=f"eval_{result.suite}")
        told = {"suite": result.suite, "protocol": result.protocol, "data": evaluation.data}
        events.record("evaluated", **told)
        if result.named:
            name = f"{result.suite}-confusion"
            write_table(run.run, name, run.step, COLUMNS, confusion_rows(result.named))
    for picture in pictures:
        target = run.run.pictures / f"eval-{picture.stem}-step-{run.step}.png"
        write_atomic(target, picture.read_bytes())
    _track(run.run, console)


def _plain(name: str) -> str:
    """A metric's name as trackers take it: `1 box (oracle)` is `1_box_oracle`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _track(run: RunDirectory, console: Console) -> None:
    """Send the run's tracker what is new; one that is down does not spoil an evaluation."""
    job = validate_job(read_json(run.config), where=str(run.config))
    follower = build_follower(run, job.tracking)
    if follower is None:
        return
    try:
        follower.sync()
        console.print(f"{job.tracking.tracker} has the numbers of {run.name}", highlight=False)
    except Exception as error:  # trackers fail in their own ways
        console.print(
            f"[yellow]{job.tracking.tracker} has not taken the numbers ({error}):[/]"
            f" `tap runs sync {run.name}` sends them later",
            highlight=False,
        )


def named_suites(name: str) -> Sequence[SuiteName]:
    """The suite of that name, or `all` of them."""
    return [each for each in SUITE_NAMES if name in (each, "all")]
