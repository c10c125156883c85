"""The work of `tap data priors` in Ray: many readers share a few teachers.

Teachers are actors, each with a GPU or a share of the cores; readers are Ray Data tasks with a CPU
each, on any node, one shard a task. A reader asks the teachers in turn and keeps a few batches with
them, so that a teacher has the next one before it is done with the last.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tap_platform.launch.prior_tasks import (
    Drawing,
    ShardJob,
    TeacherServer,
    TeacherSpec,
    Work,
    do_shard,
)

if TYPE_CHECKING:
    from tap_platform.concepts.image_teacher import TeacherShape

LOOK_EVERY_SECONDS = 0.5
_BESIDE_THE_WORK = "beside"
"""A thread of a teacher's actor that tells of the work while it goes on."""


class _TeachersAway:
    """Teachers in Ray actors, asked in turn."""

    def __init__(self, servers: Sequence[Any], first: int) -> None:
        self._turn = itertools.cycle([*servers[first:], *servers[:first]])

    def ask(self, crops: NDArray[np.uint8], images: int) -> Any:
        return next(self._turn).try_embed.remote(crops, images)

    def answer(self, ticket: Any) -> NDArray[np.float16]:
        import ray

        answer: NDArray[np.float16] | ValueError = ray.get(ticket)
        if isinstance(answer, ValueError):
            raise answer
        return answer


def run_with_ray(
    jobs: Sequence[ShardJob],
    spec: TeacherSpec,
    drawing_for: Callable[[TeacherShape], Drawing],
    show: Callable[[Work], None],
    teachers: int,
    readers: int,
) -> Work:
    """Do all jobs in the Ray session of the caller.

    Args:
        jobs: shards to do.
        spec: the teacher.
        drawing_for: what to make for such a teacher.
        show: told of the work as it goes on.
        teachers: actors, each with a GPU or a share of this machine's cores.
        readers: tasks at once, each with a CPU.

    Raises:
        ValueError: what a teacher or a reader could not do.
    """
    import ray

    servers = _start_teachers(spec, teachers)
    try:
        drawing = drawing_for(ray.get(servers[0].shape.remote()))
        with _watched(servers, show):
            for error in _answers(jobs, drawing, servers, readers):
                if error is not None:
                    raise error
        return _work_of(servers)
    finally:
        for server in servers:
            ray.kill(server)


def run_away(function: Callable[..., Any], device: str, *arguments: Any) -> Any:
    """What a function returns, run in a Ray task that has a GPU if the device is one.

    Raises:
        ValueError: as the function does.
    """
    import ray

    task = ray.remote(num_cpus=1, num_gpus=0 if device == "cpu" else 1)(_answer_of)
    answer = ray.get(task.remote(function, arguments))
    if isinstance(answer, ValueError):
        raise answer
    return answer


def _answer_of(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """What Ray raises has lost its words, so a mistake is an answer."""
    try:
        return function(*arguments)
    except ValueError as error:
        return error


def _start_teachers(spec: TeacherSpec, count: int) -> list[Any]:
    import ray

    on_gpu = spec.device != "cpu"
    threads = 0 if on_gpu else max(1, (os.cpu_count() or 1) // count)
    remote: Any = ray.remote
    actor = remote(
        num_cpus=1, num_gpus=1 if on_gpu else 0, concurrency_groups={_BESIDE_THE_WORK: 1}
    )(TeacherServer)
    return [actor.remote(spec, threads) for _ in range(count)]


def _answers(
    jobs: Sequence[ShardJob], drawing: Drawing, servers: Sequence[Any], readers: int
) -> Iterator[Exception | None]:
    """One answer for each job, in no particular order: None, or what went wrong."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with ray.data.DataContext.current(context):
        rows = ray.data.from_items(
            [{"number": number, "job": pickle.dumps(job)} for number, job in enumerate(jobs)],
            override_num_blocks=len(jobs),
        ).map(
            _read_shard,  # type: ignore[arg-type]
            fn_kwargs={"drawing": drawing, "servers": list(servers)},
            compute=ray.data.TaskPoolStrategy(size=min(readers, len(jobs))),
            num_cpus=1,
        )
        for row in rows.iter_rows():
            yield pickle.loads(row["error"])


def _read_shard(row: dict[str, Any], drawing: Drawing, servers: list[Any]) -> dict[str, bytes]:
    """A reader's whole task; what Ray raises has lost its words, so a mistake is an answer."""
    error = None
    try:
        teachers = _TeachersAway(servers, first=row["number"] % len(servers))
        do_shard(pickle.loads(row["job"]), drawing, teachers)
    except (ValueError, OSError) as failure:
        error = failure
    return {"error": pickle.dumps(error)}


@contextmanager
def _watched(servers: Sequence[Any], show: Callable[[Work], None]) -> Iterator[None]:
    """Show the teachers' work for as long as the block runs."""
    stopped = threading.Event()

    def look() -> None:
        while not stopped.wait(LOOK_EVERY_SECONDS):
            show(_work_of(servers))

    thread = threading.Thread(target=look, name="teachers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _work_of(servers: Sequence[Any]) -> Work:
    import ray

    beside = {"concurrency_group": _BESIDE_THE_WORK}
    return Work.total(ray.get([server.work.options(**beside).remote() for server in servers]))
