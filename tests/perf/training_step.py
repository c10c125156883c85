"""One training step of TAP on made-up regions, whole or taken apart into its phases."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.order.plan import Position
from datamodules.stream.batch import RegionBatch
from tap_platform.config.model import TapConfig
from tap_platform.config.objective import ObjectiveConfig
from tap_platform.config.training import OptimizerConfig
from tap_platform.models import RegionOutput, Tap
from tap_platform.objectives import pretraining
from tap_platform.objectives.prompts import Prompts
from tap_platform.recipes.optimizer import build_optimizer

CONCEPTS = 2560
"""Names in the vocabulary, as in the paper's merged list."""


def random_batch(config: TapConfig, images: int, regions: int) -> RegionBatch:
    """Noise with rectangles as regions: `regions` in each of `images`."""
    draws = torch.Generator().manual_seed(0)
    count, size, cells = images * regions, config.image_size, config.mask_size
    corners = torch.rand(count, 2, 2, generator=draws).sort(1).values
    first = (corners[:, 0] * (cells - 1)).floor()
    last = torch.maximum((corners[:, 1] * cells).ceil(), first + 1)
    centres = torch.arange(cells) + 0.5
    inside = (centres > first[..., None]) & (centres < last[..., None])
    return RegionBatch(
        pixels=torch.randint(256, (images, 3, size, size), generator=draws, dtype=torch.uint8),
        masks=inside[:, 1, :, None] & inside[:, 0, None, :],
        boxes=torch.cat([first, last], 1) * (size / cells),
        image_index=torch.arange(images).repeat_interleave(regions),
        priors=_unit_rows(count, config.concept_dim, draws),
        has_mask=torch.ones(count, dtype=torch.bool),
        has_prior=torch.ones(count, dtype=torch.bool),
        concepts=torch.full((count,), -1),
        weights=torch.ones(count),
        seeds=torch.arange(images),
        sizes=torch.full((images, 2), size),
        keys=[str(number) for number in range(images)],
        phrases=[()] * count,
        position=Position(),
    )


def _unit_rows(count: int, width: int, draws: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=draws), dim=1)


class Stopwatch:
    """Time of named phases; a phase inside another stops the outer one's clock."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._synchronize = synchronize
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the block's time to a phase."""
        self._charge()
        self._running.append(name)
        yield
        self._charge()
        self._running.pop()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time charged to a phase."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return timed

    def _charge(self) -> None:
        self._synchronize()
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


class Mode(NamedTuple):
    """How a step computes."""

    checkpointing: bool
    """Whether the encoder's blocks are recomputed in the backward pass."""
    precision: str
    """`fp32` or `bf16`; fp16 is left out, for it needs a loss scaler."""


class TrainingStep:
    """A model with its optimizer and one batch, on a device.

    It computes what `TapPretrain` does, without Lightning around it.
    """

    def __init__(self, config: TapConfig, images: int, regions: int, device: str) -> None:
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.frame = config.image_size
        self.model = Tap(config).to(self.device)
        self.model.text_decoder.requires_grad_(False)
        self.objective = ObjectiveConfig()
        self.optimizer = build_optimizer(self.model, OptimizerConfig(lr=1e-4))
        self.batch = random_batch(config, images, regions).to(self.device)
        draws = torch.Generator().manual_seed(1)
        self.vocabulary = _unit_rows(CONCEPTS, config.concept_dim, draws).to(self.device)

    def run(self, mode: Mode) -> None:
        """Forward, backward and the optimizer's step."""
        with self._computing(mode):
            loss = self._loss(self._encode(), self._decode)
        loss.backward()
        self.update()

    def run_encoder(self, mode: Mode) -> None:
        """Forward and backward of the image encoder alone."""
        with self._computing(mode):
            loss = self._encode().float().square().mean()
        loss.backward()
        self.optimizer.zero_grad()

    def run_in_phases(self, mode: Mode, watch: Stopwatch) -> None:
        """Forward and backward, cut between the parts so that each part's backward has its time.

        Gradients are those of the whole step.
        """
        answers: list[tuple[RegionOutput, RegionOutput]] = []

        def decode(images: Tensor, prompts: Prompts) -> RegionOutput:
            with watch.phase("decoder"):
                output = self._decode(images, prompts)
            answers.append((output, RegionOutput(*map(_leaf, output))))
            return answers[-1][1]

        with self._computing(mode):
            with watch.phase("encoder"):
                images = self._encode()
            cut = _leaf(images)
            with watch.phase("losses"), _timed_prompts(watch):
                loss = self._loss(cut, decode)
        with watch.phase("losses"):
            loss.backward()
        with watch.phase("decoder"):
            pairs = [pair for answer in answers for pair in zip(*answer, strict=True)]
            used = [(output, leaf.grad) for output, leaf in pairs if leaf.grad is not None]
            torch.autograd.backward(*map(list, zip(*used, strict=True)))
        with watch.phase("encoder"):
            images.backward(cut.grad)

    def update(self) -> None:
        """The optimizer's step; the gradients are gone after it."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def synchronize(self) -> None:
        """Wait until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _encode(self) -> Tensor:
        return self.model.encode(self.model.normalize(self.batch.pixels))

    def _decode(self, images: Tensor, prompts: Prompts) -> RegionOutput:
        return self.model.decode(images, prompts.points, prompts.labels, self.batch.image_index)

    def _loss(self, images: Tensor, decode: Callable[[Tensor, Prompts], RegionOutput]) -> Tensor:
        stages = pretraining.two_stages(
            lambda prompts: decode(images, prompts),
            self.batch,
            self.vocabulary,
            self.objective,
            self.frame,
        )
        losses, weights = [stage.losses for stage in stages], self.batch.weights
        return pretraining.total(losses, weights, weights.sum(), self.objective)

    def _computing(self, mode: Mode) -> torch.autocast:
        self.model.image_encoder.activation_checkpointing = mode.checkpointing
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mode.precision == "bf16")


def _leaf(value: Tensor) -> Tensor:
    """The same values, at the start of a graph of their own."""
    return value.detach().requires_grad_()


@contextmanager
def _timed_prompts(watch: Stopwatch) -> Iterator[None]:
    """Charge the sampling of prompts to a phase of its own."""
    names = ("first_prompts", "refine_prompts")
    timed = {name: watch.around("prompts", getattr(pretraining, name)) for name in names}
    with patch.multiple(pretraining, **timed):
        yield
