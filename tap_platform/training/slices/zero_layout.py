"""DeepSpeed's ZeRO: each worker steps its part of long float32 tensors, made of the parameters.

The parts are padded to one length; padding is never saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch.nn import Parameter

from tap_platform.training.slices.layout import Home, Layout
from tap_platform.training.slices.slice import WEIGHT

SCALER_COUNTS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What DeepSpeed's dynamic loss scaler has learned."""


class ZeroLayout(Layout):
    """What all stages share: the engine's counters, and names of its parameters."""

    def __init__(self, module: LightningModule, engine: Any) -> None:
        """Look at a recipe that DeepSpeed has set up.

        Args:
            module: the recipe.
            engine: DeepSpeed's engine around it.
        """
        super().__init__(module, engine.optimizer)
        self.engine = engine

    def homes(self) -> Iterator[Home]:
        """The pieces of trained parameters in the float32 tensors; the others' own places."""
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                yield self._frozen(name, parameter)
        yield from self._trained({id(p): name for name, p in self.module.named_parameters()})

    def _frozen(self, name: str, parameter: Parameter) -> Home:
        """Where a parameter is that no optimizer knows."""
        raise NotImplementedError

    def _trained(self, names: Mapping[int, str]) -> Iterator[Home]:
        """Where the pieces of parameters are, which have names by their identity."""
        raise NotImplementedError

    def counters(self) -> dict[str, Any]:
        """Skipped steps, and the state of the loss scale."""
        scaler = self.optimizer.loss_scaler
        return {
            "skipped_steps": self.engine.skipped_steps,
            "scaler": {n: getattr(scaler, n) for n in SCALER_COUNTS if hasattr(scaler, n)},
        }

    def set_counters(self, counters: Mapping[str, Any], step: int) -> None:
        """Go on counting; micro-batches as if all steps had had as many as those to come."""
        self.engine.global_steps = step
        self.engine.global_samples = step * self.engine.train_batch_size()
        self.engine.micro_steps = step * self.engine.gradient_accumulation_steps()
        self.engine.skipped_steps = counters.get("skipped_steps", 0)
        for name, value in counters.get("scaler", {}).items():
            setattr(self.optimizer.loss_scaler, name, value)


class ZeroSteppedLayout(ZeroLayout):
    """Stages 1 and 2: every worker computes with all weights, and steps some of them."""

    def _frozen(self, name: str, parameter: Parameter) -> Home:
        shape, length = tuple(parameter.shape), parameter.numel()
        return Home(name, shape, 0, parameter, 0, length, is_trained=False, everywhere=True)

    def _trained(self, names: Mapping[int, str]) -> Iterator[Home]:
        groups = zip(self.optimizer.bit16_groups, self.optimizer.param_groups, strict=True)
        for members, group in groups:
            (stepped,) = group["params"]
            for parameter in members:
                name, shape = names[id(parameter)], tuple(parameter.shape)
                if (fragment := parameter._hp_mapping) is None:
                    yield Home(name, shape, 0, stepped, 0, 0, is_trained=True)
                    continue
                yield Home(
                    name,
                    shape,
                    start=fragment.lp_fragment_address.start,
                    tensor=stepped,
                    offset=fragment.hp_fragment_address.start,
                    length=fragment.hp_fragment_address.numel,
                    is_trained=True,
                )

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Gather the weights that all workers have loaded."""
        yield
        self.optimizer.update_lp_params()


class ZeroPartitionedLayout(ZeroLayout):
    """Stage 3: every worker has an equal piece of every parameter, padded at the end."""

    def _frozen(self, name: str, parameter: Any) -> Home:
        return _partition(name, parameter, parameter.ds_tensor, 0, is_trained=False)

    def _trained(self, names: Mapping[int, str]) -> Iterator[Home]:
        stepped = self.optimizer.fp32_partitioned_groups_flat
        for members in self.optimizer.fp16_groups:
            for parameter in members:
                name, number = names[id(parameter)], self.optimizer.get_param_id(parameter)
                group, offset, _ = self.optimizer.grad_position[number]
                yield _partition(name, parameter, stepped[group], offset, is_trained=True)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Refresh the partitions that the model is gathered from, which are copies.

        Small parameters, which every worker keeps as a whole, are given up before and gathered
        after.
        """
        self.optimizer.checkpoint_event_prologue()
        yield
        parameters: dict[str, Any] = dict(self.module.named_parameters())
        for home in self.homes():
            partition = parameters[home.name].ds_tensor.detach()
            partition[: home.length].copy_(home.slice(WEIGHT, home.tensor).data)
        self.optimizer.checkpoint_event_epilogue()


def _partition(name: str, parameter: Any, tensor: Any, offset: int, *, is_trained: bool) -> Home:
    """This worker's partition of a parameter, without its padding."""
    size = parameter.partition_numel()
    start = min(dist.get_rank() * size, parameter.ds_numel)
    length = min(size, parameter.ds_numel - start)
    return Home(name, tuple(parameter.ds_shape), start, tensor, offset, length, is_trained)
