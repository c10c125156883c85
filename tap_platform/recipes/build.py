"""From a job to the LightningModule that its recipe names."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TapPretrainConfig
from tap_platform.recipes.region_recipe import RegionRecipe
from tap_platform.recipes.tap_caption import TapCaption
from tap_platform.recipes.tap_pretrain import TapPretrain
from tap_platform.text.tokenizer import Tokenizer


def build_recipe(job: JobConfig, vocabulary: Tensor, tokenizer_path: Path | None) -> RegionRecipe:
    """Build what a job optimizes.

    Args:
        job: the whole job.
        vocabulary: unit text embeddings of the concepts [V, concept_dim].
        tokenizer_path: the run's SentencePiece model; None takes the shipped one. Pre-training
            reads none.

    Raises:
        ValueError: if MAE weights or the tokenizer cannot be read.
    """
    if isinstance(job.recipe, TapPretrainConfig):
        return TapPretrain(job, vocabulary)
    return TapCaption(job, vocabulary, Tokenizer(tokenizer_path))
