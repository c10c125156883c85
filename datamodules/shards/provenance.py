"""`dataset.json`: what a data set was made from, how, and the hashes of what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from datamodules.shards.index import INDEX_NAME, sha256

CARD_NAME = "dataset.json"


def is_made(folder: Path, source: str, settings: dict[str, Any]) -> bool:
    """Whether a folder holds the data set of these settings, complete.

    Raises:
        ValueError: if it holds a data set of another source or of other settings.
    """
    path = folder / CARD_NAME
    if not path.exists():
        return False
    try:
        card = orjson.loads(path.read_bytes())
        found = {"source": card["source"], **card["settings"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error!r}): remove {folder} to make it anew, or choose another"
            " folder"
        ) from error
    differences = [
        f"{name} is {found.get(name)} there and {wanted} here"
        for name, wanted in {"source": source, **settings}.items()
        if found.get(name) != wanted
    ]
    if differences:
        raise ValueError(
            f"{folder} holds another data set ({'; '.join(differences)}): choose another folder, or"
            " remove this one to make it anew"
        )
    return True


def write_card(
    folder: Path,
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
    (folder / CARD_NAME).write_bytes(orjson.dumps(card, option=orjson.OPT_INDENT_2))
