"""Batch norm over the whole global batch, on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.modules._functions import SyncBatchNorm as _GpuBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm


class SynchronizedBatchNorm(_BatchNorm):
    """Batch norm whose statistics are those of all ranks together.

    Torch's own layer refuses CPU tensors, and torch's data parallelism refuses the layer there;
    this one computes the same on CPUs, and uses torch's kernels on GPUs. In evaluation, or with one
    rank, it is plain batch norm. Ranks may hold batches of different sizes. The running statistics
    stay in float32 when the module is cast to a half type: their updates are too small for one.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float
    process_group: dist.ProcessGroup | None = None
    """Ranks that share statistics; None is all of them."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [B, C, H, W] over B, H and W of every rank; the dtype is kept."""
        if not self.training or _world_size(self.process_group) == 1:
            return self._normalize_alone(x)
        self.num_batches_tracked.add_(1)
        return self._normalize_on_gpus(x) if x.is_cuda else self._normalize_together(x)

    def _normalize_on_gpus(self, x: Tensor) -> Tensor:
        return _GpuBatchNorm.apply(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.eps,
            self.momentum,
            self.process_group or dist.group.WORLD,
            _world_size(self.process_group),
        )

    def _normalize_alone(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        weight, bias = self.weight.float(), self.bias.float()
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            weight,
            bias,
            self.training,
            self.momentum,
            self.eps,
        )

    def _normalize_together(self, x: Tensor) -> Tensor:
        y, mean, variance, count = _GlobalBatchNorm.apply(
            x, self.weight, self.bias, self.eps, self.process_group
        )
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return y

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.running_mean = self.running_mean.float()
        self.running_var = self.running_var.float()
        return self


class _GlobalBatchNorm(torch.autograd.Function):
    """Batch norm with statistics and gradients summed over a process group, in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        group: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        precise = _precise(x)
        mean, variance, count = _global_moments(precise, group)
        inverse_std = torch.rsqrt(variance + eps)
        normalized = (precise - _as_map(mean)) * _as_map(inverse_std)
        y = normalized * _as_map(weight) + _as_map(bias)
        ctx.save_for_backward(x, weight, mean, inverse_std, count)
        ctx.group = group
        ctx.mark_non_differentiable(mean, variance, count)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        grad = _precise(grad)
        normalized = (_precise(x) - _as_map(mean)) * _as_map(inverse_std)
        local = torch.stack((grad.sum((0, 2, 3)), (grad * normalized).sum((0, 2, 3))))
        # Weight and bias gradients stay local: the training strategy reduces them like all others.
        total = local.clone()
        dist.all_reduce(total, group=ctx.group)
        grad_mean, projection = total / count
        grad_x = grad - _as_map(grad_mean) - normalized * _as_map(projection)
        grad_x = grad_x * _as_map(inverse_std * weight)
        grad_bias, grad_weight = local.to(weight.dtype)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None, None


def _global_moments(x: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C], biased variance [C] and count [] over all ranks.

    Ranks exchange (count, mean, sum of squared deviations), which combine without the cancellation
    of sums of squares; every rank adds them in the same order and so gets the same bits.
    """
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    count = torch.full_like(mean, x.numel() / x.shape[1])
    own = torch.stack((count, mean, variance * count))
    gathered = [torch.empty_like(own) for _ in range(_world_size(group))]
    dist.all_gather(gathered, own, group=group)
    counts, means, deviations = torch.stack(gathered, 1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    deviation = (deviations + counts * (means - mean).square()).sum(0)
    return mean, deviation / total, total[0]


def _world_size(group: dist.ProcessGroup | None) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _as_map(channels: Tensor) -> Tensor:
    return channels[:, None, None]
