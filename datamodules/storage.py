"""The seam between the data core and storage: local paths, and URLs of any fsspec file system.

`s3://`, `gs://`, `http://` and the like are read in ranges, again and with growing pauses where the
fault may pass (a time-out, a 503), and written in one piece. How a file system is reached (keys,
end points) comes from the environment, as fsspec and the cloud's own library read it. No URL ever
runs a program.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import urlsplit
from uuid import uuid4

from upath import UPath

from datamodules.cache_folder import draft_folder
from datamodules.remote import call, status_of
from tap_platform.config.secrets import NO_SECRETS, secret_in, without_secret

Location: TypeAlias = Path | UPath
"""A local path, or a URL that joins with `/` and has a `name` and a `parent` as a path has."""

BLOCK_BYTES = 8 << 20
"""Bytes of one request where a whole file is read piece by piece."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_WITHOUT_FOLDERS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https"})
_VERSIONS = ("size", "ETag", "etag", "mtime", "LastModified", "Last-Modified", "created")
_RANGE_NOT_SATISFIABLE = 416


def location(path: str | Location) -> Location:
    """A path or URL as something to give to the functions of this module.

    A path, or a `file://` URL, is a `pathlib.Path`; `~` is the home folder.

    Raises:
        ValueError: if the URL's kind is unknown or not installed, it holds a secret, or it is a
            pipe or a chain.
    """
    text = str(path)
    if secret_in(text):
        raise ValueError(f"{without_secret(text)}: {NO_SECRETS}")
    if text.startswith("pipe:") or ("://" in text and "::" in text):
        raise ValueError(f"{text}: pipes and chains of URLs are not opened; give a path or a URL")
    if "://" not in text:
        return path if isinstance(path, Path) else Path(text).expanduser()
    if not isinstance(path, str):
        return path
    protocol = text.partition("://")[0]
    if protocol in ("file", "local"):
        return Path(text.partition("://")[2])
    return _url(text, protocol)


def _url(text: str, protocol: str) -> UPath:
    from fsspec import get_filesystem_class

    try:
        get_filesystem_class(protocol)
        return UPath(text)
    except ImportError as error:
        package = _EXTRAS.get(protocol)
        advice = f"pip install 'tap-platform[{package}]'" if package else str(error)
        raise ValueError(f"{text}: {protocol}:// is not installed here: {advice}") from error
    except ValueError as error:
        raise ValueError(f"{text}: there are no {protocol}:// URLs ({error})") from error


def child(folder: Location, name: str) -> Location:
    """The file of that name in a folder; a name that is an absolute path or a URL stands alone.

    Raises:
        ValueError: as `check_name`, or if the name is a URL that is not opened.
    """
    check_name(folder, name)
    return location(name) if _is_elsewhere(name) else folder / name


def check_name(folder: Location, name: str) -> None:
    """Refuse a name, from a list of a folder's files, that leads where the list has no say.

    A list in a local folder is its owner's, and may name files anywhere. One in a store is somebody
    else's: it names files of that kind of store (of that server, for `http`), so that it leads
    neither to the disk of whoever reads it nor into the network behind.

    Raises:
        ValueError: telling where the name leads.
    """
    if not _is_elsewhere(name):
        if ".." in name.split("/"):
            raise ValueError(f"the name {name} leads out of the folder")
    elif not isinstance(folder, Path) and _store_of(name) != _store_of(str(folder)):
        raise ValueError(f"the name {name} leads out of the store, {folder}")


def _is_elsewhere(name: str) -> bool:
    return "://" in name or name.startswith(("/", "pipe:"))


def _store_of(url: str) -> tuple[str, str]:
    """The kind of store, and which server where a URL could name any."""
    scheme, host, *_ = urlsplit(url)
    return scheme, host if scheme in ("http", "https") else ""


def read_bytes(place: Location) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: if it cannot be read; FileNotFoundError if it is not there.
    """
    if isinstance(place, Path):
        return place.read_bytes()
    return bytes(call(place, "cat_file", place.path, size=BLOCK_BYTES))


def read_range(place: Location, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` (exclusive) of a file; fewer where the file ends before.

    Raises:
        OSError: if it cannot be read; FileNotFoundError if it is not there.
    """
    if isinstance(place, Path):
        with place.open("rb") as file:
            return os.pread(file.fileno(), stop - start, start)
    try:
        data = bytes(call(place, "cat_file", place.path, size=stop - start, start=start, end=stop))
    except OSError as error:
        if status_of(error) == _RANGE_NOT_SATISFIABLE:
            return b""
        raise
    if len(data) > stop - start:
        raise OSError("the server does not serve byte ranges")
    return data


