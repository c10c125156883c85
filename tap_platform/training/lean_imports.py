"""Import Lightning without what a worker never uses.

Lightning imports TorchMetrics as a whole, and that imports every optional package that it finds
installed. Those are a fifth of the CPU time that a worker takes for its imports.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError

UNUSED = ("matplotlib", "scipy", "torchvision")


@contextmanager
def without_extras() -> Iterator[None]:
    """Let what is imported in the block find the `UNUSED` packages not installed.

    Afterwards they can be imported as usual. One that is imported already is not hidden.
    """
    from lightning_utilities.core import imports

    hidden = [name for name in UNUSED if name not in sys.modules]
    version_of = imports._version

    def version(distribution_name: str) -> str:
        if distribution_name in hidden:
            raise PackageNotFoundError(distribution_name)
        return version_of(distribution_name)

    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None forbids an import
    imports._version = version
    try:
        yield
    finally:
        imports._version = version_of
        for name in hidden:
            del sys.modules[name]
