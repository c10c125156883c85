"""Copies a run directory's small files to a store, so that they outlive their cluster.

`<url>/<project>/<run>/` holds the same files, and `mirror.json`, written last, which tells their
versions: whoever reads the copies (`runs.mirrored`) asks for it first, and then for what is new.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from datamodules.storage import Location, location, make_folder, read_bytes, write_bytes
from tap_platform.config.mirror import MirrorConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.passes import BackgroundPasses

INDEX = "mirror.json"
STATUS = "status.json"
_NOT_COPIED = frozenset({"checkpoints", "ray", "stop", INDEX})
"""At the top of a run directory: what is large, or only for the processes of the run."""
_MEGABYTE = 1_000_000


class Mirror(BackgroundPasses):
    """Keeps the copies up with a run directory.

    Whole files are copied, for stores have no other way. So that a log that grows for days does not
    go over the network again and again, a large file waits for longer after each copy.
    """

    def __init__(self, run: RunDirectory, config: MirrorConfig) -> None:
        """Copy nothing yet.

        Args:
            run: The run to follow.
            config: Where to, how often, and up to which size; it has a URL.

        Raises:
            ValueError: The URL's kind is unknown.
        """
        super().__init__(run, "mirror", config.interval)
        assert config.url is not None
        self.place = mirror_place(config.url, run.shelf, run.name)
        self._most_bytes = config.largest_megabytes * _MEGABYTE
        self._copied: dict[str, str] | None = None
        self._is_listed = True
        self._not_before: dict[str, float] = {}
        self._left_out: set[str] = set()

    def _pass(self) -> None:
        if self._copied is None:
            self._copied = read_index(self.place)
        for path in _files(self.run.path):
            with suppress(FileNotFoundError):  # it was there a moment ago
                self._copy_if_changed(path, self._copied)
        if not self._is_listed:
            write_bytes(self.place / INDEX, json.dumps(self._copied, indent=1).encode())
            self._is_listed = True

    def _copy_if_changed(self, path: Path, copied: dict[str, str]) -> None:
        name = path.relative_to(self.run.path).as_posix()
        stat = path.stat()
        version = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
        if copied.get(name) == version or not self._is_due(name, stat.st_size):
            return
        target = self.place / name
        make_folder(target.parent)
        write_bytes(target, path.read_bytes())
        copied[name] = version
        self._is_listed = False
        pause = self.interval * (stat.st_size // _MEGABYTE)
        self._not_before[name] = time.monotonic() + pause

    def _is_due(self, name: str, size: int) -> bool:
        if size > self._most_bytes:
            if name not in self._left_out:
                self._left_out.add(name)
                self._note("left_out", file=name, bytes=size)
            return False
        return self._is_last or time.monotonic() >= self._not_before.get(name, 0.0)


def mirror_place(url: str, shelf: str, run: str) -> Location:
    """Where the copies of a run lie.

    Args:
        url: the store.
        shelf: `PROJECT`; of a sweep, `PROJECT/sweeps`.
        run: its name.

    Raises:
        ValueError: The URL's kind is unknown.
    """
    return location(url) / shelf / run


def read_index(place: Location) -> dict[str, str]:
    """The version of each copied file, by its path in the run directory; empty before the first.

    Raises:
        OSError: The store does not answer.
        ValueError: What lies there is no index.
    """
    try:
        index = json.loads(read_bytes(place / INDEX))
    except FileNotFoundError:
        return {}
    if not isinstance(index, dict):
        raise ValueError(f"{place / INDEX} is no list of a run's files: delete it")
    return {str(name): str(version) for name, version in index.items()}


def _files(folder: Path) -> Iterator[Path]:
    """What is copied, the status last: it must not tell an end that the other copies lack.

    Names that begin with a dot are locks, or still being written; links lead to copied files.
    """
    for parent, folders, names in os.walk(folder):
        top = Path(parent) == folder
        left_out = _NOT_COPIED if top else frozenset()
        folders[:] = [name for name in folders if not name.startswith(".") and name not in left_out]
        paths = [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and name not in left_out and not (top and name == STATUS)
        ]
        yield from (path for path in sorted(paths) if not path.is_symlink())
    if (folder / STATUS).exists():
        yield folder / STATUS
