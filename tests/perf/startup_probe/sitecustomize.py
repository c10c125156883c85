"""Python imports this first, in every process of a run whose PYTHONPATH begins with this folder.

Each process appends to a file of its own in `$TAP_STARTUP_MARKS`: a line of JSON for the first call
and the first return of every function in `MARKED`, with the wall clock; and, before one of
`REPORTED` is called, the CPU seconds that the modules of each top-level package took to run.
"""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from pathlib import Path
from typing import Any

MARKED = {
    "tap_platform.cli": ("main",),
    "tap_platform.launch.train": ("start_run", "create_run", "train"),
    "tap_platform.launch.workers": ("run_workers",),
    "tap_platform.launch.ray_session": ("start_ray",),
    "ray.train.v2.api.data_parallel_trainer": ("DataParallelTrainer.fit",),
    "ray.train.v2._internal.execution.controller.controller": ("TrainController.__init__",),
    "ray.train.v2._internal.execution.worker_group.worker": (
        "RayTrainWorker.__init__",
        "RayTrainWorker.init_train_context",
    ),
    "ray.train.torch.config": ("_setup_torch_process_group",),
    "tap_platform.launch.worker_entry": ("run_worker", "build_streams"),
    "datamodules.stream.batch": ("collate_group",),
    "tap_platform.training.worker": ("train_worker", "starting_recipe", "build_trainer"),
    "lightning.pytorch.trainer.trainer": ("Trainer.fit",),
    "tap_platform.recipes.tap_pretrain": ("TapPretrain.training_step",),
    "tap_platform.runs.metrics": ("MetricsWriter.write",),
}
REPORTED = ("DataParallelTrainer.fit", "MetricsWriter.write")


class Probe:
    """Marks and import times of this process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{os.getpid()}.jsonl"
        self.imports: dict[str, float] = defaultdict(float)
        self._children = threading.local()

    def mark(self, name: str, **more: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"name": name, "time": time.time(), **more}) + "\n")

    def watch(self, loader: type) -> None:
        """Time what modules run when they are imported, and mark the functions that they define."""
        execute = loader.exec_module

        def timed(own: Any, module: Any) -> None:
            before, self._children.seconds = getattr(self._children, "seconds", 0.0), 0.0
            began = time.thread_time()
            try:
                execute(own, module)
            finally:
                whole = time.thread_time() - began
                package = module.__name__.partition(".")[0]
                self.imports[package] += whole - self._children.seconds
                self._children.seconds = before + whole
            for name in MARKED.get(module.__name__, ()):
                self._wrap(module, name)

        loader.exec_module = timed

    def _wrap(self, module: Any, name: str) -> None:
        *owner, last = name.split(".")
        place = functools.reduce(getattr, owner, module)
        setattr(place, last, self._marked(name, getattr(place, last)))

    def _marked(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        calls = iter([True])

        @functools.wraps(function)
        def marked(*args: Any, **kwargs: Any) -> Any:
            if not next(calls, False):
                return function(*args, **kwargs)
            if name in REPORTED:
                self.mark(f"imports before {name}", packages=self.imports)
            self.mark(f"{name} begins")
            result = function(*args, **kwargs)
            self.mark(f"{name} ends")
            return result

        return marked


if folder := os.environ.get("TAP_STARTUP_MARKS"):
    probe = Probe(Path(folder))
    for kind in (SourceFileLoader, ExtensionFileLoader):
        probe.watch(kind)
