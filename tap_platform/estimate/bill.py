"""What a run's nodes cost."""

from __future__ import annotations

from collections.abc import Sequence

from tap_platform.config.machines import quantity_bytes
from tap_platform.config.profile import KubernetesProfile, Profile
from tap_platform.estimate.figures import Bill
from tap_platform.estimate.nodes import NodeShare


def bill_of(profile: Profile, shares: Sequence[NodeShare], hours: float | None) -> Bill | None:
    """The price of a job's pods and of the head; None where the profile has no prices.

    A pod that takes a part of a node costs that part.

    Args:
        profile: where the job runs.
        shares: its nodes, the first choice first.
        hours: how long it runs, if that is known.
    """
    first, *others = shares
    head = profile.head.price_per_hour if isinstance(profile, KubernetesProfile) else 0.0
    if not (first.group.price_per_hour or head):
        return None
    per_hour = head + _price(first)
    stand_ins = [head + _price(each) for each in others]
    return Bill(
        currency=profile.currency,
        per_hour=per_hour,
        head_per_hour=head,
        total=None if hours is None else hours * per_hour,
        spot=first.group.spot,
        on_stand_ins=max(stand_ins) if stand_ins else None,
    )


def _price(share: NodeShare) -> float:
    part = share.memory_bytes_per_pod / quantity_bytes(share.group.memory)
    return share.pods_most * share.group.price_per_hour * part
