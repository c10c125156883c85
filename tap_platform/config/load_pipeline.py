"""From a pipeline's YAML file and overrides to validated stages."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tap_platform.config.base import Section
from tap_platform.config.explain import explain
from tap_platform.config.job import JobConfig
from tap_platform.config.load import anchored, merge, parse_override, read_tree, validate_job
from tap_platform.config.pipeline import (
    ALL,
    SHARED,
    EvaluationStage,
    JobStage,
    PipelineConfig,
    PipelineDocument,
    means_stage,
)

S = TypeVar("S", bound=Section)
Tree = dict[str, Any]


def is_pipeline(path: str | Path) -> bool:
    """Whether a YAML file holds a pipeline, and not a job.

    Raises:
        ValueError: if the file is missing or broken.
    """
    return "stages" in read_tree(Path(path))


def load_pipeline(path: str | Path, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Read a pipeline from YAML, lay each stage over `base`, apply overrides and validate.

    Args:
        path: the file; `extends:` in `base` and in stages is relative to it.
        overrides: `STAGE.key.path=value` for one stage, `all.key.path=value` for every one that
            trains; `name`, `project` and `storage` of the pipeline go without a stage.

    Raises:
        ValueError: for a missing or broken file, a malformed override, or stages that do not
            validate, with one line for every fault, of whichever stage.
    """
    path = Path(path)
    changes: Tree = {}
    for override in overrides:
        changes = merge(changes, parse_override(override))
    tree = merge(read_tree(path), {key: changes.pop(key) for key in SHARED if key in changes})
    document = _document(tree, path)
    _check_overrides(changes, [str(stage.get("name")) for stage in document.stages])
    stages, faults = [], []
    for number, written in enumerate(document.stages, start=1):
        name = written.get("name")
        where = f"{path}: stage {name or number}"
        own = [written, changes.get(ALL, {}), changes.get(str(name), {})]
        try:
            stages.append(_stage(document, own, where, path.parent))
        except ValueError as fault:
            faults.append(str(fault))
    if faults:
        raise ValueError("\n".join(faults))
    shared = {
        "name": document.name,
        "project": document.project,
        "storage": _absolute(document.storage),
    }
    return _valid(PipelineConfig, {**shared, "stages": stages}, str(path))


def _document(tree: Tree, path: Path) -> PipelineDocument:
    if "stages" not in tree:
        raise ValueError(f"{path}: has no `stages`: a job is trained with tap train {path}")
    for key in tree:
        if key in JobConfig.model_fields and key not in PipelineDocument.model_fields:
            raise ValueError(f"{path}: {key!r} is of a job: it goes in `base`, or in a stage")
    return _valid(PipelineDocument, tree, str(path))


def _check_overrides(changes: Tree, names: Sequence[str]) -> None:
    known = (*names, ALL)
    for head, change in changes.items():
        if head not in known:
            near = difflib.get_close_matches(head, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            raise ValueError(f"override of {head!r}, which is no stage; {hint}")
        if not isinstance(change, dict):
            raise ValueError(f"override {head}={change}: expected {head}.key=value")


def _stage(
    document: PipelineDocument, own: Sequence[Tree], where: str, folder: Path
) -> JobStage | EvaluationStage:
    """One stage, validated.

    Args:
        document: the whole file.
        own: what is written in it, the overrides of all jobs, and its own.
        where: names it in error messages.
        folder: what `extends:` is relative to.
    """
    written, of_all, of_it = own
    if "evaluate" in written:
        stage = _valid(EvaluationStage, merge(written, of_it), where)
        data = stage.evaluate.data
        return stage.replaced(
            evaluate=stage.evaluate.replaced(data=None if data is None else _absolute(data))
        )
    if "name" not in written:
        raise ValueError(f"{where}: 'name' is missing")
    layers = [document.base, written, of_all, of_it]
    tree: Tree = {}
    for layer in layers:
        _refuse_shared(layer, where)
        tree = merge(tree, _extended(layer, folder, where))
    shared = {
        "name": f"{document.name}-{written['name']}",
        "project": document.project,
        "storage": document.storage,
    }
    job = validate_job({**tree, **shared}, where)
    return _valid(JobStage, {"name": written["name"], "job": _anchored(job)}, where)


def _anchored(job: JobConfig) -> JobConfig:
    """The job with absolute paths; a file that is called like a stage is not meant."""
    located = anchored(job)
    if job.init_from is not None and means_stage(job.init_from.source):
        return located.model_copy(update={"init_from": job.init_from})
    return located


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _refuse_shared(tree: Tree, where: str) -> None:
    """Runs of a pipeline lie together; what the job files that it extends say of it is not read."""
    for key in ("project", "storage"):
        if key in tree:
            raise ValueError(f"{where}: {key!r} goes beside `stages`: their runs lie together")


def _extended(document: Tree, folder: Path, where: str) -> Tree:
    """A job document inside a pipeline's file, laid over the file that it extends."""
    base = document.get("extends")
    if base is None:
        return document
    if not isinstance(base, str):
        raise ValueError(f"{where}: extends: takes the path of one YAML file")
    own = {key: value for key, value in document.items() if key != "extends"}
    return merge(read_tree(folder / base), own)


def _valid(kind: type[S], tree: Mapping[str, Any], where: str) -> S:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ValueError(explain(error, kind, where)) from None
