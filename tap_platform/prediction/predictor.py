"""Ask a model about one image: the habit of SAM's users, with a concept and a caption besides."""

from __future__ import annotations

from copy import copy
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.vocabulary import Vocabulary
from tap_platform.models import ConceptProjector, RegionOutput, Tap
from tap_platform.objectives.prompts import Prompts
from tap_platform.objectives.routing import route, select
from tap_platform.prediction.captions import CaptionToken, Speech
from tap_platform.prediction.frames import Frame, frame_image
from tap_platform.prediction.images import ImageLike, Pixels, read_image
from tap_platform.prediction.prompts import read_prompts
from tap_platform.prediction.regions import Answers, Prediction, measure_masks
from tap_platform.text.tokenizer import Tokenizer

PROMPTS_AT_ONCE = 64


class _Seen(NamedTuple):
    """An image, and what the model made of it."""

    image: Pixels
    frame: Frame
    embedding: Tensor
    """[1, C, S / patch, S / patch]."""


class TapPredictor:
    """Segments, names and describes regions of an image that is encoded once.

    `TapPredictor(model).set_image("dog.jpg").predict(boxes=[10, 20, 200, 300])`.
    """

    def __init__(
        self,
        model: Tap,
        concepts: Vocabulary | None = None,
        tokenizer: Tokenizer | None = None,
        temperature: float | None = None,
        caption_token: CaptionToken = "semantic",
    ) -> None:
        """Hold a model; it is put in evaluation mode.

        Args:
            model: on any device, of any floating dtype.
            concepts: the names to choose from; without them, regions stay unnamed.
            tokenizer: the one that the text decoder was trained with; without it, regions stay
                undescribed.
            temperature: what cosines with concepts are divided by; left out, what the concepts say.
            caption_token: what prompted the text decoder in its training.

        Raises:
            ValueError: if the concepts or the tokenizer do not fit the model.
        """
        self.model = model.eval()
        self.concepts = concepts
        self.speech = Speech(tokenizer, caption_token) if tokenizer else None
        self._seen: _Seen | None = None
        if concepts is not None:
            _check_concepts(concepts, model.config.concept_dim)
            embeddings = torch.from_numpy(concepts.embeddings).to(self.device)
            self._projector = ConceptProjector(embeddings, temperature or concepts.temperature)
        if tokenizer is not None:
            tokenizer.check_fits(model.config)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.pixel_mean.device

    @property
    def image(self) -> Pixels:
        """The image asked about, uint8 [H, W, 3], RGB.

        Raises:
            ValueError: if there is none yet.
        """
        return self._sight.image

    @property
    def frame(self) -> Frame:
        """The image as the model sees it.

        Raises:
            ValueError: if there is none yet.
        """
        return self._sight.frame

    @property
    def _sight(self) -> _Seen:
        if self._seen is None:
            raise ValueError("no image to ask about: call set_image first")
        return self._seen

    def copy(self) -> TapPredictor:
        """Another predictor that shares model, concepts and tokenizer, for another image."""
        return copy(self)

    @torch.inference_mode()
    def set_image(self, image: ImageLike, channels: Literal["RGB", "BGR"] = "RGB") -> Self:
        """Encode an image; what is asked next is about it.

        Args:
            image: a file, a Pillow image, or an array as `read_image` describes it.
            channels: the order of an array's colours.

        Returns:
            The predictor itself.

        Raises:
            ValueError: if it is no image, or is broken.
        """
        pixels = read_image(image, channels)
        frame = frame_image(pixels, self.model.config.image_size)
        normalized = self.model.normalize(frame.pixels[None].to(self.device))
        self._seen = _Seen(pixels, frame, self.model.encode(normalized))
        return self

    def predict(
        self,
        points: Any = None,
        labels: Any = None,
        boxes: Any = None,
        captions: bool = True,
        multimask: bool = False,
    ) -> Prediction:
        """Answer M prompts: clicks, boxes, or a box and clicks each.

        A box is answered by the mask made for boxes, clicks by the best scored of the three made
        for points.

        Args:
            points: (x, y) in pixels of the image, [N, 2] for one prompt or [M, N, 2].
            labels: 1 foreground, 0 background, 4 for a point to ignore, [N] or [M, N]; left out,
                all are foreground.
            boxes: left, top, right and bottom in pixels of the image, [4] or [M, 4].
            captions: whether to describe regions, if there is a tokenizer.
            multimask: whether to give all three masks made for points, best guess unknown.

        Returns:
            M regions; M times 3 with `multimask`.

        Raises:
            ValueError: if there is no image or no prompt, or a prompt is malformed.
        """
        return self.answer(read_prompts(points, labels, boxes), captions, multimask)

    def answer(
        self, prompts: Prompts, captions: bool = True, multimask: bool = False
    ) -> Prediction:
        """Answer prompts that `read_prompts` laid out; see `predict`."""
        answers = self.ask(prompts, multimask)
        found = self.complete(answers, captions)
        return _in_threes(found) if multimask else found

    @torch.inference_mode()
    def ask(self, prompts: Prompts, multimask: bool) -> Answers:
        """The raw answers to prompts in pixels of the image: one each, or three in a row each.

        Raises:
            ValueError: if there is no image yet.
        """
        chunks = zip(*(part.split(PROMPTS_AT_ONCE) for part in prompts), strict=True)
        return Answers.joined([self._ask(Prompts(*chunk), multimask) for chunk in chunks])

    def complete(self, answers: Answers, captions: bool) -> Prediction:
        """Draw, name and describe K regions."""
        masks = torch.empty(len(answers.iou), *self.frame.image_size, dtype=torch.bool)
        measures = measure_masks(self.frame, answers.logits, masks)
        names, scores = self._named(answers.concept_embeddings)
        return Prediction(
            masks=masks.numpy(),
            iou=answers.iou.cpu().numpy(),
            stability=measures.stability.numpy(),
            boxes=measures.boxes.numpy(),
            low_res_logits=answers.logits.cpu().numpy(),
            concepts=names,
            concept_scores=scores,
            captions=self._described(answers.caption_tokens) if captions else None,
        )

    def _ask(self, prompts: Prompts, multimask: bool) -> Answers:
        points = (prompts.points * self.frame.scale).to(self.device)
        labels = prompts.labels.to(self.device)
        image_index = torch.zeros(len(points), dtype=torch.int64, device=self.device)
        output: RegionOutput = self.model.decode(self._sight.embedding, points, labels, image_index)
        spoken = self.speech.tokens_of(output) if self.speech else output.semantic_tokens
        chosen = Answers(output.masks.float(), output.iou, spoken, output.concept_embeddings)
        if multimask:
            return Answers(*(values[:, 1:].flatten(0, 1) for values in chosen))
        index = route(prompts.is_box.to(self.device), output.iou)
        return Answers(*(select(values, index) for values in chosen))

    @torch.inference_mode()
    def _named(
        self, embeddings: Tensor
    ) -> tuple[NDArray[np.str_] | None, NDArray[np.float32] | None]:
        if self.concepts is None:
            return None, None
        scores, places = self._projector.top_k(embeddings, 1)
        names = [self.concepts.names[place] for place in places[:, 0].tolist()]
        return np.array(names, np.str_), scores[:, 0].cpu().numpy()

    @torch.inference_mode()
    def _described(self, tokens: Tensor) -> NDArray[np.str_] | None:
        if self.speech is None:
            return None
        return np.array(self.speech.describe(self.model, tokens), np.str_)


def _in_threes(found: Prediction) -> Prediction:
    """The prediction with [3 M] turned to [M, 3]."""
    fields: dict[str, Any] = {name: _split(values) for name, values in vars(found).items()}
    return Prediction(**fields)


def _split(values: NDArray[Any] | None) -> NDArray[Any] | None:
    return None if values is None else values.reshape(-1, 3, *values.shape[1:])


def _check_concepts(concepts: Vocabulary, width: int) -> None:
    found = concepts.embeddings.shape[1]
    if found != width:
        raise ValueError(
            f"the concepts have embeddings of width {found}, the model's concept space {width}:"
            " give concepts made for this model"
        )
