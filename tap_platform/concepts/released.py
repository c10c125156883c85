"""The concept files that TAP's authors released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.vocabulary import TEMPERATURE, Vocabulary
from tap_platform.models.array_pickle import load_array_pickle
from tap_platform.runs.files import sha256_of

SCALE_SPREAD = 0.01
"""How much columns may differ in length, as a share: they are unit vectors times one number."""


def read_released_concepts(path: str | Path) -> Vocabulary:
    """Read a pickle such as `merged_2560.pkl`, without running any code that it may hold.

    Such a file holds an array [D, V] and V names. A column is the unit embedding of a name times
    CLIP's logit scale; its inverse is the vocabulary's temperature.

    Raises:
        ValueError: if the file is broken, asks to run code, or holds anything else.
        FileNotFoundError: if there is no such file.
    """
    try:
        columns, names = _array_and_names(load_array_pickle(path))
        scale = _scale(columns)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a file of concepts: {error}") from error
    rows = np.ascontiguousarray(columns.T)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    provenance = {
        "file": Path(path).name,
        "file_sha256": sha256_of(Path(path)),
        TEMPERATURE: repr(1 / scale),
    }
    return Vocabulary(tuple(names), unit.astype(np.float32), "released", provenance)


def _array_and_names(content: Any) -> tuple[NDArray[np.float64], list[str]]:
    if not isinstance(content, list | tuple) or len(content) != 2:
        raise ValueError(f"it holds a {type(content).__name__}, not an array and a list of names")
    array, names = content
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError("its first part is not a matrix of floating numbers")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError("its second part is not a list of names")
    if array.shape[1] != len(names) or not names:
        raise ValueError(f"{len(names)} names for {array.shape[1]} columns: each needs one")
    if len(set(names)) != len(names):
        raise ValueError("a name stands in it twice")
    return array.astype(np.float64), list(names)


def _scale(columns: NDArray[np.float64]) -> float:
    """The one number that all columns are as long as."""
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise ValueError("it holds NaN, infinity, or a column of zeros")
    if np.ptp(lengths) > SCALE_SPREAD * lengths.mean():
        raise ValueError(
            f"its columns have lengths from {lengths.min():.4g} to {lengths.max():.4g},"
            " not one logit scale"
        )
    return float(lengths.mean())
