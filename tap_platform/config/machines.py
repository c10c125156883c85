"""The machines of a cluster: what is in a node, what it costs, and how work finds it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from tap_platform.config.base import Section


class Gpu(NamedTuple):
    """What a plan needs to know of a kind of GPU."""

    memory_gb: float
    """Billions of bytes that a process can count on. Of HBM makers sell a little more than they
    say (an H100 of 80 GB has 84.9 billions for processes), which is kept as room; of GDDR a part is
    taken for error correction, and less is left than they say."""
    tflops: float
    """Dense bf16, without sparsity."""


GPUS = {
    "H100": Gpu(80, 989),
    "H200": Gpu(141, 989),
    "B200": Gpu(180, 2250),
    "A100": Gpu(80, 312),
    "A100-40GB": Gpu(40, 312),
    "L40S": Gpu(47, 362),
    "L4": Gpu(23, 121),
    "A10G": Gpu(23, 70),
    "V100": Gpu(32, 125),
    "T4": Gpu(15, 65),
}
"""Kinds of GPU by their name; the last two have no bf16, and are told by their fp16."""

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]i?)?")
_FACTORS = {
    "": 1,
    **{letter: 1000**power for power, letter in enumerate("KMGTP", 1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("KMGTP", 1)},
}


def quantity_bytes(text: str) -> int:
    """Bytes of a Kubernetes quantity such as `64Gi`.

    Raises:
        ValueError: if it is none.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no quantity of memory: write 64Gi, 1.5Ti or 500M")
    return int(float(match[1]) * _FACTORS[match[2] or ""])


def _checked_quantity(text: str) -> str:
    quantity_bytes(text)
    return text


Memory = Annotated[str, AfterValidator(_checked_quantity)]
"""A quantity of memory, as Kubernetes writes it: `64Gi`."""
DnsLabel = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""Lower-case letters, digits and `-`, a letter first: what Kubernetes takes as a name."""


class GpuConfig(Section):
    """The GPUs of a node."""

    type: str
    """Kind of GPU: a known one, such as `H100`, or any name beside `memory_gb` and `tflops`."""
    count: int = Field(gt=0)
    """GPUs of one node."""
    memory_gb: float = Field(0, ge=0)
    """Memory of one, in billions of bytes; 0 takes that of the known kind."""
    tflops: float = Field(0, ge=0)
    """Dense bf16 peak of one; 0 takes that of the known kind."""
    resource: str = "nvidia.com/gpu"
    """Name under which Kubernetes counts them."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind not in GPUS:
            return value
        known = GPUS[kind]
        given = {key: each for key, each in value.items() if each != 0}
        return {"memory_gb": known.memory_gb, "tflops": known.tflops, **given}

    @model_validator(mode="after")
    def _is_told(self) -> Self:
        if not (self.memory_gb and self.tflops):
            raise ValueError(
                f"gpu.type {self.type!r} is not known ({', '.join(GPUS)}): give memory_gb and"
                " tflops (dense bf16) beside it"
            )
        return self


class Toleration(Section):
    """A taint of nodes that pods put up with."""

    key: str | None = None
    """Of the taint; null with `Exists` tolerates all."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Whether its value counts."""
    value: str | None = None
    """Of the taint, with `Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Which one; null: all."""


class TopologySpread(Section):
    """How pods are shared out over zones or racks."""

    topology_key: str
    """Label of nodes, such as `topology.kubernetes.io/zone`."""
    max_skew: int = Field(1, gt=0)
    """By how many pods two of them may differ."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "ScheduleAnyway"
    """What becomes of a pod that finds no such place."""


class Placement(Section):
    """Where a pod may land, and what its site adds to it."""

    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes that are put up with."""
    topology_spread: tuple[TopologySpread, ...] = ()
    """How pods are shared out."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables of the container, such as NCCL_SOCKET_IFNAME; secrets come from `secrets`."""
    resources: dict[str, str] = Field(default_factory=dict)
    """Further resources of the container, such as `rdma/hca: "8"`: requests and limits alike."""


class HeadConfig(Placement):
    """The node of Ray's head, where the driver of a run lives too. It trains nothing."""

    cpus: int = Field(4, gt=0)
    """CPUs of it."""
    memory: Memory = "16Gi"
    """Memory of it: Ray's services, the driver and the evaluation at the end."""
    price_per_hour: float = Field(0.0, ge=0)
    """What it costs."""


class NodeGroup(Placement):
    """Nodes of one kind. A pod takes a whole node, or as much of one as a small job needs."""

    name: DnsLabel
    """Of the group."""
    gpu: GpuConfig | None = None
    """GPUs of one node; null: it trains on CPUs."""
    cpus: int = Field(gt=0)
    """CPUs of one node that pods may take: less than it has, for what else runs there."""
    memory: Memory
    """Memory of one node that pods may take."""
    least: int = Field(0, ge=0)
    """Nodes that are kept while a run lasts, needed or not."""
    most: int = Field(1, gt=0)
    """Nodes that there are."""
    price_per_hour: float = Field(0.0, ge=0)
    """What one node costs, in the profile's currency."""
    spot: bool = False
    """Whether its owner takes nodes back at short notice. The next group takes over then."""
    network_gbps: float = Field(0.0, ge=0)
    """Speed of a node to other nodes, in gigabits a second; 0: not known, and not planned with."""
    nvlink_gbps: float = Field(0.0, ge=0)
    """Speed of a GPU to the others of its node, one way, in gigabits a second; 0: not known."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"group {self.name}: least {self.least} is above most {self.most}")
        return self
