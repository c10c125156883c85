"""How wide a job trains, and how its state is shared out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tap_platform.config.base import Section


def _a_count_or_two(value: Any) -> Any:
    """One line for what is neither form, where a union would complain about both."""
    counts = value if isinstance(value, list | tuple) else [value]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in counts)
    if not whole or (counts is value and (len(counts) != 2 or counts[0] > counts[1])):
        raise ValueError(f"give a number above 0, or [least, most], got {value!r}")
    return value


Workers = Annotated[int | tuple[int, int], BeforeValidator(_a_count_or_two)]


class ScaleConfig(Section):
    """Workers and what each of them gets."""

    workers: Workers = 1
    """Ray Train workers: one GPU each, or one process each on CPUs. `[least, most]` is an elastic
    run: it goes on with fewer workers when a node dies, and with more when one joins."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto` takes GPUs when the cluster has any."""
    cpus_per_worker: int = Field(1, gt=0)
    """CPUs reserved for one worker; torch computes with as many threads on a CPU."""
    strategy: Literal["ddp", "fsdp", "zero_1", "zero_2", "zero_3"] = "ddp"
    """How the state is shared out: replicated (`ddp`); DeepSpeed ZeRO with optimizer state (1),
    gradients too (2) and weights too (3) sharded over the workers; or all of them by torch's own
    FSDP2 (`fsdp`)."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What lies in host memory instead of GPU memory: the optimizer's state and its arithmetic
    (ZeRO), or the weights too (`zero_3`, `fsdp`). Slower steps, larger models."""
    max_failures: int = Field(0, ge=-1)
    """Worker failures that are survived by going on from the last checkpoint; -1: any number.
    Preempted nodes do not count."""
    max_preemptions: int = Field(-1, ge=-1)
    """Times that workers are taken away with notice (a node is drained, a worker is sent SIGTERM)
    and the run goes on from the checkpoint that they write then; -1: any number."""
    grace_seconds: float = Field(30.0, gt=0)
    """How long workers have, from SIGTERM or Ctrl-C on, to finish their step and write a
    checkpoint, before they are ended without."""
    resize_check_seconds: float = Field(60.0, ge=0)
    """How often an elastic run looks whether there is room for more workers."""

    @property
    def least_workers(self) -> int:
        """Workers below which an elastic run waits; the number of workers of any other."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Workers at most."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @model_validator(mode="after")
    def _offload_fits(self) -> Self:
        fitting = {
            "none": ("ddp", "fsdp", "zero_1", "zero_2", "zero_3"),
            "optimizer": ("zero_1", "zero_2", "zero_3"),
            "parameters": ("zero_3", "fsdp"),
        }[self.offload]
        if self.strategy not in fitting:
            raise ValueError(
                f"scale.offload {self.offload} does not go with scale.strategy {self.strategy}:"
                f" take {' or '.join(fitting)}, or offload none"
            )
        return self
