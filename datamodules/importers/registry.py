"""Which importer reads which source."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.importers.building import ImportPlan, ImportReport, build_data_set
from datamodules.importers.shard_tasks import Show
from datamodules.vocabulary import Vocabulary, concept_list

if TYPE_CHECKING:
    from tap_platform.config.sources import ImportedSource

PLANNERS = {
    "coco": "datamodules.importers.coco:plan_coco",
    "mask_folder": "datamodules.importers.mask_folder:plan_mask_folder",
    "lvis": "datamodules.importers.lvis:plan_lvis",
    "visual_genome": "datamodules.importers.visual_genome:plan_visual_genome",
    "grit": "datamodules.importers.grit:plan_grit",
    "refcoco": "datamodules.importers.refcoco:plan_refcoco",
}
"""By `data.source`, the function that makes a plan from its config and a vocabulary."""
IN_PLACE = {"sa1b": "datamodules.importers.sa1b:index_sa1b"}
"""Those whose tars are shards already: config, vocabulary and progress to a report."""


def import_source(
    source: ImportedSource, dim: int, show: Show | None = None, mend: bool = False
) -> ImportReport:
    """Import a source, go on with an import that was begun, or keep what is there.

    Args:
        source: the data section of a job.
        dim: width of the concept space, where the vocabulary has none of its own.
        show: called with (images done, images in all) as it goes on.
        mend: try faulty images again whose files have changed since the import.

    Raises:
        ValueError: if the source or the vocabulary is missing, broken or empty, or the shards
            cannot be written.
    """
    if source.source in IN_PLACE:
        vocabulary = find_vocabulary(source.vocabulary, dim, source.priors)
        report: ImportReport = _function(IN_PLACE[source.source])(source, vocabulary, show)
        return report
    plan = plan_import(source, dim)
    return build_data_set(plan, source.shards, source.import_workers, show, mend)


def plan_import(source: ImportedSource, dim: int) -> ImportPlan:
    """Read a source as far as its annotations.

    Args:
        source: the data section of a job.
        dim: width of the concept space, where the vocabulary has none of its own.

    Raises:
        ValueError: if the source or the vocabulary is missing, broken or empty.
    """
    vocabulary = find_vocabulary(source.vocabulary, dim, source.priors)
    plan: ImportPlan = _function(PLANNERS[source.source])(source, vocabulary)
    return plan


def find_vocabulary(name: str, dim: int, priors: str) -> Vocabulary:
    """The vocabulary that a config names.

    Args:
        name: a concept list that ships, a text file of names, or a `vocabulary.safetensors`, which
            brings its own embeddings and width.
        dim: width of the oracle embeddings of names.
        priors: where the priors come from, which becomes the kind of a list's vocabulary.

    Raises:
        ValueError: if there is no such list, or the file is broken.
    """
    if Path(name).suffix == ".safetensors":
        return Vocabulary.load(name)
    kind = priors if priors != "none" else "category_names"
    return Vocabulary.from_names(concept_list(name), dim, kind)


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)
