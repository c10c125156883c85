"""The page of a run: what its directory tells, and what its model says about held-out regions."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from datamodules.decoding.decode import Frame
from datamodules.palette import PREDICTED, TRUE
from datamodules.stream.decoder import Decoder
from datamodules.stream.quarantine import Quarantine
from datamodules.stream.sample_stream import EvaluationStream
from tap_platform.evaluation.captions import CaptionedAnswer
from tap_platform.evaluation.examples import Example, collect_examples
from tap_platform.evaluation.pictures import fitted, with_mask, with_prompt
from tap_platform.launch.data_sets import held_out_index, vocabulary_of
from tap_platform.launch.tokenizers import tokenizer_of
from tap_platform.launch.weights_source import RunWeights, load_run
from tap_platform.prediction.captions import Speech
from tap_platform.report.cards import Card, CardPictures
from tap_platform.report.page import Gallery, render_page
from tap_platform.report.records import RunRecords
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import write_atomic
from tap_platform.text.tokenizer import Tokenizer

PAGE_NAME = "index.html"
IMAGES = 48
"""Held-out images on a page."""
SIDE = 320
"""Long side of a picture, in pixels: pages show it smaller, so that its lines are smooth."""
_QUALITY = 75
_IMAGES_PER_BATCH = 8
_Place = tuple[float | str | None, ...]


def write_page(run: RunDirectory, out: Path | None = None, images: int = IMAGES) -> Path:
    """Write the page of a run, whatever its state.

    A run without a checkpoint, or whose data has gone, has a page that says so in place of the
    pictures.

    Args:
        run: the run.
        out: file to write; by default `report/index.html` in the run directory.
        images: held-out images to show, a region of each; 0 for none.

    Returns:
        The file.

    Raises:
        ValueError: if the run's status is broken, or `out` is a folder.
        OSError: if the file cannot be written.
    """
    target = out or run.report / PAGE_NAME
    if target.is_dir():
        raise ValueError(f"{target} is a folder: name a file in it, such as {target / PAGE_NAME}")
    target.parent.mkdir(parents=True, exist_ok=True)
    records = RunRecords.read(run)
    page = render_page(records, _gallery(records, images))
    write_atomic(target, page.encode())
    return target


def _gallery(records: RunRecords, images: int) -> Gallery:
    if not images:
        return Gallery(reason="none were asked for")
    scored = {_place(each["box"], each["references"][0]): each for each in records.captions}
    try:
        found = load_run(records.run.path)
        cards = [_card(example, scored) for example in _examples(found, images)]
    except (ValueError, OSError, RuntimeError) as error:
        return Gallery(reason=str(error))
    return Gallery(cards, found.step, "" if cards else "no held-out image has a region with a mask")


def _examples(found: RunWeights, images: int) -> list[Example]:
    """The model's answers about one region of each of some held-out images."""
    job, vocabulary = found.job, vocabulary_of(found.job.data)
    quarantine = Quarantine(job.data.max_bad_fraction, job.data.bad_sample_grace, lambda _: None)
    decoder = Decoder(job.data, Frame.of(job.model), vocabulary.indexes, quarantine, training=False)
    index = held_out_index(job.data)
    stream = EvaluationStream(index, decoder, batch=_IMAGES_PER_BATCH, images=images)
    tokenizer = tokenizer_of(found.run)
    on_gpu = job.scale.device != "cpu" and torch.cuda.is_available()
    return collect_examples(
        found.model.to("cuda" if on_gpu else "cpu"),
        stream,
        vocabulary.names,
        torch.from_numpy(vocabulary.embeddings),
        job.recipe.objective.temperature,
        images,
        Speech(Tokenizer(tokenizer), found.caption_token) if tokenizer else None,
    )


def _card(example: Example, scored: Mapping[_Place, Mapping[str, Any]]) -> Card:
    """One region as the page shows it."""
    picture = fitted(example.picture, SIDE)
    scale = picture.width / example.picture.shape[1]
    pictures = CardPictures(
        prompt=_webp(with_prompt(picture, scale, example.box, example.point)),
        truth=_webp(with_mask(picture, example.true_mask, TRUE)),
        answer=_webp(with_mask(picture, example.predicted_mask, PREDICTED)),
    )
    return Card(
        pictures=pictures,
        prompt="box" if example.box else "one point",
        iou=example.iou,
        true_concept=example.true_concept,
        concept=example.predicted_concept,
        probability=example.probability,
        **_said(example, scored),
    )


def _said(example: Example, scored: Mapping[_Place, Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a card about words; none for a model that has not learned to speak.

    Captions were scored by box, maybe those of an earlier checkpoint: a score stands beside the
    very caption that it belongs to.
    """
    if example.words is None:
        return {}
    phrase, caption = example.words
    own = scored.get(_place(example.box, phrase), {}) if example.box else {}
    phrases = tuple(own.get("references", [phrase] if phrase else []))
    answer = CaptionedAnswer("", (), phrases, caption, example.true_concept)
    return {
        "phrases": phrases,
        "caption": caption,
        "names_concept": answer.names_concept if example.true_concept else None,
        "cider": 100 * own["cider"] if own.get("caption") == caption else None,
    }


def _place(box: Sequence[float], phrase: str | None) -> _Place:
    """What tells a described region from others."""
    return (*(round(side, 2) for side in box), phrase)


def _webp(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "webp", quality=_QUALITY)
    return encoded.getvalue()
