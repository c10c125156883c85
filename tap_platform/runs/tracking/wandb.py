"""Runs in Weights & Biases: online, or in files that `wandb sync` sends later."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs.metrics import MetricsRecord
from tap_platform.runs.status import State
from tap_platform.runs.tables import TableFile
from tap_platform.runs.tracking.base import DataSet, Picture, Session
from tap_platform.runs.tracking.shown import Shown

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 30.0
FINISH_SECONDS = 60.0
SERVICE = "wandb-core"
"""The program that W&B starts to send for it."""
TAGS = "tags."
"""What labels begin with in the run's config: W&B's own tags are single words."""
TAG_LENGTH = 64
HIGHEST = "highest_step"
"""A hidden measure: the highest step of all rows up to one."""
_NOT_IN_NAMES = re.compile(r"[^\w\-.]", re.ASCII)
_ADVICE = (
    (
        r"No API key|API key must|not configured",
        "W&B has no key: set WANDB_API_KEY, or `wandb login`",
    ),
    (r"\b401\b|[Uu]nauthorized|invalid API key", "W&B refuses the key: see to WANDB_API_KEY"),
    (
        r"\b40[34]\b|[Pp]ermission denied|entity .* not found",
        "W&B does not let this key write there: see to tracking.wandb.entity",
    ),
    (
        r"timed out|timeout|[Cc]onnection|dial tcp|unreachable",
        "W&B's server does not answer; records wait in the run directory",
    ),
)
"""What errors say, and what can be done."""


class WandbTracker:
    """One W&B run whose id is the run's name; its files lie in the run directory's `wandb/`.

    A parent run and its stages are one group, named after the parent; so are a sweep and its
    trials.

    W&B keeps records in memory before it stores them, so a kill loses what the run directory has.
    Online, its server tells which step it lacks; offline, the file is written anew from the start.
    """

    name = "wandb"

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self._path = Path()
        self._run: wandb.Run | None = None
        self._row = 0
        """Number of the row that is open, or comes next."""
        self._row_step: int | None = None
        """Of the row that is open."""
        self._row_time = 0.0
        self._highest = 0

    def start(self, shown: Shown, run_id: str | None) -> Session:
        """Open the W&B run of this run's name.

        Raises:
            wandb.errors.UsageError: The mode is online and there is no key.
            wandb.errors.CommError: The mode is online and the server does not answer.
        """
        import wandb

        # Only the process-wide setting keeps it from asking a terminal for a key.
        wandb.setup(wandb.Settings(silent=True))
        self._path = shown.path
        identity = run_id or (f"sweep-{shown.name}" if shown.kind == "sweep" else shown.name)
        if self.config.wandb.mode == "offline":
            for stale in (shown.path / "wandb").glob(f"offline-run-*-{identity}"):
                shutil.rmtree(stale)
        self._run = wandb.init(
            id=identity,
            name=shown.name,
            project=shown.project,
            group=shown.group,
            job_type=shown.job_type,
            entity=self.config.wandb.entity,
            dir=shown.path,
            mode=self.config.wandb.mode,
            resume="allow",
            reinit="create_new",
            tags=[f"{key}:{value}"[:TAG_LENGTH] for key, value in self.config.tags.items()],
            settings=_settings(shown.revision),
        )
        lacking = self._go_on(self._run)
        self._run.define_metric(HIGHEST, hidden=True)
        self._run.define_metric("*", step_metric="step")
        self.set_tags({"job_type": shown.job_type, **self.config.tags})
        return Session(self._run.id, next_step=lacking)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Set the run's config; the last value of a name wins."""
        self._open.config.update(dict(params), allow_val_change=True)

    def log_metrics(self, records: Sequence[MetricsRecord]) -> None:
        """Log measures over `step`, at their own times."""
        for record in records:
            self._log(record.named_values, record.step, record.time)

    def log_picture(self, picture: Picture) -> None:
        """Log a picture of a step over `step`."""
        import wandb

        self._log({f"pictures/{picture.name}": wandb.Image(str(picture.path))}, picture.step)

    def log_table(self, name: str, step: int, table: TableFile) -> None:
        """Log a table of a step."""
        import wandb

        columns, rows = list[str | int](table.columns), list[Iterable[Any]](table.data)
        self._log({f"tables/{name}": wandb.Table(columns=columns, data=rows)}, step)

    def log_file(self, path: Path, name: str) -> None:
        """Copy a file to the run's files."""
        root = path
        for _ in Path(name).parts:
            root = root.parent
        self._open.save(path, base_path=root, policy="now")

    def log_text(self, text: str, name: str) -> None:
        """Write one of the run's files."""
        folder = Path(self._open.dir)
        (folder / name).write_text(text, encoding="utf-8")
        self._open.save(folder / name, base_path=folder, policy="now")

    def log_data(self, data: Sequence[DataSet]) -> None:
        """Log each data set as an artifact that the run used: of a hash there is one version.

        What is kept of it is where it lies and its hash.
        """
        for each in data:
            self._use(each)

    def _use(self, data: DataSet) -> None:
        import wandb

        known = {"source": data.source, "sha256": data.sha256}
        name = _NOT_IN_NAMES.sub("-", data.name)
        artifact = wandb.Artifact(name, type="dataset", metadata=known)
        path = self._path / "wandb" / f"data-{name}-{data.sha256[:16]}.json"
        path.write_text(json.dumps(known, indent=1), encoding="utf-8")
        artifact.add_file(str(path), name="dataset.json", policy="immutable")
        # `use_artifact` does the same, but refuses to offline, and waits for the server.
        self._open._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add to the run's config, under `tags.`: W&B's own tags are single words."""
        named = {f"{TAGS}{key}": text for key, text in tags.items()}
        self._open.config.update(named, allow_val_change=True)

    def describe(self, text: str) -> None:
        """Set the run's notes."""
        self._open.notes = text

    def finish(self, state: State, time: str) -> None:
        """Close the run; all but `finished` count as failed. W&B keeps its own time.

        Offline, W&B's own process completes the file some milliseconds later.

        Raises:
            TimeoutError: The server did not take everything in time.
        """
        self._open.finish(exit_code=0 if state == "finished" else 1)
        self._run = None

    def close(self) -> None:
        """Close the run as it is."""
        if self._run is not None:
            run, self._run = self._run, None
            run.finish()

    def abandon(self) -> None:
        """End W&B's own process: at its exit Python would wait for it, and it for the server."""
        import psutil
        import wandb

        for process in psutil.Process().children():
            if process.name() == SERVICE:
                process.kill()
        with suppress(Exception, SystemExit):  # W&B tells that its process has failed
            wandb.teardown()

    def advice(self, error: Exception) -> str | None:
        """By the words of its messages."""
        if not type(error).__module__.startswith("wandb") and not isinstance(error, TimeoutError):
            return None
        return next((told for words, told in _ADVICE if re.search(words, str(error))), None)

    @property
    def _open(self) -> wandb.Run:
        assert self._run is not None, "start() comes first"
        return self._run

    def _log(self, values: Mapping[str, Any], step: int, time: str | None = None) -> None:
        """What is of one step is a row, at the time of its first record.

        W&B numbers rows upwards and drops what comes late: it gets a row after the others, and is
        shown at its own `step`.
        """
        if step != self._row_step:
            after = self._row if self._row_step is None else self._row + 1
            moment = datetime.fromisoformat(time) if time is not None else datetime.now(UTC)
            self._row, self._row_step = max(step, after), step
            self._row_time = moment.timestamp()
            self._highest = max(step, self._highest)
        row = {**values, "step": step, HIGHEST: self._highest}
        self._open.log({**row, "_timestamp": self._row_time}, step=self._row)

    def _go_on(self, run: wandb.Run) -> int:
        """Take up where W&B stands; the first step that it lacks.

        Late rows make its number of rows run ahead of the steps, until a gap in these takes it up.
        """
        self._row, self._row_step = run.starting_step, None
        newest, highest = run.summary.get("_step"), run.summary.get(HIGHEST)
        ahead = 0 if newest is None or highest is None else int(newest) - int(highest)
        lacking = max(0, run.starting_step - max(0, ahead))
        self._highest = max(0, lacking - 1)
        return lacking


def _settings(revision: str | None) -> wandb.Settings:
    """Nothing of W&B's own: the driver's console, machine and code are not the training's."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        git_commit=revision,
        save_code=False,
        symlink=False,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
    )
