"""What a job's data are: folders, indexes, concepts, order and identity, told in one place."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from datamodules.order.mixture import MixedSet, MixturePlan
from datamodules.order.plan import GlobalPlan, Plan
from datamodules.shards.index import DataIndex, SampleIndex
from datamodules.shards.joined import JoinedIndex
from datamodules.shards.provenance import check_ended
from datamodules.storage import Location, exists, location
from datamodules.vocabulary import Vocabulary, join_vocabularies
from tap_platform.config.data import DataConfig, MixturePart, MixtureSource, ShardSource
from tap_platform.config.job import JobConfig
from tap_platform.config.sources import ImportedSource

VOCABULARY_NAME = "vocabulary.safetensors"


@dataclass(frozen=True)
class DataSet:
    """One folder of shards: `train/`, `val/` and concepts."""

    folder: Location
    weight: float = 1.0
    """Its share of a mixture, relative to the others."""
    priors: Location | None = None
    """The sidecar with `train/` and `val/`, if the shards hold no priors."""
    own_vocabulary: Location | None = None
    """The file of concepts, if it is not where it usually is."""

    def index(self, split: str) -> DataIndex:
        """The samples of `train` or `val`.

        Raises:
            ValueError: if they are missing or broken, the sidecar is of other samples, or one of
                them is not made to its end.
        """
        for folder in (self.folder, self.priors):
            if folder is not None:
                check_ended(folder)
        return DataIndex.load(self.folder / split, self.priors and self.priors / split)

    @property
    def vocabulary(self) -> Location:
        """The file of concepts: the one that was named, else the sidecar's, else the folder's."""
        if self.own_vocabulary is not None:
            return self.own_vocabulary
        if self.priors is not None and exists(self.priors / VOCABULARY_NAME):
            return self.priors / VOCABULARY_NAME
        return self.folder / VOCABULARY_NAME


def data_sets(source: DataConfig) -> tuple[DataSet, ...]:
    """The data sets of a source: one, or those of a mixture in their order."""
    if isinstance(source, MixtureSource):
        return tuple(_of_shards(part, part.weight) for part in source.mixture)
    if isinstance(source, ShardSource):
        return (_of_shards(source),)
    return (DataSet(data_folder(source)),)


def data_folder(source: DataConfig) -> Location:
    """Where the shards of a source of one data set lie, or will lie."""
    assert not isinstance(source, MixtureSource), "a mixture lies in several folders"
    return location(source.shards if isinstance(source, ImportedSource) else source.path)


def _of_shards(shards: ShardSource | MixturePart, weight: float = 1.0) -> DataSet:
    return DataSet(
        location(shards.path),
        weight,
        location(shards.priors) if shards.priors is not None else None,
        location(shards.vocabulary) if shards.vocabulary is not None else None,
    )


def training_index(source: DataConfig) -> SampleIndex:
    """The samples to learn from.

    Raises:
        ValueError: if they are missing or broken.
    """
    return _index(source, "train")


def held_out_index(source: DataConfig) -> SampleIndex:
    """The samples held out for evaluation; those of all sets of a mixture.

    Raises:
        ValueError: if they are missing or broken.
    """
    return _index(source, "val")


def _index(source: DataConfig, split: str) -> SampleIndex:
    sets = data_sets(source)
    if not isinstance(source, MixtureSource):
        return sets[0].index(split)
    labels = [str(each.folder / split) for each in sets]
    return JoinedIndex([each.index(split) for each in sets], labels)


def training_plan(job: JobConfig, index: SampleIndex) -> Plan:
    """The order of a job's training samples.

    Args:
        job: the job.
        index: its `training_index`.

    Raises:
        ValueError: if the data are too few for the batch or the partitions, or a weight too small.
    """
    order = {
        "seed": job.data.seed,
        "partitions": job.data.partitions,
        "shuffle_window": job.data.shuffle_window,
        "global_batch": job.training.global_batch,
    }
    if not isinstance(job.data, MixtureSource):
        return GlobalPlan(index.counts, **order)
    assert isinstance(index, JoinedIndex), "the index is that of the mixture"
    parts = zip(job.data.mixture, index.indexes, strict=True)
    return MixturePlan([MixedSet(p.path, own.counts, p.weight) for p, own in parts], **order)


def vocabulary_of(source: DataConfig) -> Vocabulary:
    """The concepts that a source's regions are named by; those of a mixture are united.

    Raises:
        ValueError: if they are missing or broken, or those of two sets do not fit together.
    """
    sets = data_sets(source)
    if len(sets) == 1:
        return Vocabulary.load(sets[0].vocabulary)
    return join_vocabularies({str(s.folder): Vocabulary.load(s.vocabulary) for s in sets})


def has_vocabulary(source: DataConfig) -> bool:
    """Whether the concepts of every set are still there, and can be reached."""
    try:
        return all(exists(each.vocabulary) for each in data_sets(source))
    except OSError:
        return False


def data_hashes(source: DataConfig) -> dict[str, str]:
    """What a run learns from: a hash of each set's training samples, and one of the concepts.

    Raises:
        ValueError: if they are missing or broken.
    """
    hashes = {str(each.folder): each.index("train").sha256 for each in data_sets(source)}
    vocabulary = vocabulary_of(source)
    content = json.dumps(vocabulary.names).encode() + vocabulary.embeddings.tobytes()
    return hashes | {"vocabulary": hashlib.sha256(content).hexdigest()}
