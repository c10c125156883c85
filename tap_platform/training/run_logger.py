"""Lightning's records, written to the run directory."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from tap_platform.runs.metrics import MetricsWriter


class RunLogger(Logger):
    """Append every record to `metrics.jsonl`; trackers follow that file by themselves."""

    def __init__(self, writer: MetricsWriter) -> None:
        super().__init__()
        self.writer = writer

    @property
    def name(self) -> str:
        """Lightning names a logger; the run directory has the run's name."""
        return "run"

    @property
    def version(self) -> str:
        """One run, one file."""
        return "0"

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write one record; the recipe logs the step it belongs to as `step`."""
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        held_out = all(name.startswith("val/") for name in values)
        plain = {name.removeprefix("val/"): value for name, value in values.items()}
        self.writer.write(int(step or 0), plain, kind="val" if held_out else "train")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """Nothing: `config.json` holds the whole job."""
