"""`dataset.json`: what a data set was made from, how, and the hashes of what came out.

It is written last: a folder without it is no data set, but one whose making has not ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from datamodules.shards.entries import INDEX_NAME, sha256
from datamodules.storage import (
    Location,
    exists,
    list_files,
    make_folder,
    read_bytes,
    reason,
    write_bytes,
)

CARD_NAME = "dataset.json"
PARTS_NAME = ".parts"
"""Folder of the records of what is done, in a data set that is being made."""
BEGUN_NAME = "begun.json"
"""In it, what the data set is to become."""
LONGEST_SHOWN = 60
"""Characters of a setting that a message shows."""


def is_made(folder: Location, source: str, settings: dict[str, Any]) -> bool:
    """Whether a folder holds the data set of these settings, complete.

    Raises:
        ValueError: if it holds a data set of another source or of other settings.
    """
    path = folder / CARD_NAME
    if not exists(path):
        return False
    check_same(folder, path, source, settings)
    return True


def begin(folder: Location, source: str, settings: dict[str, Any]) -> None:
    """Claim a folder for a data set, or check that it was begun with these settings.

    Args:
        folder: path or URL of the folder; it is made if it is not there.
        source: what the data are to come from.
        settings: everything that its bytes depend on.

    Raises:
        ValueError: if it holds something else, or cannot be written to.
    """
    begun = folder / PARTS_NAME / BEGUN_NAME
    if exists(begun):
        check_same(folder, begun, source, settings)
        return
    try:
        if list_files(folder):
            raise ValueError(f"{folder} is not empty: choose a new folder")
        make_folder(begun.parent)
        record = {"source": source, "settings": settings}
        write_bytes(begun, orjson.dumps(record, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder}: {reason(error)}. Choose a folder that you may write to"
        ) from error


def check_ended(folder: Location) -> None:
    """Refuse a folder whose making was begun and has not ended.

    Raises:
        ValueError: telling how to go on.
    """
    begun = folder / PARTS_NAME / BEGUN_NAME
    if exists(begun) and not exists(folder / CARD_NAME):
        raise ValueError(
            f"{folder} is no data set yet: its making ({_source_in(begun)}) has not ended, for it"
            f" has no {CARD_NAME}. Call what makes it once more, with the same settings: it goes on"
            " where it stopped"
        )


def _source_in(begun: Location) -> str:
    try:
        return str(orjson.loads(read_bytes(begun))["source"])
    except (ValueError, KeyError, TypeError):
        return f"{begun} is broken"


def check_same(folder: Location, path: Location, source: str, settings: dict[str, Any]) -> None:
    """Refuse a folder for another source or other settings than it was made for.

    Args:
        folder: the folder.
        path: the JSON file in it that tells its `source` and `settings`.
        source: what the data is to come from.
        settings: everything that its bytes depend on.

    Raises:
        ValueError: naming every difference; or if the file is broken.
    """
    try:
        record = orjson.loads(read_bytes(path))
        found = {"source": record["source"], **record["settings"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error!r}): remove {folder} to make it anew, or choose another"
            " folder"
        ) from error
    here = {"source": source}
    if found["source"] == source:  # another source's settings would only be noise
        here = orjson.loads(orjson.dumps({**here, **settings}))
    differences = [
        _difference(name, found.get(name), wanted)
        for name, wanted in here.items()
        if found.get(name) != wanted
    ]
    if differences:
        raise ValueError(
            f"{folder} holds another data set ({'; '.join(differences)}): choose another folder, or"
            " remove this one to make it anew"
        )


def _difference(name: str, there: Any, here: Any) -> str:
    """Both values, unless they are hashes and lists that nobody reads."""
    if max(len(str(there)), len(str(here))) > LONGEST_SHOWN:
        return f"{name}: not the same there and here"
    return f"{name} is {there} there and {here} here"


def write_card(
    folder: Location,
    source: str,
    settings: dict[str, Any],
    priors: str,
    splits: Sequence[str],
    **facts: Any,
) -> None:
    """Write `dataset.json` of a folder whose shards are complete.

    Args:
        folder: the data set's folder.
        source: what the data came from.
        settings: everything that its bytes depend on.
        priors: where the concept priors come from.
        splits: folders of shards, each with its index.
        facts: what else is worth telling.
    """
    card = {
        "source": source,
        "settings": settings,
        "priors": priors,
        "indexes": {split: sha256(folder / split / INDEX_NAME) for split in splits},
        **facts,
    }
    write_bytes(folder / CARD_NAME, orjson.dumps(card, option=orjson.OPT_INDENT_2))
