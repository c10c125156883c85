"""How a run stands, from what its place and its directory say."""

import pytest

from tap_platform.places.place import PlaceState
from tap_platform.places.states import combine
from tap_platform.runs.status import RunStatus


def said(state, why="", submitted=None):
    return PlaceState(
        "r-1", "tap", state, why, "2026-11-22T04:00:00Z", "cpu", "/mnt/r-1", None, "me", submitted
    )


def written(state, message=""):
    return RunStatus(state=state, step=40, max_steps=100, message=message, host="a-pod", attempt=1)


@pytest.mark.parametrize(
    ("place", "status", "state", "why"),
    [
        (said("queued", "no quota"), None, "queued", "no quota"),
        (said("starting", "no image"), None, "starting", "no image"),
        (said("running"), None, "running", ""),
        (said("gone", "nothing left"), None, "gone", "nothing left; how it ended"),
        (said("queued", "no quota"), written("interrupted"), "queued", "no quota"),
        (said("starting", "new cluster"), written("failed"), "starting", "new cluster"),
        (said("running"), written("running"), "running", ""),
        (
            said("running"),
            written("finished"),
            "running",
            "training is done; its cluster is ending",
        ),
        (
            said("running"),
            written("failed", "out of memory"),
            "running",
            "another attempt begins; the last one ended: out of memory",
        ),
        (said("stopping", "checkpoint"), written("running"), "stopping", "checkpoint"),
        (said("succeeded"), written("finished"), "succeeded", ""),
        (
            said("succeeded"),
            written("running"),
            "succeeded",
            "at step 40 of 100: the copy here is late",
        ),
        (
            said("succeeded"),
            written("interrupted", "SIGTERM"),
            "succeeded",
            "says interrupted still, at step 40 of 100: the copy here is late",
        ),
        (said("succeeded"), written("failed", "NaN"), "succeeded", "the copy here is late"),
        (
            said("failed", "head was lost"),
            written("running"),
            "failed",
            "head was lost (at step 40 of 100); go on",
        ),
        (said("failed", "exit code 1"), written("failed", "NaN"), "failed", "NaN"),
        (
            said("failed", "exit code 1"),
            written("interrupted", "SIGTERM"),
            "stopped",
            "SIGTERM (exit code 1)",
        ),
        (
            said("failed", "deadline"),
            written("finished"),
            "succeeded",
            "failed after its end: deadline",
        ),
        (said("stopped"), written("running"), "stopped", "at step 40 of 100; go on"),
        (said("stopped"), written("finished"), "succeeded", ""),
        (said("gone"), written("finished"), "succeeded", ""),
        (said("gone"), written("failed", "NaN"), "failed", "NaN"),
        (said("gone"), written("interrupted", "SIGTERM"), "stopped", "SIGTERM"),
        (
            said("gone"),
            written("running"),
            "lost",
            "go on from its last checkpoint: tap resubmit r-1",
        ),
        (said("gone"), written("preparing"), "lost", "tap resubmit r-1"),
        (said("unknown", "no answer"), written("finished"), "succeeded", ""),
        (
            said("unknown", "no answer"),
            written("running"),
            "unknown",
            "no answer; its directory says running, at step 40",
        ),
        (said("unknown", "no answer"), None, "unknown", "no answer"),
    ],
)
def test_both_words_together(place, status, state, why):
    found = combine(place, status)
    assert found.state == state
    assert why in found.why
    assert bool(why) == bool(found.why)


def test_what_has_ended():
    assert combine(said("gone"), written("running")).ended
    assert combine(said("unknown"), written("finished")).ended
    assert not combine(said("unknown"), written("running")).ended
    assert not combine(said("running"), written("finished")).ended


LATER = "2099-11-22T04:00:00Z"


@pytest.mark.parametrize(
    ("state", "end", "found", "why"),
    [
        ("failed", "interrupted", "failed", "head lost (at step 40 of 100); go on"),
        ("failed", "finished", "failed", "head lost (at step 40 of 100); go on"),
        ("stopped", "finished", "stopped", "at step 40 of 100"),
        ("gone", "failed", "lost", "its directory does not tell an end"),
        ("gone", "finished", "lost", "its directory does not tell an end"),
        ("unknown", "interrupted", "unknown", "its directory says interrupted, at step 40"),
        ("unknown", "finished", "unknown", "its directory says finished"),
        ("running", "finished", "running", "head lost"),
        ("starting", "failed", "starting", "head lost"),
        ("succeeded", "failed", "succeeded", "the copy here is late"),
    ],
)
def test_an_end_before_the_submission_is_of_an_earlier_attempt(state, end, found, why):
    seen = combine(said(state, "head lost", submitted=LATER), written(end, "an old word"))
    assert seen.state == found
    assert why in seen.why
    assert "an old word" not in seen.why
    assert seen.ended == (found not in ("unknown", "running", "starting"))
    status = written(end)
    of_now = combine(said(state, "head lost", submitted="2020-01-01T00:00:00Z"), status)
    assert of_now == combine(said(state, "head lost"), status)._replace(place=of_now.place)


def test_progress_before_anybody_knows_how_far():
    status = RunStatus(state="running", step=40, host="a-pod")
    assert combine(said("running"), status).progress == "40 of ?"


def test_progress():
    assert combine(said("running"), written("running")).progress == "40 of 100"
    assert combine(said("running"), None).progress == ""
