"""Checkpoints that hold a model's weights only, as one worker would write them."""

from __future__ import annotations

from tap_platform.runs import checkpoints
from tap_platform.training.checkpoint_parts import part_name, write_files
from tap_platform.training.slices import Slice, to_tensors
from tap_platform.training.slices.slice import AVERAGE, BUFFER, WEIGHT


def save_weights(run, step, state, averages=()):
    """Commit `step-N` of a run, with a model's state dict and the averages of some weights."""
    slices = [
        *(_whole(WEIGHT if t.is_floating_point() else BUFFER, n, t) for n, t in state.items()),
        *(_whole(AVERAGE, name, tensor) for name, tensor in dict(averages).items()),
    ]
    folder = checkpoints.prepare(run.checkpoints, step)
    write_files(folder, part_name(0, "saved"), *to_tensors(slices), {})
    checkpoints.commit(folder)
    return folder


def _whole(kind, name, tensor):
    return Slice(kind, f"model.{name}", 0, tuple(tensor.shape), tensor.detach().reshape(-1))
