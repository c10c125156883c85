"""What was submitted from here: where each run is, and what it takes to submit it again."""

from __future__ import annotations

import base64
import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tap_platform.config.job import JobConfig
from tap_platform.config.profile import Profile
from tap_platform.places.place import CodePackage, Kind, Submission
from tap_platform.runs.directory import check_plain_name
from tap_platform.runs.files import locked, utc_now, write_atomic


class _Code(BaseModel):
    """A code package as JSON."""

    zip: str
    files: int
    revision: str | None
    changed: tuple[str, ...]

    @classmethod
    def of(cls, code: CodePackage) -> _Code:
        """The same as text."""
        zipped = base64.b64encode(code.zip).decode()
        return cls(zip=zipped, files=code.files, revision=code.revision, changed=code.changed)

    def package(self) -> CodePackage:
        """The package again."""
        zipped = base64.b64decode(self.zip)
        return CodePackage(zipped, self.files, self.revision, self.changed)


class Record(BaseModel):
    """One submission. Times are UTC in ISO 8601."""

    model_config = ConfigDict(frozen=True)

    run: str
    project: str
    kind: Kind
    place: str
    """The profile's name, or an address."""
    profile: Profile | None
    """As it was then; None for an address."""
    command: tuple[str, ...]
    files: dict[str, str]
    job: JobConfig | None
    code: _Code | None
    by: str
    submitted: str
    """When it was submitted, last."""
    stopped: str | None = None
    """When it was asked to end after that; None if it was not, from here."""

    @classmethod
    def of(cls, submission: Submission, place: str, profile: Profile | None) -> Record:
        """What is remembered of a submission."""
        return cls(
            run=submission.run,
            project=submission.project,
            kind=submission.kind,
            place=place,
            profile=profile,
            command=submission.command,
            files=dict(submission.files),
            job=submission.job,
            code=_Code.of(submission.code) if submission.code else None,
            by=submission.by,
            submitted=utc_now(),
        )

    def submission(self) -> Submission:
        """The submission, to hand it over once more."""
        return Submission(
            run=self.run,
            project=self.project,
            kind=self.kind,
            command=self.command,
            files=self.files,
            job=self.job,
            code=self.code.package() if self.code else None,
            by=self.by,
        )


class Submissions:
    """The records of this user on this computer, a file each."""

    def __init__(self, folder: Path | None = None) -> None:
        """Read nothing yet.

        Args:
            folder: of the records; by default `$XDG_STATE_HOME/tap_platform/submitted`, or below
                `~/.local/state`.
        """
        base = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
        self.folder = folder or base / "tap_platform" / "submitted"

    def write(self, record: Record) -> None:
        """Remember a submission; an earlier one of the run is forgotten."""
        make_private(self.folder)
        write_atomic(self._path(record.run), record.model_dump_json(indent=1).encode())

    @contextmanager
    def held(self, run: str) -> Iterator[None]:
        """Hold a run's record: of two that submit the run at once, one waits for the other."""
        path = self._path(run)
        make_private(self.folder)
        with locked(path.with_name(f".{run}.lock")):
            yield

    def forget(self, run: str) -> None:
        """Forget a submission that came to nothing."""
        self._path(run).unlink(missing_ok=True)

    def find(self, run: str) -> Record | None:
        """The submission of a run; None if it was not submitted from here.

        Raises:
            ValueError: if its file is broken.
        """
        path = self._path(run)
        return _read(path) if path.is_file() else None

    def all(self) -> Iterator[Record]:
        """Every submission that can be read, by name."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                yield _read(path)
            except ValueError:
                continue

    def like(self, run: str) -> list[str]:
        """Names that are like one."""
        names = [path.stem for path in self.folder.glob("*.json")]
        return difflib.get_close_matches(run, names, n=3, cutoff=0.4)

    def _path(self, run: str) -> Path:
        check_plain_name("run", run)
        return self.folder / f"{run}.json"


def make_private(folder: Path) -> None:
    """Make a folder that only its owner looks into: jobs and logs may tell what is not for all."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _read(path: Path) -> Record:
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(
            f"{path} is no record of a submission ({error.error_count()} faults): it is of another"
            " version of tap, or broken; delete it"
        ) from None
