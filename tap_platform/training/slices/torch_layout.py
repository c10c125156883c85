"""Torch's own ways: every worker has everything (DDP), or rows of every parameter (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from torch.distributed.tensor import DTensor, Shard

from tap_platform.training.slices.layout import Home, Layout


class TorchLayout(Layout):
    """The parameters themselves are what the optimizer steps."""

    def homes(self) -> Iterator[Home]:
        """The parameters, or the rows of them that this worker has."""
        for name, parameter in self.module.named_parameters():
            if isinstance(parameter, DTensor):
                yield _rows(name, parameter)
            else:
                yield Home(
                    name,
                    tuple(parameter.shape),
                    start=0,
                    tensor=parameter,
                    offset=0,
                    length=parameter.numel(),
                    is_trained=parameter.requires_grad,
                    everywhere=True,
                )


def _rows(name: str, parameter: DTensor) -> Home:
    """FSDP2 deals rows out as `torch.chunk` does: the last workers may have fewer, or none."""
    assert parameter.placements == (Shard(0),), name
    rows, mesh = parameter.shape[0], parameter.device_mesh
    first = min(mesh.get_local_rank() * ceil(rows / mesh.size()), rows)
    return Home(
        name,
        tuple(parameter.shape),
        start=first * (parameter.numel() // rows),
        tensor=parameter,
        offset=0,
        length=parameter.to_local().numel(),
        is_trained=parameter.requires_grad,
    )
