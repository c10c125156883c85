"""Functions compiled to machine code that run beside other threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, without Python's lock, and keep the code for later processes.

    Kept code is made anew where the function's own file changes, and only there: compiled functions
    that call each other belong in one file. Where numba finds no folder for its cache that it may
    write to, each process compiles anew.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)
