"""What a run is made of: the code's revision, the packages, the host, the command, the data."""

from __future__ import annotations

import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tap_platform.runs.prices import owner

MAIN_PACKAGES = (
    "tap-platform",
    "torch",
    "torchvision",
    "lightning",
    "ray",
    "deepspeed",
    "numpy",
    "numba",
    "mlflow",
    "wandb",
)


@dataclass(frozen=True)
class Provenance:
    """Enough to make a run again."""

    git_revision: str | None
    """The commit that was checked out; None outside a checkout."""
    git_dirty: bool | None
    """Whether files differed from that commit; None outside a checkout."""
    packages: dict[str, str]
    """Versions of the main packages that are installed."""
    python: str
    """Version of Python."""
    host: str
    """Host of the driver."""
    command: list[str]
    """The command line."""
    owner: str = ""
    """Who answers for the run, `user@host`."""
    config_hash: str | None = None
    """Hash of the resolved config."""
    data_hash: str | None = None
    """Hash of the index of all training samples."""
    data: dict[str, str] | None = None
    """Hash of the training samples of each data set, by its folder, and of the concepts."""

    def to_json(self) -> dict[str, Any]:
        """A value for `provenance.json`."""
        return asdict(self)


def collect(
    folder: Path | None = None,
    *,
    config_hash: str | None = None,
    data_hash: str | None = None,
    data: dict[str, str] | None = None,
) -> Provenance:
    """Look around; imports none of the packages.

    Args:
        folder: A folder of the checkout; by default that of the code which runs, wherever the
            caller stands, if it is in one.
        config_hash: Hash of the resolved config.
        data_hash: Hash of the index of all training samples.
        data: Hash of the training samples of each data set, and of the concepts.
    """
    folder = folder or _checkout_of(Path(__file__))
    revision = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return Provenance(
        git_revision=revision,
        git_dirty=bool(changes) if revision is not None else None,
        packages=_versions(),
        python=platform.python_version(),
        host=socket.gethostname(),
        command=sys.argv,
        owner=owner(),
        config_hash=config_hash,
        data_hash=data_hash,
        data=data,
    )


def _checkout_of(code: Path) -> Path | None:
    """The folder of a file that git tracks; a package inside another checkout is not tracked."""
    tracked = _git(code.parent, "ls-files", "--error-unmatch", code.name)
    return code.parent if tracked is not None else None


def _git(folder: Path | None, *arguments: str) -> str | None:
    if folder is None:
        return None
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {}
    for name in MAIN_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def tags_of(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The labels that a tracker shows of a `provenance.json`."""
    tags = {
        "git.revision": provenance["git_revision"],
        "git.dirty": provenance["git_dirty"],
        "config.hash": provenance["config_hash"],
        "data.hash": provenance["data_hash"],
        "host": provenance["host"],
        "python": provenance["python"],
        "command": shlex.join(provenance["command"]),
        **{f"package.{name}": number for name, number in provenance["packages"].items()},
    }
    return {key: str(value) for key, value in tags.items() if value is not None}
