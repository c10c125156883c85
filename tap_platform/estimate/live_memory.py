"""How much memory the tensors of a piece of work hold at once, operation by operation."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Follows every storage that operations make, from its birth to its end.

    What one operation takes and gives back inside itself is not seen. It works alike on tensors
    with data and on fake ones.
    """

    def __init__(self, before: Iterable[Tensor]) -> None:
        """Begin with nothing.

        Args:
            before: tensors that are there already, of which operations make views; not counted.
        """
        super().__init__()
        self.now = 0
        """Bytes that are held, but for those set apart."""
        self.peak = 0
        """The most that were."""
        self.apart = 0
        """Bytes held by storages that were set apart, such as gradients of weights."""
        self.joint_peak = 0
        """The most of both together."""
        self.apart_then = 0
        """What was set apart when both together were most."""
        self._before = [each.untyped_storage() for each in before]
        self._known = {each._cdata for each in self._before}
        self._living: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._apart: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Compute, and look at what came out."""
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self._follow(each)
        self._look()
        return result

    def set_apart(self, tensor: Tensor) -> None:
        """Count a tensor by itself until it ends."""
        key = tensor.untyped_storage()._cdata
        if key in self._living and key not in self._apart:
            size = self._living[key][1]
            self._apart.add(key)
            self.now -= size
            self.apart += size

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in self._living:
            return
        self._living[key] = weakref.ref(storage, lambda ref: self._end(key, ref)), size
        self.now += size

    def _end(self, key: int, ref: weakref.ref[Any]) -> None:
        known = self._living.get(key)
        if known is None or known[0] is not ref:
            return
        del self._living[key]
        if key in self._apart:
            self._apart.discard(key)
            self.apart -= known[1]
        else:
            self.now -= known[1]

    def _look(self) -> None:
        self.peak = max(self.peak, self.now)
        if self.now + self.apart > self.joint_peak:
            self.joint_peak, self.apart_then = self.now + self.apart, self.apart


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors, each counted once."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
