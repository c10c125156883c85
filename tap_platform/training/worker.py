"""One worker's life, from its share of the data to the last checkpoint."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

from datamodules.stream.region_datamodule import RegionDataModule
from tap_platform.config.job import JobConfig
from tap_platform.recipes.build import build_recipe
from tap_platform.recipes.region_recipe import RegionRecipe
from tap_platform.runs.checkpoints import checkpoint_place
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.training.base_weights import initial_state, needs_base
from tap_platform.training.callbacks.averaging import AverageWeights
from tap_platform.training.callbacks.bad_steps import SkipBadSteps
from tap_platform.training.callbacks.checkpoints import WriteCheckpoints
from tap_platform.training.callbacks.gradient_norm import GradientNorm
from tap_platform.training.callbacks.machine_use import WatchMachine
from tap_platform.training.callbacks.micro_batches import CountMicroBatches
from tap_platform.training.callbacks.sample_counts import CountSamples
from tap_platform.training.callbacks.seed_steps import SeedSteps
from tap_platform.training.callbacks.spikes import WatchLoss
from tap_platform.training.callbacks.step_clock import StepClock
from tap_platform.training.callbacks.stop_requests import StopOnRequest, raise_if_preempted
from tap_platform.training.callbacks.watchdog import Watchdog
from tap_platform.training.checkpoint_writer import CheckpointWriter
from tap_platform.training.compilation import compile_blocks
from tap_platform.training.run_logger import RunLogger
from tap_platform.training.strategies import build_strategy, precision_of
from tap_platform.training.termination import Termination
from tap_platform.training.weights import keeps_trained_only


def train_worker(
    job: JobConfig,
    run: RunDirectory,
    events: EventLog,
    datamodule: RegionDataModule,
    checkpoint: Path | None,
    termination: Termination,
) -> None:
    """Train until `training.max_steps`.

    Args:
        job: the whole job.
        run: where the run lies.
        events: this worker's event log.
        datamodule: this worker's batches, from the checkpoint's step on.
        checkpoint: the checkpoint folder that the run goes on from, if any.
        termination: tells whether this worker was sent SIGTERM.
    """
    _quieten()
    seed_everything(job.seed, verbose=False)
    if not torch.cuda.is_available():
        torch.set_num_threads(job.scale.cpus_per_worker)
    vocabulary = torch.from_numpy(datamodule.vocabulary.embeddings)
    recipe = starting_recipe(job, run, vocabulary, checkpoint)
    if job.training.compile:
        compile_blocks(recipe.model)
    trainer = build_trainer(job, run, events, termination)
    trainer.fit(
        recipe,
        datamodule=datamodule,
        ckpt_path=str(checkpoint) if checkpoint else None,
    )
    raise_if_preempted(trainer)


def starting_recipe(
    job: JobConfig, run: RunDirectory, vocabulary: Tensor, checkpoint: Path | None
) -> RegionRecipe:
    """The job's recipe, before its checkpoint is loaded and a strategy cuts the model up.

    Args:
        job: the whole job.
        run: where the run lies, and the tokenizer and the initial weights of it.
        vocabulary: unit text embeddings of the concepts [V, concept_dim].
        checkpoint: the folder that the run goes on from, if any. What it does not hold comes from
            the initial weights.

    Raises:
        ValueError: if the initial weights are needed and gone or changed.
    """
    recipe = build_recipe(job, vocabulary, run.tokenizer if run.tokenizer.is_file() else None)
    if needs_base(job, checkpoint):
        recipe.model.load_state_dict(initial_state(run, job), strict=False)
    recipe.strict_loading = not keeps_trained_only(job)
    return recipe


def build_trainer(
    job: JobConfig, run: RunDirectory, events: EventLog, termination: Termination
) -> Trainer:
    """Lightning's trainer with the job's strategy, precision and callbacks."""
    training = job.training
    every = job.evaluation.every_steps
    metrics = MetricsWriter(run.metrics, attempt=events.attempt)
    writer = CheckpointWriter(
        checkpoint_place(run, job.checkpoint),
        events.rank or 0,
        job.scale.most_workers,
        events,
        metrics,
        job.checkpoint,
    )
    callbacks: list[Callback] = [
        CountMicroBatches(),
        SeedSteps(job.seed),
        *([GradientNorm(training.log_every)] if training.watch_gradients else []),
        SkipBadSteps(job.health, run, events),
        *([AverageWeights(job.optimizer.ema_decay)] if job.optimizer.ema_decay else []),
        WatchLoss(job.health, events),
        CountSamples(training.log_every),
        WatchMachine(training.log_every),
        WriteCheckpoints(job.checkpoint, writer, training.max_steps),
        StopOnRequest(run, events, training.max_steps, termination),
        # The last one: what the others do at the end of a step is no wait for data.
        StepClock(training.global_batch, training.log_every),
        Watchdog(job.health, events),
    ]
    options: dict[str, Any] = {
        "val_check_interval": every * job.accumulation if every else None,
        "check_val_every_n_epoch": None,
        "limit_val_batches": None if every else 0,
    }
    return Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices="auto",
        strategy=build_strategy(job, writer),
        precision=precision_of(job),
        max_steps=training.max_steps,
        accumulate_grad_batches=job.accumulation,
        gradient_clip_val=job.optimizer.gradient_clip,
        log_every_n_steps=training.log_every,
        logger=RunLogger(metrics),
        callbacks=callbacks,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        # What FSDP gathers while held-out images are looked at, it trains on afterwards.
        inference_mode=False,
        **options,
    )


def _quieten() -> None:
    """Keep the log for what a person can act on."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
