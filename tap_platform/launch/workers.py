"""A run's workers, as Ray Train starts and watches them."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from tap_platform.config.job import JobConfig
from tap_platform.launch.errors import RunFailedError
from tap_platform.launch.progress import RunProgress
from tap_platform.launch.ray_session import ray_session
from tap_platform.launch.worker_entry import run_worker
from tap_platform.runs.directory import RunDirectory

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

LOG_LINES_SHOWN = 12


def run_workers(job: JobConfig, run: RunDirectory, attempt: int, console: Console) -> None:
    """Train with Ray Train until the last step, with a progress bar.

    Raises:
        ValueError: if the cluster has too few CPUs, or no GPU that the job asks for.
        RunFailedError: if a worker failed more often than `scale.max_failures` allows.
    """
    with RunProgress(run, job.training.max_steps, console), ray_session(job):
        from ray.train import TrainingFailedError

        trainer = _build_trainer(job, run, attempt)
        try:
            with own_signals():
                trainer.fit()
        except TrainingFailedError as error:
            raise RunFailedError(_explain(error, run, attempt)) from None


@contextmanager
def own_signals() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C, and take both signals back from Ray afterwards.

    Ray's own answer to SIGTERM aborts the process; to Ctrl-C it answers after its workers are gone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ctrl_c = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, ctrl_c)


def _stop(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def _build_trainer(job: JobConfig, run: RunDirectory, attempt: int) -> TorchTrainer:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    use_gpu = _use_gpu(job)
    return TorchTrainer(
        run_worker,
        train_loop_config={
            "job": job.model_dump_json(),
            "run": str(run.path),
            "attempt": attempt,
        },
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.scale.most_workers,
            use_gpu=use_gpu,
            resources_per_worker={
                "CPU": job.scale.cpus_per_worker,
                **({"GPU": 1} if use_gpu else {}),
            },
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # Ray shows type checkers the old one
            name=f"attempt-{attempt}",
            storage_path=str(run.path / "ray"),
            # Ray lets workers without a GPU see all of them, and torch takes what it sees.
            worker_runtime_env={} if use_gpu else {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}},
            failure_config=FailureConfig(max_failures=job.scale.max_failures),
        ),
    )


def _use_gpu(job: JobConfig) -> bool:
    import ray

    there = int(ray.cluster_resources().get("GPU", 0))
    if job.scale.device == "cpu":
        return False
    if not there and job.training.precision == "fp16":
        raise ValueError(
            "training.precision fp16 needs a GPU, the cluster has none: take bf16 or fp32 on CPUs"
        )
    if there < job.scale.most_workers and (there or job.scale.device == "gpu"):
        raise ValueError(
            f"scale.workers {job.scale.most_workers} take a GPU each, the cluster has {there}: lower"
            " scale.workers, or set scale.device=cpu"
        )
    return there > 0


def _explain(error: Exception, run: RunDirectory, attempt: int) -> str:
    """The first failed worker's error, the end of its log, and how to go on."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    rank, cause = next(iter(sorted(failures.items())), (0, error))
    cause = getattr(cause, "cause", None) or cause
    log = run.log(attempt, rank)
    text = log.read_text(errors="replace") if log.exists() else ""
    ending = "\n".join(f"  | {line}" for line in text.splitlines()[-LOG_LINES_SHOWN:])
    return (
        f"worker {rank} failed: {cause}\n{ending}\n"
        f"its whole log: {log}\ngo on with: tap train --resume {shlex.quote(str(run.path))}"
    )
