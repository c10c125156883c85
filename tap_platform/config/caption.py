"""How captions are learned: which phrase, which token, which prompt (TAP paper, section 3.4)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tap_platform.config.base import Section


class CaptionConfig(Section):
    """Next-token cross entropy on a region's phrase, `[token][BEGIN] words [END]`."""

    weight: float = Field(1.0, ge=0)
    """Weight of the caption loss beside masks and concepts; read when everything is trained. The
    paper is silent."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Probability that is spread over all word pieces instead of the next one. The released helper
    has the option and leaves it at 0."""
    lower_case: bool = True
    """Lower-case phrases before they are learned. The paper is silent; the metrics lower-case both
    sides, so that capitals could only cost."""
    token: Literal["semantic", "mask"] = "semantic"
    """The token of the image decoder that prompts the text decoder: the paper's semantic token, or,
    for its ablation, the mask token beside it. It is routed like the mask."""
    prompt: Literal["box", "predicted_mask_points"] = "box"
    """What cues a region while only the text decoder is trained: its box, or points drawn in the
    mask that the model predicts for the box, as in v1.1: these train what answers points, while
    evaluation asks by box, as the released one does. When everything is trained, captions are read
    off the first prompt of the two stages, a box or a point."""
