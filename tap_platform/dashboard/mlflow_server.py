"""MLflow's own server beside the pages, on the database that the runs' tracker writes."""

from __future__ import annotations

import base64
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from tap_platform.dashboard.access import USER, in_url
from tap_platform.runs.directory import local_path

DATABASE = "mlflow.db"
USERS = "mlflow-users.db"
"""In the storage: whom MLflow knows, under --auth."""
START_SECONDS = 120.0
_LAST_LINES = 5
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PYTHONUNBUFFERED": "1",
}


def storage_with_mlflow(storages: Sequence[str]) -> Path | None:
    """The first storage on this computer that the runs' tracker has written a database to."""
    local = [local_path(storage) for storage in storages if "://" not in storage]
    return next((place for place in local if (place / DATABASE).is_file()), None)


class MlflowServer:
    """One process of `mlflow server`, which ends when this one does."""

    def __init__(self, storage: Path, host: str, port: int, password: str | None) -> None:
        """Start nothing yet.

        Args:
            storage: the folder with the database and the artifacts.
            host: where to listen.
            port: the same.
            password: of the user `admin`; None to ask for nothing.
        """
        self._storage, self._host, self.port = storage, host, port
        self._password = password
        self._folder = tempfile.TemporaryDirectory(prefix="tap-mlflow-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers on this computer."""
        own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://{in_url(own)}:{self.port}"

    def start(self, told: Callable[[str, bool], None]) -> None:
        """Start it, and tell in a thread how that went: in words, and whether it answers.

        Raises:
            ValueError: MLflow, or what it needs to ask for passwords, is not installed.
        """
        if importlib.util.find_spec("mlflow") is None:
            raise ValueError("MLflow is not installed: pip install mlflow")
        if self._password is not None and importlib.util.find_spec("flask_wtf") is None:
            raise ValueError("MLflow asks for passwords by Flask-WTF: pip install 'mlflow[auth]'")
        log = self._log.open("wb")
        with log:
            self._process = subprocess.Popen(
                self._command(),
                env={**os.environ, **_QUIET, **self._secrets()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder.name,
                start_new_session=True,
            )
        threading.Thread(target=lambda: told(*self._watch()), name="mlflow", daemon=True).start()

    def stop(self) -> None:
        """End it and all its processes."""
        if self._process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(self._process.pid, number)
                    self._process.wait(10)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue
        self._folder.cleanup()

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "mlflow.log"

    def _command(self) -> list[str]:
        artifacts = self._storage / "mlflow-artifacts"
        return [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", f"sqlite:///{self._storage / DATABASE}"),
            *("--artifacts-destination", artifacts.as_uri()),
            *("--host", self._host, "--port", str(self.port), "--workers", "1"),
            *([] if self._password is None else ["--app-name", "basic-auth"]),
        ]

    def _secrets(self) -> dict[str, str]:
        """What its environment tells under --auth: no command line shows a password."""
        if self._password is None:
            return {}
        users = self._storage / USERS
        users.touch(mode=0o600)
        config = Path(self._folder.name) / "users.ini"
        config.write_text(
            "[mlflow]\ndefault_permission = READ\n"
            f"database_uri = sqlite:///{users}\nadmin_username = {USER}\n"
        )
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_USERNAME": USER,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self._password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(32),
        }

    def _watch(self) -> tuple[str, bool]:
        """Wait until it answers, or ends."""
        assert self._process is not None
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                return f"MLflow has ended: {self._last_words()}", False
            if self._status("/health") == 200:
                return self._knows_password()
            time.sleep(0.5)
        return f"MLflow has not answered for {START_SECONDS:g} s: {self._last_words()}", False

    def _knows_password(self) -> tuple[str, bool]:
        if self._password is None:
            return self.url, True
        known = self._status(f"/api/2.0/mlflow/users/get?username={USER}")
        if known == 200:
            return f"{self.url} (user {USER}, the same password)", True
        return (
            f"{self.url}; it keeps another password of {USER} in {self._storage / USERS}: take that"
            " one, or delete the file and start again"
        ), True

    def _status(self, path: str) -> int | None:
        """The status of an answer; None where there is none."""
        asked = urllib.request.Request(f"{self.url}{path}")
        if self._password is not None:
            pair = base64.b64encode(f"{USER}:{self._password}".encode()).decode()
            asked.add_header("Authorization", f"Basic {pair}")
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return "\n".join(lines[-_LAST_LINES:]) or "it says nothing"
