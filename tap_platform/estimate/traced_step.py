"""A job's real training step on fake tensors: its FLOPs and the memory of what it computes.

The recipe, its losses and its optimizer's parameters are those that train; tensors have shapes and
no content, so that the largest model is walked through in seconds, in next to no memory.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from datamodules.stream.batch import RegionBatch
from tap_platform.config.job import JobConfig
from tap_platform.config.recipe import TapCaptionConfig, TapPretrainConfig
from tap_platform.estimate.like_gpu import like_gpu
from tap_platform.estimate.live_memory import LiveMemory, storage_bytes
from tap_platform.estimate.made_batch import CONCEPTS, full_captions, made_batch
from tap_platform.estimate.turns import take_turns
from tap_platform.recipes.region_recipe import RegionRecipe
from tap_platform.recipes.tap_caption import Captions, TapCaption
from tap_platform.recipes.tap_pretrain import TapPretrain


class TracedStep(NamedTuple):
    """One micro-batch, forward and backward, on one worker. All sizes are bytes."""

    flops: int
    """Of matrix products and convolutions, as torch counts them; what is computed again counts
    again."""
    saved: int
    """Held when the forward pass ends: what the backward pass needs."""
    activations: int
    """The most that both passes hold at once beside weights and their gradients."""
    beside_gradients: int
    """What they hold at the moment when they and the gradients together are most."""
    gradients: int
    """The gradients of that moment, where they are made as the backward pass goes."""
    buffers: int
    """What the recipe holds beside parameters: statistics, tables, the vocabulary."""
    batch: int
    """Pixels, masks and priors of one micro-batch."""
    largest_parameter: int
    """Bytes of the largest weight that is trained."""


def trace_step(job: JobConfig, on_gpu: bool) -> TracedStep:
    """Walk through a micro-batch of a job.

    Every image has `data.regions_per_image` regions and every caption is as long as the text
    decoder takes, so that memory and FLOPs are those of the heaviest step.

    Args:
        job: the job; `job.micro_batch` images are looked at.
        on_gpu: whether to take the ways of a GPU, else those of a CPU.
    """
    recipe = _build(job)
    flops = FlopCounterMode(display=False)
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), _ways(on_gpu):
        # Resting layers remember by it whether their weights changed; here they do not.
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        recipe.to_empty(device="cpu")
        recipe._device = torch.device("cpu")  # where Lightning puts new tensors
        take_turns(recipe.model, on_gpu)
        batch = made_batch(job.model, job.micro_batch, job.data.regions_per_image)
        inputs = [each for each in vars_of(batch) if isinstance(each, Tensor)]
        live = LiveMemory([*recipe.parameters(), *recipe.buffers(), *inputs])
        trained = [each for each in recipe.parameters() if each.requires_grad]
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(lambda p: _set_apart(live, p))
            if job.model.activation_checkpointing:
                parameter.register_post_accumulate_grad_hook(_end_what_was_recomputed)
        with live, flops, _quick_collection():
            saved = _step(recipe, batch, live, job.training.precision != "fp32")
        return TracedStep(
            flops=flops.get_total_flops(),
            saved=saved,
            activations=live.peak,
            beside_gradients=live.joint_peak - live.apart_then,
            gradients=live.apart_then,
            buffers=storage_bytes(recipe.buffers()),
            batch=storage_bytes(inputs),
            largest_parameter=max(each.nbytes for each in trained),
        )


class FullCaption(TapCaption):
    """Describes every region; which of its phrases is drawn makes no difference."""

    def _drawn_captions(self, batch: RegionBatch) -> Captions:
        return self._captions([""] * len(batch.phrases))


def vars_of(batch: RegionBatch) -> list[object]:
    """The values of a batch's fields."""
    return [getattr(batch, name) for name in batch.__slots__]


def _build(job: JobConfig) -> RegionRecipe:
    """The job's recipe, on the meta device; it reads no file, and records no step."""
    training = job.training.replaced(log_every=10**9)
    with torch.device("meta"):
        vocabulary = torch.empty(CONCEPTS, job.model.concept_dim)
        if isinstance(job.recipe, TapPretrainConfig):
            recipe = job.recipe.replaced(mae_weights=None)
            return TapPretrain(job.replaced(recipe=recipe, training=training), vocabulary)
        assert isinstance(job.recipe, TapCaptionConfig)
        return FullCaption(job.replaced(training=training), vocabulary, full_captions())


def _ways(on_gpu: bool) -> AbstractContextManager[object]:
    return like_gpu() if on_gpu else nullcontext()


def _step(recipe: RegionRecipe, batch: RegionBatch, live: LiveMemory, in_half: bool) -> int:
    """Both passes of a micro-batch; gives the bytes held between them."""
    with torch.autocast("cpu", torch.bfloat16, enabled=in_half):
        loss = recipe.training_step(batch, 0)
    assert isinstance(loss, Tensor)
    saved = live.now
    loss.backward()
    return saved


def _set_apart(live: LiveMemory, parameter: Tensor) -> None:
    assert parameter.grad is not None
    live.set_apart(parameter.grad)


def _end_what_was_recomputed(_: Tensor) -> None:
    """Where tensors are real it ends at once; fake ones hold each other."""
    gc.collect()


@contextmanager
def _quick_collection() -> Iterator[None]:
    """Leave what was there before out of Python's search for garbage."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
