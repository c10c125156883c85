"""TAP fine-tuning: regions learn to be described (TAP paper, sections 3.4 and 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.stream.batch import RegionBatch
from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TapCaptionConfig
from tap_platform.evaluation.answers import Answers
from tap_platform.models import RegionOutput
from tap_platform.objectives.captions import caption_loss, draw_phrases
from tap_platform.objectives.draws import region_seeds
from tap_platform.objectives.pretraining import total, weighted_mean
from tap_platform.objectives.prompts import box_prompts, inner_prompts
from tap_platform.objectives.routing import route, select
from tap_platform.recipes.region_recipe import RegionRecipe
from tap_platform.recipes.two_stages import prompt_twice, term_sums, term_values
from tap_platform.text.tokenizer import Tokenizer


class Captions(NamedTuple):
    """What N of a batch's regions are to be described by.

    A batch without any caption holds an empty one of weight 0 for its first region, so that the
    text decoder runs on every worker.
    """

    rows: Tensor
    """int64 [N], ascending: which regions."""
    tokens: Tensor
    """int64 [N, T + 1]: begin, pieces, end, then pads up to the longest."""
    weights: Tensor
    """float32 [N]."""


class TapCaption(RegionRecipe):
    """The text decoder learns, alone or together with all other parts.

    Alone, it reads tokens of parts that rest: an image is embedded once for all its regions,
    without gradients, and regions that nobody describes are not looked at. Together, captions are
    read off the answers to the first prompts of pre-training's two stages, so that their loss
    reaches all parts.
    """

    def __init__(self, job: JobConfig, vocabulary: Tensor, tokenizer: Tokenizer) -> None:
        """Build the model of a job; its initial weights are not loaded here.

        Args:
            job: the whole job.
            vocabulary: unit text embeddings of the concepts [V, concept_dim].
            tokenizer: has as many pieces as the model.
        """
        super().__init__(job, vocabulary)
        assert isinstance(job.recipe, TapCaptionConfig)
        self.caption = job.recipe.caption
        self.trains_all = job.recipe.train == "all"
        self.tokenizer = tokenizer

    def training_step(self, batch: RegionBatch, batch_idx: int) -> Tensor:
        """The loss of a micro-batch.

        Captions are normalized over the regions with a phrase in the whole global batch, masks and
        concepts over all its regions.
        """
        step = self._train_all if self.trains_all else self._train_text_decoder
        return step(batch, batch_idx)

    def step_values(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean caption loss, the number of captions, and the other terms that are trained."""
        caption = sums["caption"] / sums["phrased"].clamp(min=1)
        captions = {"caption": caption, "phrased": sums["phrased"]}
        if not self.trains_all:
            return {"loss": caption, **captions}
        values = term_values(sums)
        return {**values, "loss": values["loss"] + self.caption.weight * caption, **captions}

    def held_out_sums(self, batch: RegionBatch, answers: Answers) -> Tensor:
        """Beside the sums of all recipes, the loss of each region's first phrase, by its box."""
        captions = self._captions([each[0] if each else "" for each in batch.phrases])
        losses = self._losses(self._tokens(answers.by_box)[captions.rows, 0], captions)
        own = torch.stack([(losses * captions.weights).sum(), captions.weights.sum()])
        return torch.cat([super().held_out_sums(batch, answers), own])

    def held_out_values(self, sums: Tensor) -> dict[str, float | None]:
        """The scores of all recipes, and the mean caption loss."""
        scores, (loss, count) = sums[:-2], sums[-2:].tolist()
        return {**super().held_out_values(scores), "caption_loss": loss / count if count else None}

    def _train_text_decoder(self, batch: RegionBatch, batch_idx: int) -> Tensor:
        captions = self._drawn_captions(batch)
        losses = self._losses(self._resting_tokens(batch, captions.rows), captions)
        self.record(_caption_sums(losses, captions), batch_idx)
        (share,) = self.shares(batch.step_phrased)
        return weighted_mean(losses, captions.weights, share)

    def _train_all(self, batch: RegionBatch, batch_idx: int) -> Tensor:
        stages = prompt_twice(self, batch)
        stage_losses = [stage.losses for stage in stages]
        captions = self._drawn_captions(batch)
        tokens = select(self._tokens(stages[0].answers), stage_losses[0].routed)
        losses = self._losses(tokens.index_select(0, captions.rows), captions)
        terms = term_sums(stage_losses, batch, self.objective)
        self.record({**terms, **_caption_sums(losses, captions)}, batch_idx)
        regions, phrased = self.shares(batch.step_regions, batch.step_phrased)
        seen = total(stage_losses, batch.weights, regions, self.objective)
        return seen + self.caption.weight * weighted_mean(losses, captions.weights, phrased)

    @torch.no_grad()
    def _resting_tokens(self, batch: RegionBatch, rows: Tensor) -> Tensor:
        """The tokens [N, C] of some regions, from parts that are not trained."""
        images = self.encode(batch)
        boxes, image_index = batch.boxes[rows], batch.image_index[rows]
        prompts = box_prompts(boxes)
        answers = self.decode(images, prompts, image_index)
        if self.caption.prompt == "predicted_mask_points":
            seeds = region_seeds(batch.seeds, batch.image_index)[rows]
            config, frame = self.objective.prompts, self.job.model.image_size
            prompts = inner_prompts(answers.masks[:, 0] > 0, boxes, seeds, config, frame)
            answers = self.decode(images, prompts, image_index)
        return select(self._tokens(answers), route(prompts.is_box, answers.iou))

    def _tokens(self, answers: RegionOutput) -> Tensor:
        """What prompts the text decoder, four candidates a region: [M, 4, C]."""
        return answers.semantic_tokens if self.caption.token == "semantic" else answers.mask_tokens

    def _drawn_captions(self, batch: RegionBatch) -> Captions:
        """One phrase of each region that has any."""
        seeds = region_seeds(batch.seeds, batch.image_index)
        return self._captions(draw_phrases(batch.phrases, seeds))

    def _captions(self, phrases: Sequence[str]) -> Captions:
        """Word pieces of each region's phrase, where it has one that says anything."""
        if self.caption.lower_case:
            phrases = [phrase.lower() for phrase in phrases]
        length = self.job.model.text_length - 1
        tokens, usable = self.tokenizer.encode_captions(phrases, length)
        rows = usable.nonzero()[0] if usable.any() else [0]
        return Captions(
            rows=torch.as_tensor(rows, device=self.device),
            tokens=torch.from_numpy(tokens[rows]).to(self.device),
            weights=torch.from_numpy(usable[rows]).to(self.device, torch.float32),
        )

    def _losses(self, tokens: Tensor, captions: Captions) -> Tensor:
        """The loss of each caption, float32 [N], from what prompts it, [N, C].

        Labels are smoothed in training only, so that held-out losses of all settings compare.
        """
        logits = self.model.text_logits(tokens, captions.tokens[:, :-1])
        smoothing = self.caption.label_smoothing if self.training else 0.0
        return caption_loss(logits, captions.tokens, self.tokenizer.pad_id, smoothing)


def _caption_sums(losses: Tensor, captions: Captions) -> dict[str, Tensor]:
    weights = captions.weights
    return {"caption": (losses * weights).sum(), "phrased": weights.sum()}
