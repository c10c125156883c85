"""What every place tells a run's driver by variables: who answers for it, and what it costs."""

from __future__ import annotations

from tap_platform.config.profile import Profile
from tap_platform.places.place import Submission
from tap_platform.runs.prices import CURRENCY, OWNER, PRICE


def bill_variables(submission: Submission, profile: Profile | None) -> dict[str, str]:
    """For the bill that is made of the run directory; the price only where the profile has one.

    Raises:
        ValueError: if the profile's machines do not hold the job.
    """
    owner = {OWNER: submission.by}
    if profile is None or submission.job is None:
        return owner
    from tap_platform.estimate.bill import bill_of
    from tap_platform.estimate.nodes import nodes_for

    bill = bill_of(profile, nodes_for(submission.job, profile), None)
    if bill is None:
        return owner
    return owner | {PRICE: f"{bill.per_hour:g}", CURRENCY: bill.currency}
