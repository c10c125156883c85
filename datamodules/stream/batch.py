"""Decoded samples become one batch of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.decoding.decode import DecodedSample
from datamodules.order.plan import Position
from datamodules.stream.quarantine import NOTHING_COUNTED, SampleCounts
from datamodules.stream.slots import NO_STEP, DecodedGroup, StepTotals


@dataclass(slots=True)
class RegionBatch:
    """B images in frames of side S with their M regions, masks in R x R cells, priors D wide.

    A batch without any region holds one placeholder of weight 0 (a full mask, its box the frame),
    so that every rank runs the same modules.
    """

    pixels: Tensor
    """uint8 `[B, 3, S, S]`, RGB, padded right and below, channels last in memory."""
    masks: Tensor
    """bool `[M, R, R]`; the box, where there is no mask."""
    has_mask: Tensor
    """bool `[M]`: False where only the box is known."""
    boxes: Tensor
    """float32 `[M, 4]`: x0, y0, x1, y1 of the visible part, in pixels of the frame."""
    image_index: Tensor
    """int64 `[M]`, ascending: the image of each region."""
    priors: Tensor
    """float32 `[M, D]`, zero where there is none."""
    has_prior: Tensor
    """bool `[M]`."""
    concepts: Tensor
    """int64 `[M]`: the category's number in the vocabulary, -1 if it has none."""
    weights: Tensor
    """float32 `[M]`: 1 for a region, 0 for the placeholder."""
    seeds: Tensor
    """int64 `[B]`: seed of each sample's draws."""
    sizes: Tensor
    """int64 `[B, 2]`: height and width of the picture inside the frame, in pixels."""
    keys: list[str]
    """Keys of the samples."""
    phrases: list[tuple[str, ...]]
    """M entries: what people say of each region; empty where nothing is known, as of the
    placeholder."""
    position: Position
    """Where a run that has consumed this batch goes on."""
    step_regions: int = 0
    """Regions of this rank in the whole optimizer step, over its micro-batches; 0 where no step is
    taken. A loss that is divided by it weighs every region alike."""
    step_phrased: int = 0
    """Those among them that have at least one phrase."""
    counts: SampleCounts = NOTHING_COUNTED
    """What became of the samples that this batch was to be made of."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, from which copies to a GPU need not wait."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {
            name: function(value) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


def collate(
    samples: Sequence[DecodedSample],
    position: Position,
    pixels: NDArray[np.uint8] | None = None,
    masks: NDArray[np.bool_] | None = None,
    totals: StepTotals = NO_STEP,
    counts: SampleCounts | None = None,
) -> RegionBatch:
    """Join samples of one frame size to a batch.

    Args:
        samples: the B samples, at least one.
        position: where a run that has consumed this batch goes on.
        pixels: the buffer `[B, S, S, 3]` that the samples were decoded into, to be used without a
            copy; None copies each sample's own pixels.
        masks: the same for masks, `[M, R, R]`.
        totals: what this rank holds in the whole optimizer step.
        counts: what became of the samples, the bad ones too; None where all are good.
    """
    frames = np.stack([sample.pixels for sample in samples]) if pixels is None else pixels
    regions = [len(sample.masks) for sample in samples]
    batch = RegionBatch(
        pixels=torch.from_numpy(frames).permute(0, 3, 1, 2),
        masks=_join([s.masks for s in samples]) if masks is None else torch.from_numpy(masks),
        has_mask=_join([sample.has_mask for sample in samples]),
        boxes=_join([sample.boxes for sample in samples]),
        image_index=torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(regions)),
        priors=_join([sample.priors for sample in samples]),
        has_prior=_join([sample.has_prior for sample in samples]),
        concepts=_join([sample.concepts for sample in samples]),
        weights=torch.ones(sum(regions)),
        seeds=torch.tensor([sample.seed for sample in samples], dtype=torch.int64),
        sizes=torch.tensor([sample.size for sample in samples], dtype=torch.int64),
        keys=[sample.key for sample in samples],
        phrases=[phrases for sample in samples for phrases in sample.phrases],
        position=position,
        step_regions=totals.regions,
        step_phrased=totals.phrased,
        counts=SampleCounts.of(samples) if counts is None else counts,
    )
    return batch if sum(regions) else _with_placeholder(batch)


def collate_group(
    group: DecodedGroup,
    position: Position,
    stand_in: DecodedSample | None,
    totals: StepTotals = NO_STEP,
) -> RegionBatch:
    """Join a group that was decoded into slots: no picture and no mask is copied, only moved.

    Args:
        group: the samples; it is spent.
        position: where a run that has consumed this batch goes on.
        stand_in: a sample without regions, for a group that has no good one.
        totals: what this rank holds in the whole optimizer step.
    """
    counts = SampleCounts.of(group.results)
    if stand_in is not None and not group.good:
        return collate([stand_in], position, totals=totals, counts=counts)
    pixels, masks = group.close_gaps()
    return collate(group.good, position, pixels, masks, totals, counts)


def _join(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays))


def _with_placeholder(batch: RegionBatch) -> RegionBatch:
    side = float(batch.pixels.shape[-1])
    cells, width = batch.masks.shape[-1], batch.priors.shape[-1]
    return replace(
        batch,
        masks=torch.ones(1, cells, cells, dtype=torch.bool),
        has_mask=torch.ones(1, dtype=torch.bool),
        boxes=torch.tensor([[0.0, 0.0, side, side]]),
        image_index=torch.zeros(1, dtype=torch.int64),
        priors=torch.zeros(1, width),
        has_prior=torch.zeros(1, dtype=torch.bool),
        concepts=torch.full((1,), -1),
        weights=torch.zeros(1),
        phrases=[()],
    )
