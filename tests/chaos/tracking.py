"""A tracking server that can be away."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.chaos.cluster import Cluster
from tests.chaos.processes import Process

PORT = 5000


class TrackingServer:
    """MLflow's, as drivers reach it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.store = database_of(folder).parent
        self.store.mkdir(exist_ok=True)
        self.uri = f"http://{cluster.services}:{PORT}"
        self.process: Process | None = None

    def start(self) -> None:
        """Listen; what was told before is still known."""
        self.process = self.cluster.serve(
            "mlflow",
            "server",
            f"--backend-store-uri=sqlite:///{database_of(self.folder)}",
            f"--artifacts-destination={self.store}/artifacts",
            f"--host={self.cluster.services}",
            f"--port={PORT}",
            "--workers=1",
            log="tracking",
        )
        if not self.process.says("Application startup complete", seconds=120):
            raise RuntimeError(f"no tracking server: see {self.process.log}")

    def stop(self) -> None:
        """Be gone at once."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)


def database_of(folder: Path) -> Path:
    """Where the server keeps what it was told."""
    return folder / "tracking" / "mlflow.db"


def tracked_losses(database: Path, run: str) -> dict[int, float]:
    """The loss curve of a run, by its name, as the server would show it."""
    query = (
        "SELECT step, value FROM metrics JOIN runs USING (run_uuid)"
        " WHERE runs.name = ? AND metrics.key = 'train/loss'"
    )
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return dict(connection.execute(query, (run,)).fetchall())
