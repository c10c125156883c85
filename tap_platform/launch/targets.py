"""Whether a job's data hold what it is to learn: masks, concept priors or phrases."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from rich.console import Console

from datamodules.decoding.phrases import Wording
from datamodules.inspection.data_set import Part
from datamodules.inspection.statistics import gather
from datamodules.storage import Location
from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TapCaptionConfig
from tap_platform.launch.data_sets import DataSet, data_sets

LOOKED_AT = 32
"""Samples of a data set that tell whether there is anything to learn from."""


class _Targets(NamedTuple):
    """What the regions of some samples of a split have."""

    folder: Location
    """The data set's."""
    samples: int
    """Those that were looked at."""
    regions: int
    masks: int
    """Regions that have one."""
    priors: int
    """Samples that have some, in the whole split."""
    named: int
    """Regions with a category."""
    phrased: int
    """Those with words of the kind that the job wants."""


def check_targets(job: JobConfig, console: Console) -> None:
    """Refuse data that teach nothing; tell where captions cannot be scored.

    A split whose samples show no region at all is let through: what is wrong with it is found when
    it is read.

    Raises:
        ValueError: if no set of a job that learns captions has a phrase, or a set that masks and
            concepts are learned from has nothing of the kind.
    """
    sets = data_sets(job.data)
    learned = [_targets(each, "train", job.data.phrases) for each in sets]
    recipe = job.recipe
    if not isinstance(recipe, TapCaptionConfig):
        for each in learned:
            _check_regions(each, with_phrases=False)
        return
    if recipe.train == "all":
        for each in learned:
            _check_regions(each, with_phrases=True)
    _check_phrases(learned, job.data.phrases)
    held_out = [_targets(each, "val", job.data.phrases) for each in sets]
    if not any(each.phrased for each in held_out):
        folders = ", ".join(str(each.folder / "val") for each in held_out)
        console.print(f"{folders}: no phrase is held out, so captions get no score", soft_wrap=True)


def _targets(data_set: DataSet, split: str, wording: Wording) -> _Targets:
    part = Part(split, data_set.folder / split, split, data_set.index(split))
    (found,) = gather(str(data_set.folder), [part], samples=LOOKED_AT).parts
    regions: Counter[str] = found.regions
    named, phrased = regions["with category"], regions["with phrases"]
    return _Targets(
        folder=data_set.folder,
        samples=found.read,
        regions=regions["regions"],
        masks=regions["with masks"],
        priors=found.samples_with_priors,
        named=named,
        phrased=phrased + named if wording == "category" else phrased,
    )


def _check_regions(found: _Targets, *, with_phrases: bool) -> None:
    """Refuse a set that teaches nothing, such as Visual Genome's boxes in pre-training."""
    if not found.regions or found.masks or found.priors or (with_phrases and found.phrased):
        return
    lacks = "masks nor concept priors"
    if with_phrases:
        lacks = "masks, concept priors nor phrases"
    raise ValueError(
        f"{found.folder}: its regions have neither {lacks}, so that there is nothing to learn from:"
        f" make priors (tap data priors {found.folder} --teacher MODEL), and give their folder"
        " (data.priors)"
    )


def _check_phrases(learned: list[_Targets], wording: Wording) -> None:
    """Refuse captions without words; in a mixture, one set that has some is enough."""
    if any(each.phrased for each in learned) or not any(each.regions for each in learned):
        return
    named = wording == "own" and any(each.named for each in learned)
    words = "phrases" if wording == "own" else "phrases or categories"
    raise ValueError(
        f"{', '.join(str(each.folder) for each in learned)}: the regions of the"
        f" {sum(each.samples for each in learned)} samples that were looked at have no {words}, so"
        " that there are no captions to learn:"
        + (" take the names of their categories (data.phrases=category), or" if named else "")
        + " take a data set with phrases, such as Visual Genome (tap data import visual_genome)"
    )
