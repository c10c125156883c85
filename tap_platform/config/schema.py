"""The JSON schema of a job file: what an editor checks while a person writes one."""

from __future__ import annotations

from typing import Any

from tap_platform.config.job import JobConfig
from tap_platform.config.model import PRESETS


def job_schema() -> dict[str, Any]:
    """The schema of a job file, which says less and more than a resolved job.

    Less, for what a file leaves out may stand in the one that it extends: nothing is required.
    More, for `extends` and `model.preset` are gone once a job is resolved.
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
    return schema
