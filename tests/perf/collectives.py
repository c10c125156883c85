"""What the workers of a run say to each other, counted where torch issues it."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WARM_STEPS = 2
SPEAKERS = {
    ("tap_platform.models.batch_norm", ""): "batch norm",
    ("tap_platform.recipes.region_recipe", "shares"): "regions of a step",
    ("tap_platform.recipes.region_recipe", "record"): "loss terms",
}
CALLBACKS = "tap_platform.training.callbacks."


class Listener(TorchDispatchMode):
    """Counts calls and bytes of every collective, by who issued it.

    Bytes are those of the whole tensor that is reduced, scattered, gathered or sent: of the largest
    argument of the call. They are what one worker holds, not what travels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[tuple[str, str], int] = defaultdict(int)
        self.bytes: dict[tuple[str, str], int] = defaultdict(int)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            name = func._schema.name.partition("::")[2].strip("_")
            if not name.startswith("wait"):
                sizes = [sum(t.nbytes for t in _tensors(argument)) for argument in args]
                self.calls[_speaker(), name] += 1
                self.bytes[_speaker(), name] += max(sizes, default=0)
        return func(*args, **(kwargs or {}))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _speaker() -> str:
    """The innermost part of the product that the call comes from; else the strategy."""
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        module = frame.f_globals.get("__name__", "")
        for function in (frame.f_code.co_name, ""):
            if found := SPEAKERS.get((module, function)):
                return found
        if module.startswith(CALLBACKS):
            return f"callback {module.removeprefix(CALLBACKS)}"
    return "strategy"


class CountCollectives(Callback):
    """Listens to whole steps, from the start of one to the end of the last callback."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.listener = Listener()
        self.listening = False
        self.steps = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Begin after the first steps, in which strategies learn what comes when."""
        if self.listening:
            self.steps += 1
        elif batch_idx + 1 == WARM_STEPS:
            self.listener.__enter__()
            self.listening = True
        if batch_idx + 2 == trainer.max_steps:
            self.listener.__exit__(None, None, None)
            self._write(pl_module)
            self.listening = False

    def _write(self, recipe: LightningModule) -> None:
        counted = [
            {
                "speaker": speaker,
                "collective": name,
                "calls": self.listener.calls[speaker, name] / self.steps,
                "bytes": self.listener.bytes[speaker, name] / self.steps,
            }
            for speaker, name in self.listener.calls
        ]
        if recipe.global_rank == 0:
            self.path.write_text(json.dumps({"steps": self.steps, "collectives": counted}))
