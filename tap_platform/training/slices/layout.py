"""Where one worker keeps its share of a recipe's state, whatever the strategy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.distributed.tensor import DTensor

from tap_platform.training.slices.slice import BUFFER, MOMENTS, WEIGHT, Slice
from tap_platform.training.slices.state import SlicedState

NAMES_SHOWN = 3


class Home(NamedTuple):
    """Where a worker keeps its piece of a parameter."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    """Elements of the flat parameter before the piece."""
    tensor: Tensor
    """Holds the piece, maybe among those of others; what the optimizer steps, if it is trained."""
    offset: int
    """Elements of the worker's flat tensor before the piece."""
    length: int
    """Elements of the piece; 0 where others hold the parameter."""
    is_trained: bool
    everywhere: bool = False
    """Whether every worker holds the same piece."""

    def slice(self, kind: str, tensor: Tensor) -> Slice:
        """The piece of a tensor that is laid out like this one."""
        local = tensor.detach()
        local = local.to_local() if isinstance(local, DTensor) else local
        piece = local.view(-1).narrow(0, self.offset, self.length)
        return Slice(kind, self.name, self.start, self.shape, piece, self.everywhere)


class Layout:
    """Finds the weights, buffers and moments that a worker holds, as views onto the live ones.

    A module that loads leniently (`strict_loading` is False) keeps in its checkpoints what it
    trains, its `trainable_names()`; the rest is as it was when training began.
    """

    def __init__(self, module: LightningModule, optimizer: Any) -> None:
        """Look at a recipe that its strategy has set up.

        Args:
            module: the recipe.
            optimizer: AdamW, or DeepSpeed's wrapper of it.
        """
        self.module = module
        self.optimizer = optimizer

    def homes(self) -> Iterator[Home]:
        """Where all parameters are."""
        raise NotImplementedError

    @contextmanager
    def loading(self) -> Iterator[None]:
        """What is loaded inside is what the model computes with afterwards."""
        yield

    def counters(self) -> dict[str, Any]:
        """What else the strategy counts, as plain values."""
        return {}

    def set_counters(self, counters: Mapping[str, Any], step: int) -> None:
        """Go on counting from an optimizer step; another strategy may have counted before."""
        return

    @cached_property
    def kept(self) -> set[str]:
        """Names of what checkpoints hold."""
        # FSDP deals out again what it has gathered when it is asked for this.
        everything = set(self.module.state_dict())
        if self.module.strict_loading:
            return everything
        trained: set[str] = self.module.trainable_names()  # type: ignore[operator]
        return trained

    def held_slices(self) -> Iterator[Slice]:
        """All that this worker holds of what checkpoints keep."""
        for home in self._kept_homes():
            yield home.slice(WEIGHT, home.tensor)
            state = self._state(home)
            yield from (home.slice(kind, state[kind]) for kind in MOMENTS if kind in state)
        yield from self._buffer_slices()

    def trained_weights(self) -> Iterator[Slice]:
        """This worker's weights that the optimizer changes."""
        return (home.slice(WEIGHT, home.tensor) for home in self.homes() if home.is_trained)

    def steps(self) -> dict[str, float]:
        """Steps that AdamW has made, by the parameters that it has stepped."""
        states = {home.name: self._state(home) for home in self._kept_homes()}
        return {name: float(state["step"]) for name, state in states.items() if state}

    def steps_made(self) -> float:
        """Steps that have changed the weights; one that was skipped has not."""
        first = next(home for home in self.homes() if home.is_trained)
        return float(self._state(first).get("step", 0))

    def load(self, state: SlicedState, steps: Mapping[str, float]) -> None:
        """Take the state of a checkpoint.

        Args:
            state: its tensors.
            steps: those that AdamW had made, by the parameters that it had stepped.

        Raises:
            CorruptCheckpointError: if any of what this worker holds is missing.
            ValueError: if it does not fit.
        """
        self._check_known(state)
        with self.loading():
            for home in self._kept_homes():
                state.read_into(home.slice(WEIGHT, home.tensor))
                if home.is_trained and home.name in steps:
                    moments = self._begun(home, steps[home.name])
                    for kind in MOMENTS:
                        state.read_into(home.slice(kind, moments[kind]))
        for piece in self._buffer_slices():
            state.read_into(piece)

    def _kept_homes(self) -> Iterator[Home]:
        kept = self.kept
        return (home for home in self.homes() if home.name in kept)

    def _buffer_slices(self) -> Iterator[Slice]:
        for name, buffer in self.module.named_buffers():
            if name in self.kept:
                data = buffer.detach().view(-1)
                yield Slice(BUFFER, name, 0, tuple(buffer.shape), data, everywhere=True)

    def _check_known(self, state: SlicedState) -> None:
        unknown = sorted((state.names(WEIGHT) | state.names(BUFFER)) - self.kept)
        if unknown and self.module.strict_loading:
            more = ", …" if len(unknown) > NAMES_SHOWN else ""
            raise ValueError(
                f"{state.folder} holds {len(unknown)} tensors that the job's model has no place"
                f" for: {', '.join(unknown[:NAMES_SHOWN])}{more}"
            )

    def _state(self, home: Home) -> dict[str, Any]:
        """AdamW's state of the tensor that a piece is part of; empty before its first step."""
        return self.optimizer.state.get(home.tensor, {})

    def _begun(self, home: Home, steps: float) -> dict[str, Any]:
        """AdamW's state after some steps; what it would begin with is made if it is not there."""
        state: dict[str, Any] = self.optimizer.state[home.tensor]
        if not state:
            state |= {kind: torch.zeros_like(home.tensor.detach()) for kind in MOMENTS}
        group = self.optimizer.param_groups[0]
        on_device = group["fused"] or group["capturable"]
        state["step"] = torch.tensor(steps, device=home.tensor.device if on_device else "cpu")
        return state
