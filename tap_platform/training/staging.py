"""Host memory that a checkpoint waits in while training goes on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class HostBuffers:
    """Copies of tensors in host memory that is taken once, and pinned where tensors are on a GPU.

    Pinned memory is what a GPU copies to at full speed without a stop in between.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy tensors of any device; the copies are complete when this returns.

        Args:
            tensors: Each by its name, of any shape and type.

        Returns:
            Contiguous tensors in host memory, valid until the next call.
        """
        self._buffers = {name: self._buffer(name, tensor) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            self._buffers[name].copy_(tensor.detach(), non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()
        return self._buffers

    def clear(self) -> None:
        """Give the memory back."""
        self._buffers = {}

    def _buffer(self, name: str, tensor: Tensor) -> Tensor:
        there = self._buffers.get(name)
        fits = there is not None and there.shape == tensor.shape and there.dtype == tensor.dtype
        if fits and there is not None and there.is_pinned() == tensor.is_cuda:
            return there
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
