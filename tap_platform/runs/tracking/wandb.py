"""Runs in Weights & Biases: online, or in files that `wandb sync` sends later."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tap_platform.config.tracking import TrackingConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.metrics import MetricsRecord
from tap_platform.runs.status import State
from tap_platform.runs.tracking.base import Session

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 30.0
FINISH_SECONDS = 60.0
SERVICE = "wandb-core"
"""The program that W&B starts to send for it."""


class WandbTracker:
    """One W&B run whose id is the run's name; its files lie in the run directory's `wandb/`.

    A parent run and its stages are one group, named after the parent.

    W&B keeps records in memory before it stores them, so a kill loses what the run directory has.
    Online, its server tells which step it lacks; offline, the file is written anew from the start.
    """

    name = "wandb"

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self._path = Path()
        self._run: wandb.Run | None = None

    def start(self, run: RunDirectory, run_id: str | None) -> Session:
        """Open the W&B run of this run's name.

        Raises:
            wandb.errors.UsageError: The mode is online and there is no key.
            wandb.errors.CommError: The mode is online and the server does not answer.
        """
        import wandb

        # Only the process-wide setting keeps it from asking a terminal for a key.
        wandb.setup(wandb.Settings(silent=True))
        self._path = run.path
        if self.config.wandb.mode == "offline":
            for stale in (run.path / "wandb").glob(f"offline-run-*-{run.name}"):
                shutil.rmtree(stale)
        self._run = wandb.init(
            id=run_id or run.name,
            name=run.name,
            project=run.project,
            group=_group(run),
            entity=self.config.wandb.entity,
            dir=run.path,
            mode=self.config.wandb.mode,
            resume="allow",
            reinit="create_new",
            tags=[f"{key}:{value}" for key, value in self.config.tags.items()],
            settings=_settings(),
        )
        self._run.define_metric("*", step_metric="step")
        return Session(self._run.id, next_step=self._run.step)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Set the run's config; the last value of a name wins."""
        self._open.config.update(dict(params), allow_val_change=True)

    def log_metrics(self, records: Sequence[MetricsRecord]) -> None:
        """Log measures over `step`."""
        for record in records:
            self._log(record.named_values, record.step)

    def log_picture(self, path: Path, step: int | None) -> None:
        """Log a picture of a step over `step`; one of the whole run is kept as a file."""
        import wandb

        if step is None:
            self.log_file(path)
        else:
            name = path.stem.removesuffix(f"step-{step}").rstrip("-") or "picture"
            self._log({f"pictures/{name}": wandb.Image(str(path))}, step)

    def log_file(self, path: Path) -> None:
        """Copy a file to the run's files."""
        self._open.save(path, base_path=self._path, policy="now")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add to the run's config: W&B's own tags are single words."""
        self._open.config.update(dict(tags), allow_val_change=True)

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

    @property
    def _open(self) -> wandb.Run:
        assert self._run is not None, "start() comes first"
        return self._run

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        """W&B drops what comes late; such a record goes to the present row, at its own `step`."""
        self._open.log({**values, "step": step}, step=max(step, self._open.step))


def _group(run: RunDirectory) -> str | None:
    if parent := run.parent:
        return parent.name
    return run.name if run.pipeline.is_file() else None


def _settings() -> wandb.Settings:
    """Nothing of W&B's own: the driver's console, machine and code are not the training's."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        symlink=False,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_save_requirements=False,
    )