def read_blocks(place: Location) -> Iterator[bytes]:
    """The bytes of a file from first to last, in blocks.

    Raises:
        OSError: if it cannot be read; FileNotFoundError if it is not there.
    """
    if isinstance(place, Path):
        with place.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
        return
    start, block = 0, b"-" * BLOCK_BYTES
    while len(block) == BLOCK_BYTES:
        block = read_range(place, start, start + BLOCK_BYTES)
        start += len(block)
        yield block


def write_bytes(place: Location, data: bytes) -> None:
    """Write a file in one step: whoever reads it finds the old bytes or the new ones.

    Raises:
        OSError: if it cannot be written.
    """
    if isinstance(place, Path):
        with atomic_file(place) as file:
            file.write(data)
    else:
        call(place, "pipe_file", place.path, data, size=len(data))


@contextmanager
def atomic_file(place: Location) -> Iterator[BinaryIO]:
    """A local file to write that lies at `place` when all is well, and nowhere when not.

    A draft of what goes to a URL lies in the cache folder: it is as large as the whole file.

    Raises:
        OSError: if it cannot be written.
    """
    beside = place.parent if isinstance(place, Path) else draft_folder()
    draft = beside / f".{place.name}.{uuid4().hex[:8]}.part"
    try:
        with draft.open("xb") as file:
            yield file
        if isinstance(place, Path):
            draft.replace(place)
        else:
            call(place, "put_file", str(draft), place.path, size=draft.stat().st_size)
    finally:
        draft.unlink(missing_ok=True)


def list_files(folder: Location, pattern: str = "*") -> list[Location]:
    """What lies in a folder under a name of that pattern, by name; nothing if it is not there.

    Raises:
        OSError: if the folder cannot be listed.
    """
    if isinstance(folder, Path):
        return sorted(folder.glob(pattern))
    folder.fs.invalidate_cache()
    try:
        paths = call(folder, "ls", f"{folder.path.rstrip('/')}/", detail=False)
    except FileNotFoundError:
        return []
    paths = [urlsplit(path).path if "://" in path else path for path in paths]
    names = {path.rstrip("/").rpartition("/")[2] for path in paths}
    return [folder / name for name in sorted(names) if name and fnmatchcase(name, pattern)]


def exists(place: Location) -> bool:
    """Whether a file or folder is there.

    Raises:
        OSError: if the file system does not say.
    """
    if isinstance(place, Path):
        return place.exists()
    try:
        _info(place)
    except FileNotFoundError:
        return False
    return True


def size_of(place: Location) -> int:
    """Bytes of a file.

    Raises:
        OSError: if the file system does not say; FileNotFoundError if it is not there.
    """
    if isinstance(place, Path):
        return place.stat().st_size
    size = _info(place)["size"]
    if size is None:
        raise OSError(f"{place}: the server does not tell the size of its files")
    return int(size)


def version_of(place: Location) -> str:
    """Something short that changes when a file does: size, time and tag, as far as they are told.

    It is empty if the file system tells nothing.

    Raises:
        OSError: if the file system does not say; FileNotFoundError if it is not there.
    """
    if isinstance(place, Path):
        status = place.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    info = _info(place)
    return " ".join(str(info[name]) for name in _VERSIONS if info.get(name) is not None)


def _info(place: UPath) -> dict[str, Any]:
    place.fs.invalidate_cache()
    info: dict[str, Any] = call(place, "info", place.path)
    return info


def make_folder(folder: Location) -> None:
    """Make a folder and those above it, where the file system has folders.

    Raises:
        OSError: if it cannot be made.
    """
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)
    elif folder.protocol not in _WITHOUT_FOLDERS:
        call(folder, "makedirs", folder.path, exist_ok=True)


def remove_tree(folder: Location) -> None:
    """Remove a folder, or a file, and all below it; nothing happens if it is not there.

    Raises:
        OSError: if it cannot be removed.
    """
    if isinstance(folder, Path):
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)
    elif exists(folder):
        call(folder, "rm", folder.path, recursive=True)


def reason(error: OSError | ValueError) -> str:
    """What the operating system says, without its number and path: the same on every machine."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Fill a local folder beside `folder` that takes its name when all is well, or vanishes.

    Yields:
        The folder to write in. Nobody ever sees `folder` half written.

    Raises:
        ValueError: if `folder` holds something already, or its parent cannot be written to.
    """
    target = Path(folder)
    draft = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
    try:
        if target.exists() and any(target.iterdir()):
            raise ValueError(f"{target} is not empty: choose a new folder")
        draft.mkdir(parents=True)
    except OSError as error:
        raise ValueError(
            f"cannot write to {target}: {reason(error)}. Choose a folder that you may write to"
        ) from error
    try:
        yield draft
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
