"""`tap data priors`: what a CLIP teacher sees in every region of a data set, in sidecar shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from datamodules.priors import folder
from datamodules.priors.crops import CropRule
from datamodules.shards.entries import INDEX_NAME
from datamodules.shards.index import DataIndex
from datamodules.shards.provenance import check_ended
from datamodules.storage import Location, exists, location
from datamodules.vocabulary import Vocabulary
from tap_platform.config.priors import PriorsConfig
from tap_platform.launch.count_bar import count_bar
from tap_platform.launch.prior_cluster import run_away, run_with_ray
from tap_platform.launch.prior_tasks import (
    Drawing,
    ShardJob,
    TeacherSpec,
    Work,
    run_here,
)

if TYPE_CHECKING:
    from tap_platform.concepts import Concepts
    from tap_platform.concepts.image_teacher import TeacherShape

SPLITS = ("train", "val")
_GREYS = {"grey": 128, "black": 0, "white": 255}


class Made(NamedTuple):
    """What came of a call."""

    report: folder.PriorsReport
    work: Work


def make_priors(
    data: str,
    config: PriorsConfig,
    out: str | None = None,
    teachers: int = 0,
    readers: int = 1,
    device: str = "auto",
    console: Console | None = None,
) -> Made:
    """Embed every region of a data set, or what is missing of it, into a folder of sidecars.

    The bytes depend on the data set, the config and the device's kind, not on the number of
    teachers and readers, nor on how often the work was killed and begun again.

    Args:
        data: folder or URL of a data set: `train/`, `val/`, each with its index.
        config: the teacher, and what it is shown.
        out: folder or URL for the priors; by default beside the data set, named by the teacher.
        teachers: Ray actors that hold the teacher, a GPU each where there are GPUs; 0 does all in
            this process.
        readers: Ray Data tasks that cut crops, one CPU each.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        console: where progress is shown.

    Returns:
        What the folder holds, and the work that this call did for it.

    Raises:
        ValueError: if the data set or the teacher cannot be read, or `out` holds something else.
    """
    console = console or Console()
    place, root = location(data), location(out or default_folder(data, config.teacher))
    indexes = _indexes(place)
    with _session(teachers, readers, device) as kind:
        maker = _Maker(root, config, kind, _concepts(place, config), indexes)
        if folder.is_complete(root, maker.settings):
            report = folder.stored_report(root)
            console.print(f"{root} is complete: {report.sentence()}", soft_wrap=True)
            return Made(report, Work())
        if not exists(root / folder.VOCABULARY):
            folder.claim(root, maker.settings, maker.vocabulary(away=teachers > 0))
        jobs = maker.missing()
        total, left = sum(map(len, indexes.values())), sum(job.images for job in jobs)
        before = total - left
        if before:
            console.print(f"going on after {before} of {total} images")
        with count_bar("embedding images", console) as show:
            work = maker.run(
                jobs,
                lambda work: show(before + work.images, total, work.speed),
                teachers,
                readers,
            )
    report = maker.finish()
    console.print(f"{root}: {report.sentence()}", soft_wrap=True)
    if work.regions:
        console.print(work.speed)
    return Made(report, work)


def default_folder(data: str, teacher: str) -> str:
    """Where the priors of a data set go: beside it, named by the teacher."""
    name = teacher.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return f"{data.rstrip('/')}-priors-{name}"


@dataclass(frozen=True)
class _Maker:
    """One folder of priors and all that its bytes depend on."""

    root: Location
    config: PriorsConfig
    device: str
    """`cpu` or `cuda`."""
    concepts: Concepts
    indexes: Mapping[str, DataIndex]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that the bytes depend on, as JSON has it."""
        from tap_platform.concepts.build import names_sha256
        from tap_platform.concepts.text_embeddings import weights_file
        from tap_platform.runs.files import sha256_of

        config = self.config
        file = weights_file(config.teacher, config.weights)
        return {
            **config.model_dump(mode="json", exclude={"weights", "precision", "concepts"}),
            "precision": self.spec.precision,
            "weights": sha256_of(file) if file else config.weights,
            "concepts": names_sha256(self.concepts.names),
            **{f"{split}_index": index.sha256 for split, index in self.indexes.items()},
        }

    @property
    def spec(self) -> TeacherSpec:
        """What the teacher is loaded from."""
        precision = self.config.precision
        if precision == "auto":
            precision = "fp32" if self.device == "cpu" else "fp16"
        return TeacherSpec(self.config.teacher, self.config.weights, self.device, precision)

    def drawing(self, shape: TeacherShape) -> Drawing:
        """What readers make for such a teacher."""
        config = self.config
        colour = _canvas_colour(config.canvas, shape.mean)
        rule = CropRule(
            shape.image_size,
            colour,
            config.context,
            config.keep_background,
            config.fit,
            config.interpolation,
        )
        return Drawing(self.root, rule, shape.width, config.batch)

    def vocabulary(self, away: bool) -> Vocabulary:
        """The concepts, embedded by the text tower.

        Args:
            away: whether in a Ray task, which may have a GPU where this process has none.
        """
        from tap_platform.concepts import build_vocabulary
        from tap_platform.concepts.templates import find_templates

        build: Callable[..., Vocabulary] = build_vocabulary
        if away:
            build = partial(run_away, build, self.device)
        templates = find_templates(self.config.templates)
        teacher, weights = self.config.teacher, self.config.weights
        return build(self.concepts, teacher, weights, templates, self.device)

    def missing(self) -> list[ShardJob]:
        """The shards that are not done."""
        return [
            ShardJob(split, index, shard)
            for split, index in self.indexes.items()
            for shard in folder.missing_shards(self.root, split, len(index.names))
        ]

    def run(
        self, jobs: Sequence[ShardJob], show: Callable[[Work], None], teachers: int, readers: int
    ) -> Work:
        """Do shards, here or with Ray."""
        if not jobs:
            return Work()
        if teachers:
            return run_with_ray(jobs, self.spec, self.drawing, show, teachers, readers)
        return run_here(jobs, self.spec, self.drawing, show)

    def finish(self) -> folder.PriorsReport:
        """Write what tells of all shards."""
        teacher = f"open_clip {self.config.teacher}"
        facts = {
            "device": self.device,
            "open_clip": version("open_clip_torch"),
            "torch": version("torch"),
        }
        return folder.finish(self.root, self.indexes, self.settings, teacher, **facts)


