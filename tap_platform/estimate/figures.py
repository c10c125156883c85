"""What an estimate tells, as plain data: bytes, seconds, and money in the profile's currency."""

from __future__ import annotations

from pydantic import BaseModel, computed_field


class Memory(BaseModel):
    """Bytes that one worker takes at the moment of a step when it takes most."""

    weights: int
    gradients: int
    optimizer: int
    """Moments, and ZeRO's copies of the weights that it steps."""
    average: int
    """The moving average of the weights."""
    activations: int
    """What the backward pass needs, and what operations hold for a while."""
    buffers: int
    """What weights are gathered in, gradients travel in and the optimizer works in."""
    batches: int
    """The micro-batch at work and the next one, and the vocabulary."""
    allowance: int
    """What torch does not allocate: CUDA, NCCL, fragments; of a process on CPUs its libraries."""
    highest: str
    """The moment."""
    available: int | None
    """Of one GPU, or on CPUs of a worker's part of its pod; None where no profile tells."""
    host: int
    """In host memory, by `scale.offload`; it is within the sum where workers compute on CPUs."""
    on_gpu: bool

    @computed_field  # type: ignore[prop-decorator]
    @property
    def allocated(self) -> int:
        """What torch allocates on the device that a worker computes on."""
        held = self.weights + self.gradients + self.optimizer + self.average
        return held + self.activations + self.buffers + self.batches

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        """All that is taken there."""
        return self.allocated + self.allowance + (0 if self.on_gpu else self.host)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fits(self) -> bool:
        """Whether it is there; so it is where no profile tells."""
        return self.available is None or self.total <= self.available


class Activations(BaseModel):
    """Bytes that both passes of a micro-batch hold at the most, with and without recomputation."""

    kept: int
    recomputed: int
    """With `model.activation_checkpointing`."""


class Work(BaseModel):
    """Floating-point operations of matrix products and convolutions."""

    flops_per_step: int
    """Of all workers."""
    flops_per_worker: int
    """Of one optimizer step of one worker; what is computed again counts again."""


class Pace(BaseModel):
    """How long a step takes."""

    compute_seconds: float | None
    communication_seconds: float | None
    """If none of it hides behind computation; None where the profile does not tell the links."""
    sent_bytes: int
    """What one worker sends in a step."""
    step_seconds: float | None
    """None where nothing tells."""
    basis: str
    """What the time rests on, or why there is none."""
    hours: float | None
    """Of all steps, without the start, held-out looks and the evaluation at the end."""


class NodesTaken(BaseModel):
    """Nodes of one group."""

    group: str
    pods_least: int
    pods_most: int
    workers_per_pod: int
    gpus_per_pod: int
    gpu: str | None
    cpus_per_pod: int
    memory_bytes_per_pod: int
    spot: bool
    stands_in: bool
    """Whether they are only taken when the group before has none."""


class Bill(BaseModel):
    """What a run costs, in the profile's currency."""

    currency: str
    per_hour: float
    """Of all pods at the most workers, and the head."""
    head_per_hour: float
    total: float | None
    """None where the hours are not known."""
    spot: bool
    """Whether the price is one of nodes that are taken back."""
    on_stand_ins: float | None
    """An hour if the groups that stand in did all the work; None without any."""


class Feed(BaseModel):
    """What storage, network and CPUs bring to the workers."""

    bytes_per_image: float
    bytes_basis: str
    cpu_seconds_per_image: float
    """To read, ship and decode one."""
    images_per_second: float | None
    bytes_per_second: float | None
    cpus_needed: float | None
    cpus_there: int
    """Of the pods, less one for each worker's own thread."""


class CheckpointSize(BaseModel):
    """What a checkpoint takes."""

    total: int
    per_worker: int
    """The largest part, that of one worker."""
    copy_seconds: float
    """That training stands still while a worker's part is copied to host memory."""
    write_seconds: float
    """In the background, all workers at once."""
    bandwidth: float
    """Bytes a second that the storage takes of all workers together: assumed."""
    kept: int
    """Checkpoints that stay."""


class Way(BaseModel):
    """Settings under which a job that does not fit would."""

    overrides: list[str]
    """To be typed."""
    total: int
    """Bytes on the device."""
    costs: str
    """What is given for it."""


class Estimate(BaseModel):
    """What a job takes on the machines of a profile."""

    profile: str
    description: str
    nodes: list[NodesTaken]
    memory: Memory
    activations: Activations
    work: Work
    pace: Pace
    bill: Bill | None
    """None where the profile has no prices."""
    feed: Feed
    checkpoint: CheckpointSize
    ways: list[Way]
    """What would fit; empty where the job does."""
    warnings: list[str]
    assumptions: list[str]
