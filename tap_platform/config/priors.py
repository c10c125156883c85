"""How the regions of a data set are shown to a CLIP teacher, and what is made of its answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tap_platform.config.base import Section


class PriorsConfig(Section):
    """One teacher, and the picture that it is given of every region."""

    teacher: str
    """open_clip model: the name of an architecture (TAP's teacher is `EVA02-E-14-plus`), or where
    config and weights lie: `local-dir:FOLDER`, `hf-hub:OWNER/NAME`."""
    weights: str | None = None
    """For an architecture, a file of weights or one of its pretrained tags (TAP's teacher:
    `laion2b_s9b_b144k`)."""
    templates: tuple[str, ...] = Field(("tap",), min_length=1)
    """Sentences with {} for the name, or sets of them (`tap`, `photo`, `imagenet`): what the text
    tower reads. TAP's released concepts were made with `a {}`."""
    concepts: str | None = None
    """Concept list, or a file with one name a line, that the text tower embeds; without it the
    data set's own names, or TAP's `merged_2560` where it has none."""
    canvas: Literal["mean", "grey", "black", "white"] = "mean"
    """Colour where the region is not: the teacher's mean colour (0 once normalized), `grey` (128),
    `black` or `white`. The paper says no more than an empty canvas, and a question about it went
    unanswered; the mean is what the teacher's own input is without anything in it."""
    context: float = Field(0.0, ge=0, le=4)
    """What is shown around the region's box, on each side, as a share of the box's width and
    height; it ends at the image's border. The paper names none."""
    keep_background: bool = False
    """Whether pixels of the crop that are not the region's stay visible. The paper pastes the
    masked segment alone."""
    fit: Literal["aspect", "stretch"] = "aspect"
    """How a crop fills the canvas: `aspect` keeps its proportions and centres it, its long side
    fills the canvas; `stretch` fills all of it. The paper pastes the resized crop on a canvas,
    which a stretched one would leave no room for."""
    interpolation: Literal["bicubic", "bilinear", "box"] = "bicubic"
    """Filter that a crop is resized by, antialiased where it shrinks; bicubic is CLIP's own."""
    batch: int = Field(256, gt=0)
    """Regions that the teacher embeds at once. A batch never holds regions of two shards, so that a
    shard's embeddings do not depend on who else asks."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Arithmetic of the image tower; `auto` is fp16 on a GPU, which keeps three bits more than
    bf16, and fp32 on a CPU."""
