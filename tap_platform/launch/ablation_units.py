"""What an ablation has to run: each stage once, however many variants go through it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tap_platform.config.ablation import AblationConfig, AblationStage, Measure
from tap_platform.config.job import JobConfig
from tap_platform.config.load import anchored, merge, validate_job
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_json

Scores = Callable[[str, Measure], list[float | None]]
"""What a variant scored by a measure: one value for each seed, None where it is not there."""


@dataclass(frozen=True)
class Unit:
    """One run: a stage of one or more variants by one seed."""

    name: str
    """Its own under the ablation's: the stage's and a hash of all that it depends on."""
    stage: str
    variants: tuple[str, ...]
    """Those that go through it."""
    seed: int
    job: JobConfig
    after: str | None
    """The unit whose weights it starts from."""


class _Resolver:
    """Jobs of the stages of an ablation, as variants change them."""

    def __init__(self, config: AblationConfig, parent: str, folder: Path) -> None:
        self.config, self.parent, self.folder = config, parent, folder
        self.stages = {stage.name: stage for stage in config.stages}

    def unit(self, variant: str, stage: AblationStage, seed: int) -> Unit:
        """The run of a variant's stage by a seed."""
        after = None if stage.after is None else self._name(variant, stage.after, seed)
        run = str(self.folder / f"{self.parent}-{after}")
        start = {"init_from": {"source": run}} if after else {}
        shared = {
            "name": f"{self.config.name}-{stage.name}",
            "project": self.config.project,
            "storage": self.config.storage,
        }
        tree = {**merge(self._tree(variant, stage.name, seed), start), **shared}
        job = anchored(validate_job(tree, f"variant {variant!r}, stage {stage.name!r}"))
        name = self._name(variant, stage.name, seed)
        return Unit(name, stage.name, (variant,), seed, job, after)

    def _name(self, variant: str, stage: str, seed: int) -> str:
        """Two variants' stages that come out the same, with all before them, have one name."""
        keys: list[dict[str, Any]] = []
        link: str | None = stage
        while link is not None:
            keys.append(self._tree(variant, link, seed))
            link = self.stages[link].after
        digest = hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:8]
        return f"{stage}-{digest}"

    def _tree(self, variant: str, stage: str, seed: int) -> dict[str, Any]:
        """A stage's own keys: the base, the stage's, the variant's and the seed."""
        tree = merge(self.config.base, self.stages[stage].job)
        tree = merge(tree, self.config.variants[variant].changes.get(stage, {}))
        return merge(tree, {"seed": seed, "data": {"seed": seed}})


def ablation_units(config: AblationConfig, parent: str, folder: Path) -> list[Unit]:
    """All runs of an ablation, each after the one that it starts from, seed after seed.

    A seed is complete before the next one begins, so that an ablation that is cut has something to
    show.

    Args:
        config: the ablation.
        parent: name of its run, which the names of its runs begin with.
        folder: where run directories lie.

    Raises:
        ValueError: if a job does not validate; the message names variant and stage.
    """
    resolver = _Resolver(config, parent, folder)
    found: dict[str, Unit] = {}
    for seed in config.seeds:
        for stage in config.stages:
            for variant in config.variants:
                if stage in config.stages_of(variant):
                    unit = resolver.unit(variant, stage, seed)
                    through = found[unit.name].variants if unit.name in found else ()
                    found[unit.name] = replace(unit, variants=(*through, variant))
    return list(found.values())


def scores_of(units: Sequence[Unit], parent: RunDirectory, seeds: Sequence[int]) -> Scores:
    """Look scores up in the reports of the runs that have finished."""
    runs = {
        (variant, unit.stage, unit.seed): parent.path.with_name(f"{parent.name}-{unit.name}")
        for unit in units
        for variant in unit.variants
    }

    def scores(variant: str, measure: Measure) -> list[float | None]:
        return [_score(runs.get((variant, measure.stage, seed)), measure.score) for seed in seeds]

    return scores


def _score(run: Path | None, name: str) -> float | None:
    report = run and run / "report" / "scores.json"
    if report is None or not report.is_file():
        return None
    value = read_json(report)["trained"].get(name)
    return None if value is None else float(value)
