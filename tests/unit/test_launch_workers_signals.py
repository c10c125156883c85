"""What a signal does to a driver whose workers train."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time

import pytest

from tap_platform.launch.signals import own_signals, run_until_signalled
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.stop_request import StopRequest

BOTH = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def handlers():
    """Whoever handled the signals before handles them after the test."""
    before = {number: signal.getsignal(number) for number in BOTH}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def handled():
    return {number: signal.getsignal(number) for number in BOTH}


class Work:
    """Sends its own process some signals, and ends some time after it was asked to."""

    def __init__(self, *signals, ends_when_asked=True):
        self.signals = signals
        self.ends_when_asked = ends_when_asked
        self.asked = []
        self.told = threading.Event()
        self.ended = threading.Event()

    def __call__(self):
        for number in self.signals:
            os.kill(os.getpid(), number)
            time.sleep(0.05)  # two at once may come as one, or in another order
        if self.signals:
            self.told.wait(20)
            if not self.ends_when_asked:
                time.sleep(20)
        self.ended.set()

    def ask(self, name):
        self.asked.append(name)
        self.told.set()


def test_work_without_a_signal_just_ends(handlers):
    work = Work()
    assert run_until_signalled(work, work.ask, 20) is None
    assert work.ended.is_set()
    assert not work.asked
    assert handled() == handlers


@pytest.mark.parametrize("number", BOTH)
def test_work_is_asked_to_stop_and_waited_for(number):
    work = Work(number)
    assert run_until_signalled(work, work.ask, 20) == number.name
    assert work.asked == [number.name]
    assert work.ended.is_set()


def test_work_that_outlives_its_grace_is_left():
    work = Work(signal.SIGTERM, ends_when_asked=False)
    with pytest.raises(SystemExit, match="143"):
        run_until_signalled(work, work.ask, 0.01)
    assert not work.ended.is_set()


@pytest.mark.parametrize("first", BOTH)
def test_ctrl_c_after_a_signal_does_not_wait(first):
    work = Work(first, signal.SIGINT, ends_when_asked=False)
    with pytest.raises(SystemExit, match=str(128 + first)):
        run_until_signalled(work, work.ask, 20)
    assert work.asked == [first.name]


@pytest.mark.parametrize("first", BOTH)
def test_a_second_sigterm_hurries_nobody(first, handlers):
    """KubeRay stops a job by SIGTERM, and then the hook of its pod does."""
    work = Work(first, signal.SIGTERM, signal.SIGTERM)
    assert run_until_signalled(work, work.ask, 20) == first.name
    assert work.asked == [first.name]
    assert work.ended.is_set()
    signal.raise_signal(signal.SIGTERM)  # while the last records are brought to the tracker
    assert handled()[signal.SIGINT] == handlers[signal.SIGINT]


def test_what_goes_wrong_is_told():
    def fail():
        raise LookupError("no luck")

    with pytest.raises(LookupError, match="no luck"):
        run_until_signalled(fail, print, 20)


def test_another_thread_leaves_the_signals_alone():
    work, told = Work(), []
    thread = threading.Thread(target=lambda: told.append(run_until_signalled(work, work.ask, 20)))
    thread.start()
    thread.join()
    assert told == [None]
    assert work.ended.is_set()


def terminated_in_a_block():
    with own_signals():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as Ray Train takes it
        signal.raise_signal(signal.SIGTERM)


def test_a_block_is_ended_and_the_keyboard_given_back(handlers):
    with pytest.raises(SystemExit, match="143"):
        terminated_in_a_block()
    assert handled()[signal.SIGINT] == handlers[signal.SIGINT]
    signal.raise_signal(signal.SIGTERM)  # while the block is cleaned up after


def test_a_request_is_there_until_it_is_cleared(tmp_path):
    request = StopRequest(RunDirectory(tmp_path))
    assert not request.asked()
    request.clear()
    assert not request.asked()
    request.ask("SIGTERM")
    assert StopRequest(RunDirectory(tmp_path)).asked()
    request.clear()
    assert not request.asked()


def test_a_full_disk_does_not_keep_a_request_from_being_asked(tmp_path):
    request = StopRequest(RunDirectory(tmp_path))
    request.clear()
    roomy = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, roomy[1]))
    try:
        request.ask("SIGTERM")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, roomy)
    assert request.asked()


def test_a_request_that_cannot_be_read_is_none(tmp_path):
    request = StopRequest(RunDirectory(tmp_path))
    request.path.mkdir()
    assert not request.asked()
