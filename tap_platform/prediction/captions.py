"""From tokens of the image decoder to captions (TAP paper, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from torch import Tensor

from tap_platform.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tap_platform.models import RegionOutput, Tap

CaptionToken: TypeAlias = Literal["semantic", "mask"]
"""What prompts the text decoder: the paper's semantic token, or the mask token of its ablation."""
CAPTIONS_AT_ONCE = 64


@dataclass(frozen=True)
class Speech:
    """How a model's tokens become words: as the text decoder was trained."""

    tokenizer: Tokenizer
    """The one of its training."""
    token: CaptionToken = "semantic"
    """What prompted it in training."""

    def tokens_of(self, output: RegionOutput) -> Tensor:
        """What prompts the text decoder: [M, 4, C], four candidates of each region."""
        return output.mask_tokens if self.token == "mask" else output.semantic_tokens

    def describe(self, model: Tap, tokens: Tensor) -> list[str]:
        """Captions of M regions, always the likeliest word; each is one line.

        Args:
            model: in evaluation mode.
            tokens: the routed ones of `tokens_of`, [M, C].
        """
        return [
            " ".join(self.tokenizer.decode(row).split())
            for part in tokens.split(CAPTIONS_AT_ONCE)
            for row in model.caption(part, model.config.text_length).tolist()
        ]
