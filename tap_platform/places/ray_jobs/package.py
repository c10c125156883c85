"""What a run takes along to a Ray cluster, and what is started there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from tap_platform.config.profile import Profile
from tap_platform.places.place import CodePackage, Submission
from tap_platform.places.ray_jobs import enter
from tap_platform.places.ray_jobs.jobs import run_directory_of
from tap_platform.places.told import bill_variables

FILES = ".tap"
"""Folder of a command's files, beside its code."""
MOST_BYTES = 100 * 1024**2
"""What Ray's dashboard takes at once."""
_READABLE = 0o644 << 16
_AFTER_GRACE_SECONDS = 10
"""For a driver to tell its end, once its workers have ended."""


def write_working_directory(path: Path, files: Mapping[str, str], code: CodePackage | None) -> None:
    """Write the zip that becomes the working directory of driver and workers.

    The same content gives the same bytes, which Ray sends only once.

    Args:
        path: of the zip.
        files: what the command reads, name to text; they come to lie in the folder `FILES`.
        code: the caller's code, which comes before what the cluster has.

    Raises:
        ValueError: if it is larger than Ray takes.
    """
    path.write_bytes(code.zip if code else b"")
    with ZipFile(path, "a" if code else "w", ZIP_DEFLATED) as package:
        for name, text in sorted(files.items()):
            entry = ZipInfo(f"{FILES}/{name}")
            entry.external_attr = _READABLE
            entry.compress_type = ZIP_DEFLATED
            package.writestr(entry, text)
    if (size := path.stat().st_size) >= MOST_BYTES:
        raise ValueError(
            f"code and files have {size / 2**20:.0f} MiB, Ray takes less than"
            f" {MOST_BYTES / 2**20:.0f}: take large files out of git, or leave the code out and use"
            " what is installed on the cluster"
        )


def entry_point(submission: Submission) -> str:
    """The shell line of a run's driver. The program takes the shell's place, to be signalled alone.

    A driver ends at once where the storage is not there.
    """
    looks = ("python", "-m", enter.__name__, submission.job.storage) if submission.job else ()
    return f"exec {shlex.join([*looks, *submission.command])}"


def environment_of(submission: Submission, profile: Profile | None = None) -> dict[str, str]:
    """Variables of driver and workers.

    Ray kills a driver three seconds after its SIGTERM, unless the job itself says otherwise. Ours
    has the time for a checkpoint, and for what tracker, mirror and alerts lack then; one that ends
    sooner is not waited for.
    """
    job = submission.job
    if job is None:
        return {}
    patience = job.scale.grace_seconds + job.last_records_seconds
    return {
        "RAY_JOB_STOP_WAIT_TIME_S": str(round(patience) + _AFTER_GRACE_SECONDS),
        "TAP_RUN_DIRECTORY": run_directory_of(submission) or "",
        **bill_variables(submission, profile),
    }
