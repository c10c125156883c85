"""Which LightningModule optimizes what."""

from __future__ import annotations

from typing import ClassVar, Literal

from tap_platform.config.base import Section
from tap_platform.config.objective import ObjectiveConfig


class TapPretrainConfig(Section):
    """TAP pre-training: masks and concepts from prompts. The text decoder is not trained."""

    located: ClassVar[tuple[str, ...]] = ("mae_weights",)

    type: Literal["tap_pretrain"] = "tap_pretrain"
    """Picks the recipe."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """Losses, routing and prompts."""
    mae_weights: str | None = None
    """Local file of masked-autoencoder ViT weights in timm's format that the image encoder starts
    from (paper: MAE); none starts from scratch."""


RecipeConfig = TapPretrainConfig
