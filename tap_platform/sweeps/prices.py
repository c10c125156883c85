"""What trials cost: at a place by its profile, else a share of what the driver was told."""

from __future__ import annotations

from tap_platform.config.job import JobConfig
from tap_platform.config.load_profile import load_profile
from tap_platform.config.profile import KubernetesProfile, Profile
from tap_platform.config.sweep import SweepConfig
from tap_platform.estimate.bill import bill_of
from tap_platform.estimate.nodes import nodes_for
from tap_platform.runs.prices import currency, price_per_hour
from tap_platform.sweeps.budget import Prices


def prices_of(config: SweepConfig, base: JobConfig, at_once: int = 1) -> Prices:
    """The prices that a sweep and its trials count with.

    Args:
        config: the sweep.
        base: the job of its base.
        at_once: trials side by side, which share the machines that the driver was told of.

    Raises:
        ValueError: if money is limited at a place that has no prices, or the job finds no room.
    """
    if config.place is None:
        return _InShares(at_once)
    name, profile = load_profile(config.place)
    has_prices = bill_of(profile, nodes_for(base, profile), None) is not None
    if config.budget.money is not None and not has_prices:
        raise ValueError(
            f"budget.money {config.budget.money:g}: the profile {name} has no prices: give its"
            " groups price_per_hour, or limit hours or gpu_hours"
        )
    return _ByProfile(profile)


class _InShares:
    """All machines at a price that the driver's environment tells; 0 where it tells none."""

    of_head = 0.0

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self.currency = currency()

    def of_trial(self, job: JobConfig) -> float:
        """An equal share, however large the job."""
        return (price_per_hour() or 0.0) / self._at_once


class _ByProfile:
    """Nodes as a plan would choose them."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._known: dict[str, float] = {}
        self.currency = profile.currency

    @property
    def of_head(self) -> float:
        """The node that drives all trials."""
        is_own = isinstance(self._profile, KubernetesProfile)
        return self._profile.head.price_per_hour if is_own else 0.0  # type: ignore[union-attr]

    def of_trial(self, job: JobConfig) -> float:
        """The nodes of its workers."""
        key = job.identity
        if key not in self._known:
            bill = bill_of(self._profile, nodes_for(job, self._profile), None)
            self._known[key] = bill.per_hour - bill.head_per_hour if bill else 0.0
        return self._known[key]
