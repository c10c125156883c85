"""Pickles of numpy arrays, read without running any code that they may hold."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

_NUMBERS = re.compile(r"[<>=|]?[fiub]\d+")


def load_array_pickle(path: str | Path) -> Any:
    """Read a pickle of plain containers, texts, numbers and numpy arrays of numbers.

    Raises:
        UnpicklingError: if the file asks for anything else, such as to run code.
        Exception: what `pickle` raises for a file that is broken, which may be of any kind.
    """
    with Path(path).open("rb") as file:
        return _ArrayUnpickler(file).load()


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for `codecs.encode`, which would accept any codec; numpy names only this one."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it names the codec {encoding}")
    return text.encode("latin1")


def _dtype(name: object, _align: bool = False, _copy: bool = True) -> np.dtype[Any]:
    """Stands in for `numpy.dtype`: no objects, no texts, no structures whose sizes could lie.

    It is always a copy: the pickle goes on to set its state, such as the order of bytes.
    """
    if not isinstance(name, str) or not _NUMBERS.fullmatch(name):
        raise pickle.UnpicklingError(f"it holds an array of {name!r}, not an array of numbers")
    return np.dtype(name, copy=True)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and scalars in plain containers and refuses all else.

    Arrays are made by functions of numpy that have no public name: numpy's own answer to "how are
    you pickled?" names them. Files from before numpy 2 call their module `numpy.core`.
    """

    ADMITTED: ClassVar[dict[str, Any]] = {
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": _dtype,
        "numpy._core.multiarray._reconstruct": np.zeros(1).__reduce__()[0],
        "numpy._core.multiarray.scalar": np.float32(0).__reduce__()[0],
        "numpy._core.numeric._frombuffer": np.zeros(1).__reduce_ex__(5)[0],
        "_codecs.encode": _encode,
        "collections.OrderedDict": OrderedDict,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The admitted object of that name.

        Raises:
            UnpicklingError: if it is not admitted.
        """
        full_name = f"{module}.{name}".replace("numpy.core.", "numpy._core.")
        if full_name not in self.ADMITTED:
            raise pickle.UnpicklingError(
                f"it asks to run {module}.{name}; only numpy arrays are admitted"
            )
        return self.ADMITTED[full_name]
