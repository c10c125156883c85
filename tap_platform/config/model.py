"""The shape of a TAP model. Everything here is arithmetic: no torch."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from tap_platform.config.base import Section

PresetName = Literal["tiny", "vit_b", "vit_l", "vit_h"]


class TapConfig(Section):
    """Sizes of the four parts of TAP. The defaults are those of the released ViT-B model."""

    image_size: int = Field(1024, gt=0)
    """Side of the square input frame, in pixels."""
    patch_size: int = Field(16, gt=0)
    """Side of one patch, in pixels."""
    window_size: int = Field(16, gt=0)
    """Side of an attention window, in patches; it divides the patch grid."""

    encoder_depth: int = Field(12, gt=0)
    """Transformer blocks in the image encoder, in four quarters that a convolution closes each."""
    encoder_dim: int = Field(768, gt=0)
    """Token width in the image encoder."""
    encoder_heads: int = Field(12, gt=0)
    """Attention heads in the image encoder; they divide `encoder_dim`."""

    embed_dim: int = Field(256, gt=0)
    """Width of image embeddings, prompts, mask tokens and semantic tokens."""
    decoder_depth: int = Field(2, gt=0)
    """Two-way blocks in the image decoder."""
    decoder_heads: int = Field(8, gt=0)
    """Attention heads in the image decoder."""
    coordinate_scale: float = Field(1.0, gt=0)
    """Standard deviation of the frequencies that places are coded by when training starts from
    scratch (SAM: 1). Lower sees farther: a small, briefly trained model finds regions sooner."""
    concept_dim: int = Field(1024, gt=0)
    """Width of the concept space: that of the CLIP teacher's embeddings."""

    text_depth: int = Field(12, gt=0)
    """Blocks in the text decoder."""
    text_dim: int = Field(512, gt=0)
    """Token width in the text decoder."""
    text_heads: int = Field(8, gt=0)
    """Attention heads in the text decoder."""
    text_length: int = Field(40, gt=2)
    """Positions in the text decoder: one for the semantic token, the rest for text."""
    vocab_size: int = Field(32000, gt=3)
    """Word pieces; the last id pads."""

    drop_path: float = Field(0.1, ge=0, lt=1)
    """Stochastic depth of the last encoder block, linear from 0 (paper: 0.1 for B, 0.2 for L)."""
    decoder_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in the image decoder (paper: 0.1)."""
    text_dropout: float = Field(0.4, ge=0, lt=1)
    """Dropout in the text decoder (paper: 0.4)."""
    activation_checkpointing: bool = False
    """Recompute encoder blocks in the backward pass: less memory, about a third more time."""

    @property
    def grid_size(self) -> int:
        """Side of the patch grid, in patches."""
        return self.image_size // self.patch_size

    @property
    def mask_size(self) -> int:
        """Side of the predicted masks, in pixels: four cells for each patch side."""
        return 4 * self.grid_size

    @property
    def preset_name(self) -> PresetName | None:
        """The preset whose weights fit this model but for the image size; None if there is none."""
        sizes = self.model_dump(include=WEIGHT_FIELDS)
        for name in get_args(PresetName):
            if sizes == TapConfig.preset(name).model_dump(include=WEIGHT_FIELDS):
                return name
        return None

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.image_size % (self.patch_size * self.window_size):
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size x window_size"
                f" = {self.patch_size * self.window_size}"
            )
        for dim, heads in (
            ("encoder_dim", "encoder_heads"),
            ("embed_dim", "decoder_heads"),
            ("text_dim", "text_heads"),
        ):
            if getattr(self, dim) % getattr(self, heads):
                raise ValueError(
                    f"{dim} {getattr(self, dim)} is not a multiple of"
                    f" {heads} {getattr(self, heads)}"
                )
        if self.embed_dim % (2 * self.decoder_heads):
            raise ValueError(
                f"embed_dim {self.embed_dim} is not a multiple of 2 x decoder_heads"
                f" = {2 * self.decoder_heads}: cross attention halves it"
            )
        if self.encoder_depth % 4:
            raise ValueError(f"encoder_depth {self.encoder_depth} is not a multiple of 4")
        return self

    @classmethod
    def preset(cls, name: PresetName, **changes: Any) -> TapConfig:
        """The sizes of a named model, with some fields changed.

        Raises:
            ValueError: if no preset has that name.
        """
        if name not in PRESETS:
            raise ValueError(
                f"no preset named {name!r}: choose one of {', '.join(get_args(PresetName))}"
            )
        return cls(**{**PRESETS[name], **changes})


WEIGHT_FIELDS = {
    "patch_size",
    "window_size",
    "encoder_depth",
    "encoder_dim",
    "encoder_heads",
    "embed_dim",
    "decoder_depth",
    "decoder_heads",
    "concept_dim",
    "text_depth",
    "text_dim",
    "text_heads",
    "text_length",
    "vocab_size",
}
"""What decides which weights fit, and what they mean, whatever the image size."""

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "image_size": 256,
        "window_size": 8,
        "encoder_depth": 4,
        "encoder_dim": 128,
        "encoder_heads": 4,
        "embed_dim": 64,
        "decoder_heads": 2,
        "concept_dim": 64,
        "text_depth": 2,
        "text_dim": 128,
        "text_heads": 2,
        "vocab_size": 1024,
        "drop_path": 0.0,
        "decoder_dropout": 0.0,
        "coordinate_scale": 0.5,
    },
    "vit_b": {},
    "vit_l": {"encoder_depth": 24, "encoder_dim": 1024, "encoder_heads": 16, "drop_path": 0.2},
    "vit_h": {"encoder_depth": 32, "encoder_dim": 1280, "encoder_heads": 16, "drop_path": 0.2},
}
