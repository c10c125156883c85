"""The caller's code as a zip: files that git tracks, and nothing else.

What `.gitattributes` marks `export-ignore` (tests, pictures) stays at home, as in `git archive`.
"""

from __future__ import annotations

import io
import json
import stat
import subprocess
import zipfile
from pathlib import Path

from tap_platform.places.place import CodePackage

LARGEST = 100_000_000
"""Bytes of a package; most of what is larger is data, whose place is the storage."""
REVISION_FILE = ".tap-revision.json"
"""In the package's root: which commit it is, and what differs from it."""
_WANTED = ":(exclude,top,attr:export-ignore)"
_OLDEST = (1980, 1, 1, 0, 0, 0)


def pack_code(folder: Path, largest: int = LARGEST) -> CodePackage:
    """The tracked files of the repository around a folder, as they are now.

    Those marked `export-ignore` are left out. The same files make the same bytes, whenever and
    wherever they are packed.

    Args:
        folder: in the repository.
        largest: bytes that the zip may have.

    Raises:
        ValueError: if there is no repository, its files are too many, or a link leads out of it.
    """
    root = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
    names = sorted(filter(None, _git(root, "ls-files", "-z", "--", _WANTED).split("\0")))
    # Neither a submodule nor a file that was deleted without telling git can be read.
    files = [name for name in names if (root / name).is_file()]
    _check_links(root, files)
    _check_size(root, files, largest)
    changed = tuple(filter(None, _git(root, "diff", "--name-only", "-z", *_head(root)).split("\0")))
    revision = _revision(root)
    packed = _zip(root, files, revision, changed)
    if len(packed) > largest:
        raise ValueError(_too_large(root, files, f"its zip has {len(packed):,} bytes", largest))
    return CodePackage(packed, len(files), revision, changed)


def _zip(root: Path, files: list[str], revision: str | None, changed: tuple[str, ...]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        told = json.dumps({"revision": revision, "changed": changed}, indent=1)
        archive.writestr(_entry(REVISION_FILE, 0o644), told)
        for name in files:
            path = root / name
            executable = path.stat().st_mode & stat.S_IXUSR
            archive.writestr(_entry(name, 0o755 if executable else 0o644), path.read_bytes())
    return buffer.getvalue()


def _entry(name: str, mode: int) -> zipfile.ZipInfo:
    """A file's head without time and owner."""
    entry = zipfile.ZipInfo(name, _OLDEST)
    entry.external_attr = (stat.S_IFREG | mode) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _check_links(root: Path, files: list[str]) -> None:
    """Refuse what git does not track: a link is packed as what it leads to."""
    inside, git = root.resolve(), (root / ".git").resolve()
    for name in files:
        there = (root / name).resolve()
        if not there.is_relative_to(inside) or there.is_relative_to(git):
            raise ValueError(
                f"{name} in {root} is a link out of the repository, to {there}: a run would take"
                " along what git does not track; replace it by a file, or mark it export-ignore in"
                " .gitattributes"
            )


def _check_size(root: Path, files: list[str], largest: int) -> None:
    """Refuse what no compression makes small enough, before it is read."""
    total = sum((root / name).stat().st_size for name in files)
    if total > 20 * largest:
        raise ValueError(_too_large(root, files, f"its files have {total:,} bytes", largest))


def _too_large(root: Path, files: list[str], size: str, largest: int) -> str:
    by_size = sorted(files, key=lambda name: -(root / name).stat().st_size)[:3]
    shown = ", ".join(f"{name} ({(root / name).stat().st_size:,} bytes)" for name in by_size)
    return (
        f"the code in {root} is too large to take along: {size}, and {largest:,} are allowed; the"
        f" largest files are {shown}. Put data on the storage, mark what a run does not need"
        " in .gitattributes (`tests/** export-ignore`), or put the code into the image and submit"
        " with --code none"
    )


def _head(root: Path) -> list[str]:
    """What changes are counted from; a repository without a commit has nothing."""
    return ["HEAD"] if _revision(root) else []


def _revision(root: Path) -> str | None:
    try:
        return _git(root, "rev-parse", "--verify", "--quiet", "HEAD").strip()
    except ValueError:
        return None


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        raise ValueError("--code git needs git, which is not installed: --code none") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(
            f"{folder}: no git repository to take code from ({error.stderr.strip()}): call tap in"
            " one, or submit with --code none"
        ) from None
    return done.stdout
