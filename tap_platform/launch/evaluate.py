"""Evaluation: images go to workers that hold the model, answers come back and are scored."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from rich.console import Console

from tap_platform.evaluation.answers import evaluation_mode
from tap_platform.evaluation.suites.ground_truth import GroundTruth, ImageId, Place
from tap_platform.evaluation.suites.suite import Asker, Suite, SuiteResult
from tap_platform.evaluation.suites.view import ImageView, read_pixels
from tap_platform.launch.count_bar import count_bar
from tap_platform.launch.weights_source import load_weights

BLOCKS_PER_WORKER = 64
"""How finely the images are dealt out: a block's answers come back together."""


class ImageTask(NamedTuple):
    """One image and what every suite asks about it."""

    image_id: ImageId
    place: Place
    size: tuple[int, int] | None
    """Height and width by the annotations, None where they do not say."""
    requests: dict[str, Any]
    """By suite."""


class ImageAnswer(NamedTuple):
    """What the model said about one image."""

    image_id: ImageId
    answers: dict[str, Any]
    """By suite."""


@dataclass(frozen=True)
class Workers:
    """Where the model runs."""

    source: str
    """A run or a file of weights, readable on every node."""
    count: int
    """Ray actors that hold the model; 0 for this process alone."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto` for a GPU where there is one."""


class Evaluator:
    """A model and the suites' askers: a worker's whole state."""

    def __init__(self, source: str, askers: Mapping[str, Asker], device: str, threads: int) -> None:
        """Load the model.

        Args:
            source: a run or a file of weights.
            askers: by suite.
            device: where the model runs; `auto` for a GPU where there is one.
            threads: of one worker on CPUs; 0 leaves torch's own number.
        """
        if threads:
            torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = load_weights(source).model.to(device)
        self._askers = askers

    def answer(self, task: ImageTask) -> ImageAnswer:
        """Encode an image once and answer all suites' requests about it."""
        pixels = read_pixels(task.place, task.image_id, task.size)
        with evaluation_mode(self._model):
            view = ImageView(self._model, pixels)
            answers = {
                suite: self._askers[suite](view, request)
                for suite, request in task.requests.items()
            }
        return ImageAnswer(task.image_id, answers)

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        """The same for a row of Ray Data, which carries bytes best.

        A mistake in the data is an answer too: what Ray raises has lost its words.
        """
        try:
            answer: ImageAnswer | ValueError = self.answer(pickle.loads(row["task"]))
        except ValueError as error:
            answer = error
        return {"answer": pickle.dumps(answer)}


def evaluate(
    suites: Sequence[Suite], truth: GroundTruth, workers: Workers, console: Console | None = None
) -> list[SuiteResult]:
    """Run suites over the images of a ground truth.

    Every image is encoded once, whatever the number of suites.

    Args:
        suites: at least one, on that ground truth.
        truth: the images.
        workers: where the model runs.
        console: where progress is shown.

    Returns:
        The result of each suite, in order.

    Raises:
        ValueError: if there is nothing to ask, an image is missing or broken, or the model does not
            fit what it is asked.
    """
    tasks = _tasks(suites, truth)
    askers: dict[str, Asker] = {suite.name: suite.asker() for suite in suites}
    run = _answers_with_ray if workers.count else _answers_here
    answers: dict[ImageId, ImageAnswer] = {}
    with count_bar("evaluating images", console) as show:
        for answer in run(tasks, askers, workers):
            answers[answer.image_id] = answer
            show(len(answers), len(tasks))
    return [
        suite.score(
            {
                task.image_id: answers[task.image_id].answers[suite.name]
                for task in tasks
                if suite.name in task.requests
            }
        )
        for suite in suites
    ]


def _tasks(suites: Sequence[Suite], truth: GroundTruth) -> list[ImageTask]:
    requests: dict[str, Any] = {suite.name: suite.requests() for suite in suites}
    tasks = []
    for identity, image in truth.images.items():
        own = {name: each[identity] for name, each in requests.items() if identity in each}
        size = (image["height"], image["width"]) if {"height", "width"} <= set(image) else None
        if own:
            tasks.append(ImageTask(identity, truth.places[identity], size, own))
    return tasks


def _answers_here(
    tasks: Sequence[ImageTask], askers: Mapping[str, Asker], workers: Workers
) -> Iterator[ImageAnswer]:
    evaluator = Evaluator(workers.source, askers, workers.device, threads=0)
    return map(evaluator.answer, tasks)


def _answers_with_ray(
    tasks: Sequence[ImageTask], askers: Mapping[str, Asker], workers: Workers
) -> Iterator[ImageAnswer]:
    """Answers as Ray Data gives them, in no particular order."""
    import ray
    import ray.data

    from tap_platform.launch.ray_session import joined_ray

    with joined_ray(workers.count + 1):
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        on_gpus = workers.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        with ray.data.DataContext.current(context):
            rows = ray.data.from_items(
                [{"task": pickle.dumps(task)} for task in tasks],
                override_num_blocks=min(len(tasks), BLOCKS_PER_WORKER * workers.count),
            ).map(
                Evaluator,  # type: ignore[arg-type]
                fn_constructor_args=(
                    workers.source,
                    askers,
                    workers.device if on_gpus else "cpu",
                    _threads(workers.count),
                ),
                concurrency=workers.count,
                num_cpus=1,
                num_gpus=1 if on_gpus else 0,
            )
        for row in rows.iter_rows():
            answer = pickle.loads(row["answer"])
            if isinstance(answer, ValueError):
                raise answer
            yield answer


def _threads(workers: int) -> int:
    """Each worker's share of this machine's cores."""
    return max(1, (os.cpu_count() or 1) // workers)
