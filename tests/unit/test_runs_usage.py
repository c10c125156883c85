"""Hours and failures of a run, from its events."""

from __future__ import annotations

import pytest

from tap_platform.runs.usage import Usage


def events(*told):
    """Events from (second, kind, what else)."""
    return [
        {"time": f"2026-11-21T10:{s // 60:02}:{s % 60:02}.000+00:00", "kind": kind, **dict(*more)}
        for s, kind, *more in told
    ]


NOW = 1795255200.0  # 2026-11-21T10:00:00 UTC


def seconds(usage, at):
    now = NOW + at
    return usage.driver_hours(now) * 3600, usage.worker_hours(now) * 3600


def taken(*told):
    usage = Usage()
    usage.take(events(*told))
    return usage


def test_a_run_that_goes_on_counts_until_now():
    usage = taken((0, "started"), (10, "training", {"workers": 4}))
    assert seconds(usage, 30) == pytest.approx((30, 80))
    assert seconds(usage, 60) == pytest.approx((60, 200))
    assert usage.failures == 0


def test_a_run_that_has_ended_counts_no_more():
    usage = taken((0, "started"), (10, "training", {"workers": 2}), (40, "finished"))
    assert seconds(usage, 3000) == pytest.approx((40, 60))


def test_workers_that_come_again_are_failures_but_not_after_a_notice():
    usage = taken(
        (0, "started"),
        (10, "training", {"workers": 2}),
        (20, "training", {"workers": 2}),
        (30, "preempted"),
        (50, "training", {"workers": 2}),
        (60, "returned"),
        (60, "training", {"workers": 2}),
        (63, "asked_to_end"),
        (63, "training", {"workers": 2}),
        (65, "checkpoint_failed"),
        (70, "finished"),
    )
    assert (usage.failures, usage.checkpoint_failures) == (1, 1)
    assert seconds(usage, 70) == pytest.approx((70, 2 * (10 + 10 + 10 + 10)))


def test_an_elastic_run_that_grows_has_lost_nothing_and_one_that_shrinks_has():
    usage = taken(
        (0, "started"),
        (10, "training", {"workers": 2}),
        (20, "training", {"workers": 3}),
        (20, "resized", {"was": 2, "now": 3}),
        (30, "training", {"workers": 1}),
        (30, "resized", {"was": 3, "now": 1}),
        (40, "finished"),
    )
    assert usage.failures == 1
    assert seconds(usage, 99)[1] == pytest.approx(20 + 30 + 10)


def test_a_driver_that_was_killed_lasted_until_its_last_event():
    usage = taken(
        (0, "started"),
        (10, "training", {"workers": 1}),
        (30, "checkpoint"),
        (600, "started"),
        (610, "training", {"workers": 1}),
        (620, "interrupted"),
        (700, "started"),
        (710, "failed"),
    )
    assert usage.failures == 2
    assert seconds(usage, 9999) == pytest.approx((30 + 20 + 10, 20 + 10))


def test_events_may_come_in_pieces():
    told = ((0, "started"), (10, "training", {"workers": 3}), (20, "training", {"workers": 3}))
    usage = Usage()
    for event in events(*told):
        usage.take([event])
    whole = taken(*told)
    assert seconds(usage, 50) == seconds(whole, 50)
    assert usage.failures == whole.failures == 1
