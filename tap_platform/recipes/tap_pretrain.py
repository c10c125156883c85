"""TAP pre-training: masks and concepts from two stages of prompts (TAP paper, section 3.3)."""

from __future__ import annotations

from torch import Tensor

from datamodules.stream.batch import RegionBatch
from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TapPretrainConfig
from tap_platform.objectives.pretraining import total
from tap_platform.recipes.mae import load_mae_weights
from tap_platform.recipes.region_recipe import RegionRecipe
from tap_platform.recipes.two_stages import prompt_twice, term_sums, term_values


class TapPretrain(RegionRecipe):
    """Image encoder, prompt encoder and image decoder learn; the text decoder rests."""

    def __init__(self, job: JobConfig, vocabulary: Tensor) -> None:
        """Build the model of a job, its image encoder from the masked autoencoder's weights if any.

        Args:
            job: the whole job.
            vocabulary: unit text embeddings of the concepts [V, concept_dim].
        """
        super().__init__(job, vocabulary)
        assert isinstance(job.recipe, TapPretrainConfig)
        if job.recipe.mae_weights:
            load_mae_weights(self.model.image_encoder, job.recipe.mae_weights)

    def training_step(self, batch: RegionBatch, batch_idx: int) -> Tensor:
        """The loss of a micro-batch, normalized over the regions of the whole global batch."""
        losses = [stage.losses for stage in prompt_twice(self, batch)]
        self.record(term_sums(losses, batch, self.objective), batch_idx)
        (share,) = self.shares(batch.step_regions)
        return total(losses, batch.weights, share, self.objective)

    def step_values(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms of both stages, each a mean over the step's regions."""
        return term_values(sums)
