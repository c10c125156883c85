"""`tap data label`: masks, and a teacher's priors, for regions of which only a box is known.

So the TAP paper prepares Visual Genome for full fine-tuning: the masks are those of the partially
fine-tuned model, the priors those of the CLIP teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from datamodules.importers.making import ImportReport, make_data_set
from datamodules.importers.shard_set import ShardSet
from datamodules.labels.masks import BOXES_KEPT, HAD, MADE, MaskRule
from datamodules.labels.plan import SOURCE, Labelling, check_work
from datamodules.shards import provenance
from datamodules.storage import Location, location
from datamodules.vocabulary import Vocabulary
from tap_platform.config.priors import PriorsConfig
from tap_platform.launch.count_bar import count_bar
from tap_platform.launch.label_cluster import Crew, models, session
from tap_platform.launch.label_tasks import ModelHere, ModelSpec, weights_sha256
from tap_platform.launch.priors import make_priors
from tap_platform.launch.weights_source import load_weights


@dataclass(frozen=True)
class _Weights:
    """The model that draws, as far as the driver must know it."""

    source: str
    storage: str
    origin: str
    sha256: str
    image_size: int
    vocabulary: Vocabulary | None

    @classmethod
    def look_at(cls, source: str, storage: str) -> _Weights:
        """Load the weights once, to see that they are sound.

        Raises:
            ValueError: as `load_weights`.
        """
        path = Path(source).expanduser()
        loaded = load_weights(source, storage)
        return cls(
            source=str(path.absolute()) if path.exists() else source,
            storage=str(Path(storage).absolute()),
            origin=f"file {path.name}" if path.is_file() else loaded.origin,
            sha256=weights_sha256(loaded.model),
            image_size=loaded.model.config.image_size,
            vocabulary=loaded.vocabulary,
        )

    def settings(self, device: str) -> dict[str, Any]:
        """What the masks depend on."""
        return {
            "weights": self.origin,
            "weights_sha256": self.sha256,
            "image_size": self.image_size,
            "device": device,
        }

    def spec(self, device: str) -> ModelSpec:
        """What a model on that kind of device is loaded from."""
        return ModelSpec(self.source, self.storage, self.sha256, device)


def label_data(
    data: str,
    weights: str,
    out: str,
    rule: MaskRule | None = None,
    crew: Crew | None = None,
    teacher: PriorsConfig | None = None,
    priors_out: str | None = None,
    console: Console | None = None,
    storage: str = "runs",
) -> ImportReport:
    """Draw the masks that a data set lacks, as a new data set, or go on with it.

    The bytes depend on the data set, the weights, the rule and the device's kind, not on the number
    of workers and readers, nor on how often the work was killed and begun again.

    Args:
        data: folder or URL of the data set.
        weights: a run's name or directory, or a file of weights.
        out: folder or URL of the new data set.
        rule: which regions get a mask; by default those that have none.
        crew: who labels; by default this process.
        teacher: a CLIP model whose priors are made of the new data set, if any.
        priors_out: folder or URL for them; by default `out` with `-priors`.
        console: where progress is shown.
        storage: where a run's name is looked for.

    Returns:
        What the data set holds; its figures count what became of the regions.

    Raises:
        ValueError: if there are no such weights, the data set is missing or there is nothing to
            label in it, `out` holds something else, or the teacher is not to be had; nothing is
            scheduled then.
    """
    rule, crew, console = rule or MaskRule(), crew or Crew(), console or Console()
    place = location(out)
    _check_apart(location(data), place)
    if teacher is not None:
        _check_teacher(teacher)
    known, source = _Weights.look_at(weights, storage), ShardSet.open(data)
    vocabulary = source.vocabulary() or known.vocabulary
    with session(crew) as device:
        labelling = Labelling(source, rule, known.settings(device), vocabulary)
        report = _label(labelling, known.spec(device), place, crew, console)
        console.print(_sentence(report, place), soft_wrap=True)
        if teacher is not None:
            folder = priors_out or f"{out.rstrip('/')}-priors"
            make_priors(out, teacher, folder, crew.workers, crew.readers, crew.device, console)
    return report


def _label(
    labelling: Labelling, spec: ModelSpec, out: Location, crew: Crew, console: Console
) -> ImportReport:
    """Make the data set, unless it is there."""
    settings = labelling.settings()
    if provenance.is_made(out, SOURCE, settings):
        return make_data_set(labelling.plan(ModelHere(spec)), out)
    check_work(labelling.data, labelling.rule.overwrite)
    provenance.begin(out, SOURCE, settings)
    with models(spec, crew.workers) as segmenter, count_bar("labelling images", console) as show:
        readers = crew.readers if crew.workers else 0
        return make_data_set(labelling.plan(segmenter), out, readers, show)


def _check_apart(data: Location, out: Location) -> None:
    same = data.resolve() == out.resolve() if isinstance(data, Path) else data == out
    if same:
        raise ValueError(f"--out is the data set itself, {data}: choose a new folder")


def _check_teacher(config: PriorsConfig) -> None:
    """Refuse a teacher that cannot be had, now and not after all masks are drawn.

    Raises:
        ValueError: as `load_clip`.
    """
    import open_clip

    from tap_platform.concepts.text_embeddings import load_clip, weights_file

    name, weights = config.teacher, config.weights
    has_weights = (
        name.startswith("hf-hub:")
        or weights_file(name, weights) is not None
        or weights in open_clip.list_pretrained_tags_by_model(name)
    )
    if not has_weights or (":" not in name and name not in open_clip.list_models()):
        load_clip(name, weights)


def _sentence(report: ImportReport, out: Location) -> str:
    """What was made, for people."""
    figures = report.figures
    told = [f"{figures.get(MADE, 0):,} {MADE}"]
    told += [f"{figures[name]:,} {name}" for name in (HAD, *BOXES_KEPT) if figures.get(name)]
    return f"{report.sentence('labelled')}, in {out}: {', '.join(told)}"
