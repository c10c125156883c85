"""The head of the page: what the run is, told in words."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Any, NamedTuple

from tap_platform.report.records import RunRecords

MEASURED_LATER = "eval_"
"""How the kinds of metrics begin that are no part of training."""


class Fact(NamedTuple):
    """One line of the head."""

    label: str
    value: str
    more: str = ""
    """In small print."""


def facts_of(records: RunRecords) -> list[Fact]:
    """Everything that is known about a run, in reading order; what is not known is left out."""
    found = (
        *_recipe(records),
        *_model(records),
        *_weights(records),
        *_steps(records),
        *_time(records),
        *_workers(records),
        *_data(records),
        *_code(records),
    )
    return list(found)


def _recipe(records: RunRecords) -> Iterator[Fact]:
    if recipe := records.config.get("recipe"):
        yield Fact("recipe", recipe_in_words(recipe))
    if records.pipeline:
        yield Fact("pipeline", records.pipeline, "this run is one of its stages")


def recipe_in_words(recipe: Mapping[str, Any]) -> str:
    """What a recipe optimizes, from its section of the config."""
    objective = recipe.get("objective", {})
    targets = [
        word
        for word, weight in (("masks", "segmentation_weight"), ("concepts", "concept_weight"))
        if objective.get(weight, 1)
    ]
    if recipe.get("type") == "tap_pretrain":
        return f"pre-training on {' and '.join(targets) or 'nothing'}"
    if recipe.get("type") != "tap_caption":
        return str(recipe.get("type", "unknown"))
    if recipe.get("train") == "all":
        return f"full fine-tuning on {', '.join(targets)} and captions"
    caption = recipe.get("caption", {})
    token = caption.get("token", "semantic")
    cue = "box" if caption.get("prompt", "box") == "box" else "points in the predicted mask"
    return f"partial fine-tuning: the text decoder alone, by the {token} token of the {cue}"


def _model(records: RunRecords) -> Iterator[Fact]:
    parts = records.plan.get("parameters", {})
    side = records.config.get("model", {}).get("image_size")
    if parts:
        trained = records.plan.get("trained_parameters", 0)
        size = f"{sum(parts.values()) / 1e6:,.2f} million parameters"
        frame = f"frames of {side} x {side} pixels" if side else ""
        yield Fact("model", size, f"{trained / 1e6:,.2f} million of them trained; {frame}")


def _weights(records: RunRecords) -> Iterator[Fact]:
    first = records.initial_weights
    mae = records.config.get("recipe", {}).get("mae_weights")
    if first:
        step = first.get("step")
        origin = str(first.get("origin") or first.get("source"))
        told = origin if step is None or "step" in origin else f"{origin}, step {step}"
        digest = f"sha256 {str(first.get('sha256', ''))[:16]}"
        yield Fact("weights from", told, "; ".join(filter(None, (digest, first.get("note")))))
    elif mae:
        yield Fact("weights from", str(mae), "the image encoder; the rest is random")
    elif records.config:
        yield Fact("weights from", "random ones", f"seed {records.config.get('seed', 0)}")


def _steps(records: RunRecords) -> Iterator[Fact]:
    status, batch = records.status, records.plan.get("batch", {}).get("global_batch")
    told = f"{status.step:,}" + (f" of {status.max_steps:,}" if status.max_steps else "")
    yield Fact("steps", told, f"{batch:,} images a step" if batch else "")


def _time(records: RunRecords) -> Iterator[Fact]:
    spans = _spans(records)
    seconds = sum((end - start).total_seconds() for start, end in spans.values())
    more = f"in {len(spans)} attempts" if len(spans) > 1 else ""
    yield Fact("started", f"{datetime.fromisoformat(records.status.started):%d %B %Y, %H:%M} UTC")
    if spans:
        yield Fact("trained for", duration(seconds), more)


def _spans(records: RunRecords) -> dict[int, tuple[datetime, datetime]]:
    """When each attempt's first and last sign of life was; later evaluations do not count."""
    signs = [(e["attempt"], e["time"]) for e in records.events if {"attempt", "time"} <= e.keys()]
    signs += [
        (measured.attempt, measured.time)
        for measured in records.metrics
        if not measured.kind.startswith(MEASURED_LATER)
    ]
    spans: dict[int, tuple[datetime, datetime]] = {}
    for attempt, time in signs:
        moment = datetime.fromisoformat(time)
        start, end = spans.get(attempt, (moment, moment))
        spans[attempt] = min(start, moment), max(end, moment)
    return spans


def duration(seconds: float) -> str:
    """A time in the two units that matter: `2 h 5 min`, `6 min 14 s`, `9 s`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _workers(records: RunRecords) -> Iterator[Fact]:
    scale = records.config.get("scale", {})
    count = records.status.world_size or scale.get("workers")
    if count:
        told = (str(scale.get(key, "auto")) for key in ("strategy", "device"))
        yield Fact("workers", f"{count:,}", ", ".join(word for word in told if word != "auto"))


def _data(records: RunRecords) -> Iterator[Fact]:
    data = records.config.get("data", {})
    shares = records.plan.get("data") or []
    for share in shares:
        samples, epochs = share.get("samples"), share.get("epochs")
        told = [f"{samples:,} samples"] if samples is not None else []
        told += [f"{epochs:.3g} epochs"] if epochs is not None else []
        yield Fact("data", PurePath(share["folder"]).name, ", ".join(told))
    if data and not shares:
        folders = [part["path"] for part in data.get("mixture", ())] or [data.get("path", "")]
        for folder in folders:
            yield Fact("data", PurePath(folder).name, str(data.get("source", "")))


def _code(records: RunRecords) -> Iterator[Fact]:
    made_of = records.provenance
    if revision := made_of.get("git_revision"):
        dirty = "with changes that are not committed" if made_of.get("git_dirty") else ""
        yield Fact("code", revision[:12], dirty)
    if command := made_of.get("command"):
        yield Fact("command", shlex.join(command))
