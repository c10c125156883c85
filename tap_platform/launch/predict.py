"""Predict on files: weights and images in, run-length encodings and pictures out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from datamodules.vocabulary import Vocabulary
from tap_platform.concepts import read_released_concepts
from tap_platform.launch.tokenizers import named_tokenizer
from tap_platform.launch.weights_source import load_weights
from tap_platform.objectives.prompts import Prompts
from tap_platform.prediction import (
    EverythingSettings,
    Prediction,
    TapPredictor,
    segment_everything,
)
from tap_platform.prediction.drawing import draw_prediction
from tap_platform.prediction.images import find_images
from tap_platform.prediction.prompts import read_prompts
from tap_platform.prediction.records import encode_prediction
from tap_platform.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Question:
    """What to ask about every image: some prompts, or everything."""

    boxes: list[list[float]] | None = None
    points: list[list[float]] | None = None
    labels: list[int] | None = None
    everything: EverythingSettings | None = None

    @classmethod
    def read(
        cls,
        boxes: Sequence[str],
        points: Sequence[str],
        everything: EverythingSettings | None = None,
    ) -> Question:
        """Read prompts as they are typed: every box is a region, all points together are one.

        Args:
            boxes: "left,top,right,bottom" in pixels of the image, each.
            points: "x,y" or "x,y,label" each; the label is 1 (foreground, also if left out) or 0.
            everything: how to ask about a grid of points instead.

        Raises:
            ValueError: if nothing is asked, or prompts and everything at once, or a prompt is not
                of numbers.
        """
        if not (boxes or points or everything):
            raise ValueError("no prompt: give --box, --point or --grid")
        if everything and (boxes or points):
            raise ValueError("--grid asks about everything: leave out --box and --point")
        places = [_numbers("--point", text, (2, 3), "x,y,label") for text in points]
        question = cls(
            boxes=[_numbers("--box", text, (4,), "left,top,right,bottom") for text in boxes]
            or None,
            points=[place[:2] for place in places] or None,
            labels=[int(place[2]) if len(place) == 3 else 1 for place in places] or None,
            everything=everything,
        )
        if not everything:
            read_prompts(question.points, question.labels, question.boxes)
        return question

    def ask(self, predictor: TapPredictor) -> tuple[Prediction, Prompts | None]:
        """Ask about the predictor's image; the regions, and the prompts that they answer."""
        if self.everything:
            return segment_everything(predictor, self.everything), None
        prompts = read_prompts(self.points, self.labels, self.boxes)
        return predictor.answer(prompts), prompts


def open_predictor(
    weights: str, concepts: Path | None, tokenizer: str | None, console: Console
) -> TapPredictor:
    """Load a model with its concepts and its tokenizer, on the GPU if there is one.

    Args:
        weights: a run, or a file of weights.
        concepts: a vocabulary (`.safetensors`) or a released concept file (`.pkl`); left out, the
            concepts of the weights are taken.
        tokenizer: a SentencePiece model, or "shipped"; left out, the one that comes with the
            weights is taken. Without one there are no captions, as only the tokenizer of the text
            decoder's training makes words of its answers.
        console: where to tell what is used.

    Raises:
        ValueError: if something is missing, broken, or does not fit the model.
    """
    loaded = load_weights(weights)
    vocabulary = loaded.vocabulary if concepts is None else _read_concepts(concepts)
    temperature = loaded.temperature if concepts is None else None
    pieces = loaded.tokenizer if tokenizer is None else named_tokenizer(tokenizer)
    words = Tokenizer(pieces) if pieces else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = loaded.model.to(device)
    predictor = TapPredictor(model, vocabulary, words, temperature, loaded.caption_token)
    named = f"{len(vocabulary.names)} concepts" if vocabulary else "no concepts (--concepts FILE)"
    described = f"captions by {words.path.name}" if words else "no captions (--tokenizer FILE)"
    told = f"{loaded.origin}: {named}, {described}, on {device}"
    console.print(told, highlight=False, soft_wrap=True)
    if words and not words.is_released and Path(weights).suffix == ".pkl":
        console.print("captions may be noise: released models speak LLaMA's tokenizer.model")
    return predictor


def _read_concepts(path: Path) -> Vocabulary:
    return read_released_concepts(path) if path.suffix == ".pkl" else Vocabulary.load(path)


def predict_files(
    predictor: TapPredictor,
    places: Iterable[Path],
    question: Question,
    out: Path,
    console: Console,
) -> None:
    """Ask about every image; write NAME.json and NAME.png of each to a folder.

    An image that cannot be read does not stop the others.

    Args:
        predictor: what to ask.
        places: image files, and folders of them.
        question: what to ask about each.
        out: the folder, made if it is not there.
        console: where the progress bar is shown.

    Raises:
        ValueError: at the end, if images could not be read; the message names them.
    """
    files = find_images(places)
    out.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    regions = 0
    jobs = list(zip(files, _output_names(files), strict=True))
    for file, name in track(
        jobs, "predicting", console=console, transient=True, disable=not console.is_terminal
    ):
        try:
            predictor.set_image(file)
        except ValueError as error:
            failures.append(str(error))
            continue
        found, prompts = question.ask(predictor)
        regions += len(found)
        (out / f"{name}.json").write_bytes(encode_prediction(file.name, found, prompts))
        draw_prediction(predictor.image, found, prompts).save(out / f"{name}.png")
    done = len(files) - len(failures)
    told = f"{done} of {len(files)} images, {regions} regions: {out}"
    console.print(told, highlight=False, soft_wrap=True)
    if question.everything and not regions:
        console.print("no mask passed the filters: lower --min-iou or --min-stability")
    if failures:
        raise ValueError("\n  ".join([f"{len(failures)} of {len(files)} images:", *failures]))


def _output_names(files: Sequence[Path]) -> Iterator[str]:
    """A name for each file's outputs: its own, numbered where several have the same."""
    counts: Counter[str] = Counter()
    for file in files:
        counts[file.stem] += 1
        number = counts[file.stem]
        yield file.stem if number == 1 else f"{file.stem}-{number}"


def _numbers(flag: str, text: str, counts: tuple[int, ...], shape: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts:
        raise ValueError(f"{flag} {text}: expected {shape} in numbers")
    return values
