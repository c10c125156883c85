"""The files of a sweep: `<storage>/<project>/sweeps/<sweep>/`."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tap_platform.config.sweep import SweepConfig, validate_sweep
from tap_platform.runs.directory import RunDirectory, check_plain_name, local_path
from tap_platform.runs.files import read_json, write_json
from tap_platform.runs.status import RunStatus, write_status

FOLDER = "sweeps"
LINK = "sweep.json"
"""In a run's directory: the sweep and the trial that it is."""


@dataclass(frozen=True)
class SweepDirectory:
    """A folder with `sweep.json`, `trials.jsonl`, `status.json` and `events.jsonl`."""

    path: Path

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.path.name

    @property
    def runs(self) -> Path:
        """The folder of its project, which its trials' runs lie in."""
        return self.path.parent.parent

    @property
    def spec(self) -> Path:
        """The resolved sweep, JSON."""
        return self.path / "sweep.json"

    @property
    def trials(self) -> Path:
        """What happened to its trials, JSON lines."""
        return self.path / "trials.jsonl"

    @property
    def logs(self) -> Path:
        """Folder of what its trials' drivers printed."""
        return self.path / "logs"

    @property
    def report(self) -> Path:
        """Folder of what was made of it for people."""
        return self.path / "report"

    @property
    def as_run(self) -> RunDirectory:
        """The same folder with the files that it has in common with a run's."""
        return RunDirectory(self.path)

    def run(self, name: str) -> RunDirectory:
        """The run of a trial, which may not be there yet."""
        return RunDirectory(self.runs / name)

    def read_config(self) -> SweepConfig:
        """The sweep as it was started.

        Raises:
            ValueError: if its file is broken.
        """
        return validate_sweep(read_json(self.spec), str(self.spec))

    def write_config(self, config: SweepConfig) -> None:
        """Keep the sweep as it is from now on."""
        write_json(self.spec, config.model_dump(mode="json", by_alias=True))

    @classmethod
    def at(cls, storage: str | Path, project: str, name: str) -> SweepDirectory:
        """Where a sweep lies, or will lie.

        Raises:
            ValueError: if a name is not plain, or the storage is a URL.
        """
        check_plain_name("project", project)
        check_plain_name("sweep", name)
        return cls(local_path(storage) / project / FOLDER / name)

    def create(self, config: SweepConfig) -> None:
        """Make the folder of a new sweep.

        Raises:
            ValueError: if there is one of that name, or runs that its trials' would be.
        """
        if self.path.exists() and not (self.spec.exists() or self.trials.exists()):
            shutil.rmtree(self.path)  # It was killed while it was made, and holds nothing.
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise ValueError(self._taken()) from None
        others = sorted(self.runs.glob(f"{self.name}-t[0-9][0-9][0-9][0-9]*"))
        if others:
            self.path.rmdir()
            raise ValueError(
                f"{others[0]} is there, and trials of the sweep {self.name} would be named so:"
                " take another name, with name=…"
            )
        for folder in (self.logs, self.report):
            folder.mkdir()
        write_status(self.as_run.status, RunStatus())
        # The last one: a sweep without it was killed while it was made, and holds nothing.
        self.write_config(config)

    def _taken(self) -> str:
        return (
            f"there is a sweep {self.name} already, at {self.path}: go on with it by"
            f" tap sweep --resume {self.name}, or take another name, with name=…"
        )

    @classmethod
    def all(cls, storage: str | Path) -> Iterator[SweepDirectory]:
        """The sweeps of a storage, by project and name."""
        for spec in sorted(local_path(storage).glob(f"*/{FOLDER}/*/sweep.json")):
            yield cls(spec.parent)

    @classmethod
    def find(cls, storage: str | Path, name_or_path: str | Path) -> SweepDirectory:
        """The sweep of that folder, or of that name in the storage, `PROJECT/SWEEP` or `SWEEP`.

        Raises:
            ValueError: if there is none, or there are two in different projects.
        """
        path = Path(name_or_path).absolute()
        if (path / "sweep.json").is_file() and path.parent.name == FOLDER:
            return cls(path)
        project, _, name = str(name_or_path).rpartition("/")
        there = list(cls.all(storage))
        found = [each for each in there if each.name == name and project in ("", each.runs.name)]
        if len(found) == 1:
            return found[0]
        if found:
            both = " and ".join(f"{each.runs.name}/{name}" for each in found)
            raise ValueError(f"two projects have a sweep {name}: say {both}")
        names = [each.name for each in there]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {len(names)} others"
        raise ValueError(
            f"there is no sweep {str(name_or_path)!r} in {storage}: {hint}; one that lies elsewhere"
            " is named by the path of its directory"
        )