def _canvas_colour(canvas: str, mean: Sequence[float]) -> tuple[int, int, int]:
    if canvas in _GREYS:
        return (_GREYS[canvas],) * 3
    red, green, blue = (round(255 * part) for part in mean)
    return red, green, blue


def _indexes(data: Location) -> dict[str, DataIndex]:
    """The index of each split that a data set has."""
    check_ended(data)
    found = {
        split: DataIndex.load(data / split) for split in SPLITS if exists(data / split / INDEX_NAME)
    }
    if not found:
        raise ValueError(
            f"{data} holds no data set: give the folder that holds train/ and val/, each with its"
            " index.json"
        )
    for index in found.values():
        folder.check_names(index)
    return found


def _concepts(data: Location, config: PriorsConfig) -> Concepts:
    """The names to embed: those asked for, the data set's own, or TAP's."""
    from tap_platform.concepts import Concepts, find_concepts
    from tap_platform.concepts.sources import MERGED, SOURCES

    if config.concepts is not None:
        return find_concepts(config.concepts)
    if not exists(data / folder.VOCABULARY):
        return find_concepts(MERGED)
    names = Vocabulary.load(data / folder.VOCABULARY).names
    known = (find_concepts(source) for source in SOURCES)
    return next((each for each in known if each.names == names), Concepts(str(data), names, names))


@contextmanager
def _session(teachers: int, readers: int, device: str) -> Iterator[str]:
    """Ray, if it is wanted, for the block; yields the kind of device that a teacher has."""
    if not teachers:
        import torch

        with_gpu = device != "cpu" and torch.cuda.is_available()
        if device == "cuda" and not with_gpu:
            raise ValueError("this machine has no GPU: give --device cpu")
        yield "cuda" if with_gpu else "cpu"
        return
    import ray

    from tap_platform.launch.ray_session import joined_ray

    with joined_ray(teachers + readers):
        resources = ray.cluster_resources()
        with_gpu = device != "cpu" and resources.get("GPU", 0) > 0
        _check_room(resources, teachers, readers, device, with_gpu)
        yield "cuda" if with_gpu else "cpu"


def _check_room(
    resources: Mapping[str, float], teachers: int, readers: int, device: str, with_gpu: bool
) -> None:
    """Refuse what would wait for ever.

    Raises:
        ValueError: if the cluster is too small.
    """
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if (with_gpu or device == "cuda") and gpus < teachers:
        raise ValueError(f"the Ray cluster has {gpus} GPUs for {teachers} teachers")
    if cpus < teachers + readers:
        raise ValueError(
            f"the Ray cluster has {cpus} CPUs; {teachers} teachers and {readers} readers hold one"
            " each: lower --teachers or --readers"
        )
