"""The pages that are shown now, made anew when runs have changed; and the same as files."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tap_platform.dashboard.collect import collect
from tap_platform.dashboard.pages import FIRST, Pages
from tap_platform.dashboard.run_files import files_of
from tap_platform.runs.files import write_atomic

FRESH_SECONDS = 10.0
"""Pages that are younger are shown as they are."""
_AT_ONCE = 8


class Site:
    """Pages that are served: whoever asks for old ones has new ones made, behind his back."""

    def __init__(self, storages: Sequence[str]) -> None:
        """Read everything once.

        Raises:
            ValueError: there is no such storage.
            OSError: a store does not answer.
        """
        self._storages = storages
        self._mlflow: str | None = None
        self._looking = threading.Lock()
        self._looked = time.monotonic()
        self.fault = ""
        """Why the last look failed; empty if it did not."""
        self.pages = self._ready(Pages(collect(storages)))

    @property
    def version(self) -> str:
        """Changes with what the pages show."""
        return self.pages.version

    def show_mlflow(self, address: str) -> None:
        """Link to MLflow's pages from now on."""
        self._mlflow = address
        with self._looking:
            self.pages = self._ready(Pages(self.pages.collected, address))

    def freshen(self) -> threading.Thread | None:
        """Look for changes in a thread, if the last look is old and none goes on."""
        is_fresh = time.monotonic() - self._looked < FRESH_SECONDS
        if is_fresh or not self._looking.acquire(blocking=False):
            return None
        thread = threading.Thread(target=self._look, name="dashboard", daemon=True)
        thread.start()
        return thread

    def _look(self) -> None:
        try:
            collected = collect(self._storages)
            if collected.version != self.pages.collected.version:
                self.pages = self._ready(Pages(collected, self._mlflow))
            self.fault = ""
        except (ValueError, OSError) as error:  # a store that is down now may be up again
            self.fault = str(error)
        finally:
            self._looked = time.monotonic()
            self._looking.release()

    @staticmethod
    def _ready(pages: Pages) -> Pages:
        """Make the first page before anybody asks for it."""
        pages.content(FIRST)
        return pages


def write_site(storages: Sequence[str], folder: Path) -> int:
    """Write all pages and their pictures; pictures that are there already are not drawn again.

    Args:
        storages: what they show.
        folder: made if it is not there; other files in it are left alone.

    Returns:
        How many pages there are.

    Raises:
        ValueError: there is no such storage, or the folder is a file.
        OSError: it cannot be written, or a store does not answer.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the pages")
    target = folder.absolute()
    pages = Pages(collect(storages), folder=target / "runs")
    for part in ("", "sweeps", "runs", "pictures"):
        (target / part).mkdir(parents=True, exist_ok=True)
    addresses = list(pages.addresses())
    with ThreadPoolExecutor(_AT_ONCE) as writers:
        for _ in writers.map(lambda address: _write(pages, address, target), addresses):
            pass
        for _ in writers.map(lambda slug: _write_pictures(pages, slug, target), _slugs(pages)):
            pass
    return sum(address.endswith(".html") for address in addresses)


def _slugs(pages: Pages) -> list[str]:
    return list(pages.collected.run_by_slug)


def _write(pages: Pages, address: str, folder: Path) -> None:
    content = pages.content(address)
    if content is not None:
        write_atomic(folder / address, content.body, durable=False)


def _write_pictures(pages: Pages, slug: str, folder: Path) -> None:
    own = folder / "pictures" / slug
    for pictures in files_of(pages.collected.run_by_slug[slug]).pictures.values():
        for picture in pictures:
            if not (own / picture.address).exists():
                own.mkdir(exist_ok=True)
                _write(pages, f"pictures/{slug}/{picture.address}", folder)
