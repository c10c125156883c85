"""The controller's callback that has workers save before there are more or fewer of them."""

from __future__ import annotations

import pickle
import threading

import pytest

from tap_platform.launch.resizes import RESIZE, CheckpointBeforeResize
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.stop_request import ASKED_TO_END, StopRequest


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path, "tap", "elastic")
    StopRequest(run).clear()
    return run


def a_controller_of(run, grace):
    """The callback as it comes to Ray's controller, workers being started."""
    callback = pickle.loads(pickle.dumps(CheckpointBeforeResize(run, attempt=2, grace=grace)))
    callback.after_worker_group_training_start(None)
    return callback


def answering(run, then=lambda request: None):
    """Workers that do as they are asked."""
    said = []

    def work():
        request = StopRequest(run)
        while not (request.asked() and request.path.stat().st_size):
            pass  # it is emptied first
        said.append(request.why)
        then(request)
        EventLog(run.events, attempt=2, rank=0).record(ASKED_TO_END, step=7, why=request.why)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, said


def test_workers_are_asked_and_waited_for(run):
    EventLog(run.events, attempt=1).record(ASKED_TO_END, step=3, why="of an attempt before")
    thread, said = answering(run)
    a_controller_of(run, grace=30).before_controller_execute_resize_decision(None)
    thread.join()
    assert said == [RESIZE]
    assert not StopRequest(run).asked(), "the workers that follow train on"


def test_workers_that_do_not_answer_have_their_time(run):
    a_controller_of(run, grace=0.2).before_controller_execute_resize_decision(None)
    assert not StopRequest(run).asked()


def test_what_the_driver_asks_meanwhile_stays(run):
    thread, _ = answering(run, then=lambda request: request.ask("SIGTERM"))
    a_controller_of(run, grace=30).before_controller_execute_resize_decision(None)
    thread.join()
    assert StopRequest(run).why == "SIGTERM"


@pytest.mark.parametrize("end", ["before_worker_group_shutdown", "before_worker_group_abort", None])
def test_where_no_worker_trains_nobody_is_asked(run, end):
    callback = CheckpointBeforeResize(run, attempt=2, grace=60)
    if end:
        callback.after_worker_group_training_start(None)
        getattr(callback, end)(None)
    callback.before_controller_execute_resize_decision(None)
    assert not StopRequest(run).asked()
