"""A run's workers, as Ray Train starts and watches them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

from tap_platform.config.job import JobConfig
from tap_platform.launch.errors import RunFailedError, RunStoppedError
from tap_platform.launch.failures import explain_failure, how_to_go_on
from tap_platform.launch.gauges import exported
from tap_platform.launch.going_back import check_not_diverged
from tap_platform.launch.progress import RunProgress
from tap_platform.launch.ray_session import ray_session
from tap_platform.launch.signals import run_until_signalled
from tap_platform.launch.worker_entry import run_worker
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.stop_request import StopRequest

if TYPE_CHECKING:
    from ray.train import FailureConfig, ScalingConfig
    from ray.train.torch import TorchTrainer


def run_workers(job: JobConfig, run: RunDirectory, attempt: int, console: Console) -> None:
    """Train with Ray Train until the last step, with a progress bar.

    Ray Train starts the workers again, from the last checkpoint, as often as `scale.max_failures`
    and `scale.max_preemptions` allow; each counts for itself. An elastic run whose node is lost
    without notice may take two of `max_failures`: the first start may still count on that node.

    At SIGTERM or Ctrl-C the workers have `scale.grace_seconds` to write a checkpoint of the step
    that they are in; Ctrl-C after that ends them at once.

    Raises:
        ValueError: if the cluster has too few CPUs, or no GPU that the job asks for, and an
            autoscaler does not add them in time.
        RunFailedError: if workers failed or were preempted more often than that, training has
            diverged, or Ray itself is gone.
        RunStoppedError: if a signal ended it.
    """
    # Before nodes are waited for: an old request would keep a pod that is ended from being told.
    StopRequest(run).clear()
    with RunProgress(run, job.training.max_steps, console), ray_session(job, console):
        from ray.exceptions import RayError
        from ray.train import TrainingFailedError

        use_gpu = _use_gpu(job)
        trainer = _build_trainer(job, run, attempt, use_gpu)
        try:
            with exported(run, job, use_gpu):
                _fit(trainer, job, run, console)
        except (TrainingFailedError, RayError) as error:
            raise RunFailedError(explain_failure(error, run, attempt)) from None
        check_not_diverged(run, attempt)


def _fit(trainer: TorchTrainer, job: JobConfig, run: RunDirectory, console: Console) -> None:
    grace = job.scale.grace_seconds
    request = StopRequest(run)

    def ask_to_stop(name: str) -> None:
        request.ask(name)
        console.print(
            f"{name}: the workers write a checkpoint and end, within {grace:g} s (scale."
            "grace_seconds); Ctrl-C ends them now",
            soft_wrap=True,
        )

    try:
        signal = run_until_signalled(trainer.fit, ask_to_stop, grace)
    except SystemExit:
        raise RunStoppedError(
            f"{run.name} was stopped before its workers had written a checkpoint;"
            f" {how_to_go_on(run)}"
        ) from None
    if signal or request.asked():
        raise RunStoppedError(f"{run.name} was stopped by {request.why}; {how_to_go_on(run)}")


def _build_trainer(job: JobConfig, run: RunDirectory, attempt: int, use_gpu: bool) -> TorchTrainer:
    from ray.train import RunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    return TorchTrainer(
        run_worker,
        train_loop_config={
            "job": job.model_dump_json(),
            "run": str(run.path),
            "attempt": attempt,
        },
        torch_config=TorchConfig(backend=_backend(job, use_gpu)),
        scaling_config=_scaling(job, use_gpu),
        run_config=RunConfig(  # type: ignore[call-arg]  # Ray shows type checkers the old one
            name=f"attempt-{attempt}",
            storage_path=str(run.path / "ray"),
            # Ray lets workers without a GPU see all of them, and torch takes what it sees.
            worker_runtime_env={} if use_gpu else {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}},
            failure_config=_budgets(job),
            callbacks=_callbacks(job, run, attempt),
        ),
    )


def _backend(job: JobConfig, use_gpu: bool) -> str:
    """What carries sums between workers; those of FSDP's offloaded gradients are on CPUs."""
    if not use_gpu:
        return "gloo"
    scale = job.scale
    on_cpus = scale.strategy == "fsdp" and scale.offload != "none"
    return "cpu:gloo,cuda:nccl" if on_cpus else "nccl"


def _scaling(job: JobConfig, use_gpu: bool) -> ScalingConfig:
    from ray.train import ScalingConfig

    scale = job.scale
    return ScalingConfig(  # type: ignore[call-arg]  # Ray shows type checkers the old one
        num_workers=scale.workers,  # type: ignore[arg-type]
        elastic_resize_monitor_interval_s=scale.resize_check_seconds,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": scale.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
    )


def _budgets(job: JobConfig) -> FailureConfig:
    from ray.train import FailureConfig

    return FailureConfig(  # type: ignore[call-arg]
        max_failures=job.scale.max_failures,
        max_preemption_failures=job.scale.max_preemptions,
    )


def _callbacks(job: JobConfig, run: RunDirectory, attempt: int) -> list[Any]:
    """An elastic run's workers save before there are more or fewer of them."""
    from tap_platform.launch.resizes import CheckpointBeforeResize

    if job.scale.least_workers == job.scale.most_workers:
        return []
    return [CheckpointBeforeResize(run, attempt, job.scale.grace_seconds)]


def _use_gpu(job: JobConfig) -> bool:
    import ray

    there = int(ray.cluster_resources().get("GPU", 0))
    if job.scale.device == "cpu":
        return False
    if not there and job.training.precision == "fp16":
        raise ValueError(
            "training.precision fp16 needs a GPU, the cluster has none: take bf16 or fp32 on CPUs"
        )
    if there < job.scale.least_workers and (there or job.scale.device == "gpu"):
        raise ValueError(
            f"scale.workers {job.scale.least_workers} take a GPU each, the cluster has {there}:"
            " lower scale.workers, or set scale.device=cpu"
        )
    return there > 0
