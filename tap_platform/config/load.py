"""From YAML files and dotted overrides to a validated job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from tap_platform.config.base import Section
from tap_platform.config.explain import explain
from tap_platform.config.job import JobConfig

S = TypeVar("S", bound=Section)

# A section that changes its kind shares no keys with the one that it replaces.
DISCRIMINATORS = ("source", "type", "preset")
SHORT_FORMS = {"init_from": "source"}
"""Sections of one kind that may be written as the value of one of their keys."""


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> JobConfig:
    """Read a job from YAML, follow `extends:`, apply `key.path=value` overrides and validate.

    Raises:
        ValueError: for a missing or broken file, a malformed override, or a config that does not
            validate; the message names the file, the dotted key and, for an unknown key, the
            nearest known one.
    """
    changes: dict[str, Any] = {}
    for override in overrides:
        changes = merge(changes, parse_override(override))
    return anchored(validate_job(merge(read_tree(Path(path)), changes), where=str(path)))


def anchored_at(job: JobConfig, folder: str) -> JobConfig:
    """The job with its relative paths below a folder of another computer, which is not looked at.

    The source of initial weights stays as it is written.
    """
    return _anchored(job, folder)


def anchored(job: JobConfig) -> JobConfig:
    """The job with absolute paths: workers stand elsewhere than the caller.

    The source of initial weights may be a path or a run's name: what exists is a path.
    """
    job = _anchored(job)
    if job.init_from is None or not Path(job.init_from.source).expanduser().exists():
        return job
    source = _absolute(job.init_from.source)
    return job.model_copy(update={"init_from": job.init_from.model_copy(update={"source": source})})


def _anchored(section: S, folder: str | None = None) -> S:
    fields = {name: getattr(section, name) for name in type(section).model_fields}
    changes = {
        name: _absolute(value, folder)
        if name in section.located
        else _anchored_below(value, folder)
        for name, value in fields.items()
    }
    return section.model_copy(update=changes)


def _anchored_below(value: Any, folder: str | None) -> Any:
    if isinstance(value, tuple):
        return tuple(_anchored_below(each, folder) for each in value)
    return _anchored(value, folder) if isinstance(value, Section) else value


def _absolute(path: str | None, folder: str | None = None) -> str | None:
    if path is None or "://" in path:
        return path
    if folder is not None:
        return str(PurePosixPath(folder, path))
    return str(Path(path).expanduser().absolute())


def validate_job(tree: Mapping[str, Any], where: str) -> JobConfig:
    """Validate a plain tree; `where` names it in error messages.

    Raises:
        ValueError: with one line for every fault.
    """
    try:
        return JobConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError(explain(error, JobConfig, where)) from None


def read_tree(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read one YAML file merged over the files that it extends, without validation."""
    resolved = path.resolve()
    if resolved in seen:
        chain = " -> ".join(str(p) for p in (*seen, resolved))
        raise ValueError(f"{path}: `extends:` runs in a circle: {chain}")
    try:
        tree = yaml.safe_load(resolved.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); is the path right?") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: holds {type(tree).__name__}, expected keys and values")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ValueError(f"{path}: extends: takes the path of one YAML file")
    return merge(read_tree(resolved.parent / base, (*seen, resolved)), tree)


def read_tree_over_base(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file whose `base` is a job document, which may extend a job file.

    Args:
        path: the file; `base.extends` is relative to it.
        overrides: `key.path=value`, laid over the whole.

    Raises:
        ValueError: for a missing or broken file, or a malformed override.
    """
    tree = read_tree(path)
    if isinstance(base := tree.get("base"), dict) and isinstance(base.get("extends"), str):
        below = {key: value for key, value in base.items() if key != "extends"}
        tree["base"] = merge(read_tree(path.parent / base["extends"]), below)
    for override in overrides:
        tree = merge(tree, parse_override(override))
    return tree


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `change` over `base`, section by section; neither is altered."""
    merged = dict(base)
    for key, value in change.items():
        below = merged.get(key)
        if key in SHORT_FORMS and isinstance(below, str):
            below = {SHORT_FORMS[key]: below}
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            same_kind = key in SHORT_FORMS or all(
                d not in value or d not in below or value[d] == below[d] for d in DISCRIMINATORS
            )
            merged[key] = merge(below, value) if same_kind else dict(value)
        else:
            merged[key] = value
    return merged


def parse_override(text: str) -> dict[str, Any]:
    """Turn `optimizer.lr=3e-4` into a nested tree; the value is YAML.

    Raises:
        ValueError: if there is no `=`, or an empty key.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ValueError(f"override {text!r}: expected key=value, such as optimizer.lr=3e-4")
    try:
        tree: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"override {text!r}: {value!r} is not a YAML value") from None
    for part in reversed(parts):
        tree = {part: tree}
    return dict(tree)
