"""Which LightningModule optimizes what."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tap_platform.config.base import Section
from tap_platform.config.caption import CaptionConfig
from tap_platform.config.objective import ObjectiveConfig

SEEING_PARTS = ("image_encoder", "prompt_encoder", "image_decoder")
TEXT_DECODER = "text_decoder"


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

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """The parts of TAP that learn, by the names of its children; the others rest."""
        return SEEING_PARTS


class TapCaptionConfig(Section):
    """TAP fine-tuning: regions learn to be described."""

    type: Literal["tap_caption"] = "tap_caption"
    """Picks the recipe."""
    train: Literal["text_decoder", "all"] = "text_decoder"
    """`text_decoder` (partial fine-tuning) freezes the other parts, which stay in evaluation mode
    and are saved nowhere anew; `all` (full fine-tuning) trains masks, concepts and captions
    together. A region without a mask, a prior or a phrase costs no loss of that kind."""
    objective: ObjectiveConfig = ObjectiveConfig()
    """Losses, routing and prompts of masks and concepts; read when everything is trained. The
    routing rule and the temperature are read in evaluation too."""
    caption: CaptionConfig = CaptionConfig()
    """How captions are learned."""
    tokenizer: str | None = None
    """Word pieces of the text decoder: the path of a SentencePiece model, `shipped` (32,000 pieces,
    Apache-2.0) or `trained` (`model.vocab_size` pieces, made from the phrases of the training
    data). By default that of the run in `init_from` if it has one, else `shipped`. Released weights
    speak the pieces of LLaMA's `tokenizer.model` and no others. A run keeps a copy."""

    @property
    def trained_parts(self) -> tuple[str, ...]:
        """The parts of TAP that learn, by the names of its children; the others rest."""
        return (TEXT_DECODER,) if self.train == TEXT_DECODER else (*SEEING_PARTS, TEXT_DECODER)


RecipeConfig = Annotated[TapPretrainConfig | TapCaptionConfig, Field(discriminator="type")]
