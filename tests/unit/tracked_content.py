"""What MLflow's database and W&B's offline file hold of one run, in one form."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

from wandb_files import items, records_of, rows_of

from tap_platform.runs.tracking.base import as_text


class Content(NamedTuple):
    """All that a person could see of a run."""

    params: dict[str, str]
    metrics: dict[str, list[tuple[int, str]]]
    """Steps and values by name; values as text, so that NaN is NaN."""
    times: dict[str, list[float]]
    """When, by name, seconds since 1970."""
    pictures: dict[tuple[str, int], bytes]
    tables: dict[tuple[str, int], dict]
    files: dict[str, bytes]
    tags: dict[str, str]
    data: set[tuple[str, str, str]]
    note: str


def mlflow_content(client, run):
    """Of a run of MLflow's; a setting that changed has its last value."""
    run_id, tags = run.info.run_id, run.data.tags
    changed = {key[8:]: text for key, text in tags.items() if key.startswith("changed.")}
    points = {
        key: sorted(client.get_metric_history(run_id, key), key=lambda m: (m.step, m.timestamp))
        for key in run.data.metrics
    }
    files = _artifacts(client, run_id)
    return Content(
        params=run.data.params | changed,
        metrics={key: [(m.step, _number(m.value)) for m in found] for key, found in points.items()},
        times={key: [m.timestamp / 1000 for m in found] for key, found in points.items()},
        pictures={
            (found[1], int(found[2])): content
            for name, content in files.items()
            if (found := re.fullmatch(r"images/(.+)\+step\+(\d+)\+timestamp.*\.png", name))
        },
        tables={
            (found[1], int(found[2])): json.loads(content)
            for name, content in files.items()
            if (found := re.fullmatch(r"tables/(.+)-step-(\d+)\.json", name))
        },
        files={n: c for n, c in files.items() if not n.startswith(("images/", "tables/"))},
        tags={
            key: text
            for key, text in tags.items()
            if not key.startswith(("mlflow.", "changed.", "tap."))
        },
        data={
            (
                each.dataset.name,
                json.loads(each.dataset.source)["uri"],
                json.loads(each.dataset.profile)["sha256"],
            )
            for each in run.inputs.dataset_inputs
        },
        note=tags.get("mlflow.note.content", ""),
    )


def _artifacts(client, run_id, folder=None):
    from mlflow.artifacts import download_artifacts

    found = {}
    for file in client.list_artifacts(run_id, folder):
        if file.is_dir:
            found |= _artifacts(client, run_id, file.path)
        else:
            uri = f"{client.get_run(run_id).info.artifact_uri}/{file.path}"
            local = download_artifacts(uri, tracking_uri=client.tracking_uri)
            found[file.path] = Path(local).read_bytes()
    return found


def wandb_content(run):
    """Of the offline file of a run, which has ended."""
    rows, config = rows_of(run)
    config = {key: json.loads(text) for key, text in config.items() if not key.startswith("_")}
    (folder,) = (run.path / "wandb").glob("offline-run-*")
    metrics, times, pictures, tables = {}, {}, {}, {}
    for row in rows:
        values = {key: json.loads(text) for key, text in row.items() if not key.startswith("_")}
        step = int(values.pop("step"))
        del values["highest_step"]
        for key, value in values.items():
            kind, _, name = key.partition("/")
            if kind not in ("pictures", "tables"):
                metrics.setdefault(key, []).append((step, _number(value)))
                times.setdefault(key, []).append(float(row["_timestamp"]))
            elif name.endswith("/path"):
                content = (folder / "files" / value).read_bytes()
                name = name.removesuffix("/path")
                if kind == "pictures":
                    pictures[name, step] = content
                else:
                    table = json.loads(content)
                    tables[name, step] = {key: table[key] for key in ("columns", "data")}
    records = list(records_of(next(folder.glob("*.wandb"))))
    return Content(
        params={k: as_text(v) for k, v in config.items() if not k.startswith("tags.")},
        metrics={key: sorted(found, key=lambda point: point[0]) for key, found in metrics.items()},
        times={key: sorted(found) for key, found in times.items()},
        pictures=pictures,
        tables=tables,
        files=_files(folder / "files"),
        tags={k[5:]: v for k, v in config.items() if k.startswith("tags.")},
        data={
            (each.artifact.name, known["source"], known["sha256"])
            for each in records
            if each.HasField("artifact") and each.artifact.type == "dataset"
            for known in [json.loads(each.artifact.metadata)]
            if each.artifact.use_after_commit
        },
        note=next((r.run.notes for r in reversed(records) if r.HasField("run")), ""),
    )


def _files(folder):
    own = ("media/", "wandb-", "requirements.txt", "config.yaml", "output.log")
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in found.items() if not name.startswith(own)}


def _number(value):
    """JSON has no NaN and W&B writes words; databases have no infinity: the largest number."""
    words = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
    if isinstance(value, str):
        return words[value]
    return "inf" if value == sys.float_info.max else str(float(value))


def wandb_run_record(run):
    """What W&B knows the run by: group, job type, commit."""
    rows_of(run)
    (path,) = (run.path / "wandb").glob("offline-run-*/*.wandb")
    return next(record.run for record in records_of(path) if record.HasField("run"))


__all__ = ["Content", "items", "mlflow_content", "wandb_content", "wandb_run_record"]
