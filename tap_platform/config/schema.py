"""The JSON schemas of files that people write: what an editor checks meanwhile."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from tap_platform.config.job import JobConfig
from tap_platform.config.model import PRESETS
from tap_platform.config.pipeline import EvaluationStage, JobStage, PipelineDocument
from tap_platform.config.profile import Profile
from tap_platform.config.sweep import SweepConfig


def job_schema() -> dict[str, Any]:
    """The schema of a job file, which says less and more than a resolved job.

    Less, for what a file leaves out may stand in the one that it extends: nothing is required.
    More, for `extends`, `model.preset` and weights that are named by one word are gone once a job
    is resolved.
    """
    schema: dict[str, Any] = JobConfig.model_json_schema()
    sections = schema["$defs"]
    for section in (schema, *sections.values()):
        section.pop("required", None)
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "Job file that this one changes, relative to this one.",
    }
    sections["TapConfig"]["properties"]["preset"] = {
        "enum": list(PRESETS),
        "description": "Known set of sizes that the other keys change.",
    }
    for name in ("data", "recipe"):
        section = schema["properties"][name]
        section["anyOf"] = section.pop("oneOf")
    schema["properties"]["init_from"]["anyOf"].append({"type": "string"})
    return schema


def profile_schema() -> dict[str, Any]:
    """The schema of a profile file, which may leave out what the one that it extends says."""
    schema: dict[str, Any] = TypeAdapter(Profile).json_schema()
    for name in ("LocalProfile", "RayProfile", "KubernetesProfile"):
        place = schema["$defs"][name]
        place.pop("required", None)
        place["properties"]["extends"] = {
            "type": "string",
            "description": "Profile file that this one changes, relative to this one.",
        }
    schema["anyOf"] = schema.pop("oneOf")
    return schema


def sweep_schema() -> dict[str, Any]:
    """The schema of a sweep file, which may leave out what the one that it extends says."""
    schema: dict[str, Any] = SweepConfig.model_json_schema()
    sections = schema["$defs"]
    for section in (schema, *sections.values()):
        section.pop("required", None)
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "Sweep file that this one changes, relative to this one.",
    }
    scheduler = schema["properties"]["scheduler"]
    scheduler["anyOf"] = scheduler.pop("oneOf")
    job = job_schema()
    sections |= job.pop("$defs")
    base = schema["properties"]["base"]
    base.pop("additionalProperties")
    base |= {"$ref": "#/$defs/Job"}
    return {**schema, "$defs": {**sections, "Job": job}}


def pipeline_schema() -> dict[str, Any]:
    """The schema of a pipeline file: keys of jobs in `base` and in stages, or `evaluate`."""
    schema: dict[str, Any] = PipelineDocument.model_json_schema()
    job = job_schema()
    sections = job.pop("$defs")
    evaluation = EvaluationStage.model_json_schema()
    sections |= evaluation.pop("$defs")
    for shared in ("name", "project", "storage"):
        del job["properties"][shared]
    stage_name = JobStage.model_json_schema()["properties"]["name"]
    stage = {**job, "properties": {"name": stage_name, **job["properties"]}, "required": ["name"]}
    schema["properties"]["base"].pop("additionalProperties")
    schema["properties"]["base"] |= {"$ref": "#/$defs/Job"}
    schema["properties"]["stages"]["items"] = {
        "if": {"required": ["evaluate"]},
        "then": {"$ref": "#/$defs/EvaluationStage"},
        "else": {"$ref": "#/$defs/JobStage"},
    }
    named = {"Job": job, "JobStage": stage, "EvaluationStage": evaluation}
    return {**schema, "$defs": sections | named}
