"""A version takes an alias if it is measured to be at least as good as the one that has it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tap_platform.registry.evaluations import Score, how_to_measure, kind_of, score_of
from tap_platform.registry.versions import CANDIDATE, Registry, Version, registry_at
from tap_platform.runs.directory import check_plain_name
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import utc_now
from tap_platform.runs.prices import owner
from tap_platform.runs.tracking.base import as_text


@dataclass(frozen=True)
class Gate:
    """What a version must be measured to be."""

    suite: str = "final"
    metric: str = "box_iou"
    lower_is_better: bool = False
    at_least: float | None = None
    """The worst value that passes, whoever has the alias; None: any."""
    tolerance: float = 0.0
    """By how much it may be worse than the one that has the alias, in the metric's own unit."""

    def __post_init__(self) -> None:
        """Refuse what every value would pass.

        Raises:
            ValueError: A bound is no number, or the tolerance is none.
        """
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ValueError(f"a tolerance of {self.tolerance} lets everything pass: give a number")
        if self.at_least is not None and not math.isfinite(self.at_least):
            raise ValueError(f"a worst value of {self.at_least} asks nothing: give a number")


@dataclass(frozen=True)
class Verdict:
    """What became of a promotion."""

    version: Version
    before: Version | None
    """Who had the alias; None if nobody had."""
    score: Score | None
    before_score: Score | None
    objections: tuple[str, ...]
    """Why it would have been refused; empty unless it was forced."""


def promote(
    model: str,
    number: str,
    alias: str,
    gate: Gate,
    why: str | None = None,
    store: str | None = None,
    storage: str = "runs",
) -> Verdict:
    """Give an alias to a version, if it passes the gate or somebody answers for it.

    Args:
        model: The model.
        number: The version, or an alias that it has.
        alias: Such as `champion`.
        gate: What is asked of it.
        why: Why it gets the alias whatever the gate says; None: it must pass.
        store: MLflow's server or database; None: the database beside the runs.
        storage: The folder of all projects.

    Raises:
        ValueError: There is no such version, its checkpoint is gone, or it does not pass.
    """
    check_plain_name("alias", alias)
    with registry_at(store, storage) as registry, registry.alone():
        version = registry.version(model, number)
        version.check_is_there()
        held = registry.aliases(model).get(alias)
        if held == version.number:
            raise ValueError(f"{version.title} is {alias} already")
        verdict = _judge(version, held, gate, registry)
        if verdict.objections and why is None:
            told = "\n".join([f"{version.title} does not become {alias}:", *verdict.objections])
            raise ValueError(f'{told}\nto do it nevertheless: --force --why "..."')
        if registry.aliases(model).get(alias) != held:
            raise ValueError(f"{model} has got another {alias} meanwhile: promote it again")
        _write(verdict, alias, gate, why, registry)
    _record(verdict, alias, gate, why)
    return verdict


def _judge(version: Version, held: str | None, gate: Gate, registry: Registry) -> Verdict:
    """Compare with the version of that number, which has the alias; None: nobody has it."""
    known = registry.versions(version.model)
    before = next((each for each in known if each.number == held), None)
    score = score_of(version, gate.suite, gate.metric, registry)
    before_score = None if before is None else score_of(before, gate.suite, gate.metric, registry)
    objections = [
        f"{each.title} has no evaluation {gate.suite}; {how_to_measure(each, gate.suite)}"
        for each, found in ((version, score), (before, before_score))
        if each is not None and found is None
    ]
    if held is not None and before is None:
        objections.append(f"version {held}, which it follows, is no checkpoint of a run of ours")
    name = f"{gate.suite}/{gate.metric}"
    sign = -1.0 if gate.lower_is_better else 1.0
    if score and gate.at_least is not None and sign * (score.value - gate.at_least) < 0:
        objections.append(f"its {name} is {score.value:.6g}, which {gate.at_least:.6g} is asked of")
    if score and before and before_score:
        objections += _compared(score, before, before_score, gate, sign)
    return Verdict(version, before, score, before_score, tuple(objections))


def _compared(
    score: Score, before: Version, before_score: Score, gate: Gate, sign: float
) -> list[str]:
    name = f"{gate.suite}/{gate.metric}"
    if score.data and before_score.data and score.data != before_score.data:
        return [
            f"{name} of the two was measured on different data ({score.data}; {before_score.data}):"
            " measure both on the same, by tap eval RUN --suite SUITE --data FOLDER"
        ]
    if sign * (score.value - before_score.value) < -gate.tolerance:
        return [
            f"its {name} is {score.value:.6g}, and that of version {before.number}"
            f" {before_score.value:.6g}, of which {gate.tolerance:g} may be missing"
        ]
    return []


def _told(verdict: Verdict, gate: Gate, why: str | None) -> dict[str, str | float | None]:
    """What is kept of a promotion, in tags and in the run's event."""
    return {
        "measure": f"{kind_of(gate.suite)}/{gate.metric}",
        "value": verdict.score and verdict.score.value,
        "before": None if verdict.before is None else verdict.before.number,
        "before_value": verdict.before_score and verdict.before_score.value,
        "tolerance": gate.tolerance,
        "at_least": gate.at_least,
        "by": owner(),
        "why": why,
    }


def _write(verdict: Verdict, alias: str, gate: Gate, why: str | None, registry: Registry) -> None:
    version, now = verdict.version, utc_now()
    told = {key: text for key, text in _told(verdict, gate, why).items() if text is not None}
    tags = {f"{alias}.{key}": as_text(value) for key, value in told.items()}
    registry.replace_tags(version, f"{alias}.", {**tags, f"{alias}.since": now})
    registry.client.set_registered_model_alias(version.model, alias, version.number)
    if verdict.before is not None:
        registry.set_tags(verdict.before, {f"{alias}.until": now})
    if alias != CANDIDATE and CANDIDATE in version.aliases:
        registry.client.delete_registered_model_alias(version.model, CANDIDATE)


def _record(verdict: Verdict, alias: str, gate: Gate, why: str | None) -> None:
    """Tell the run, if it is still there."""
    version = verdict.version
    if version.run.status.is_file():
        told = {"model": version.model, "version": version.number, "alias": alias}
        objections = {"objections": list(verdict.objections)} if verdict.objections else {}
        events = EventLog(version.run.events, attempt=version.run.attempt)
        events.record("promoted", **told, **_told(verdict, gate, why), **objections)
