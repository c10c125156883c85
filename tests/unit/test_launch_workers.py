"""What a cluster lacks is told before workers are scheduled."""

from __future__ import annotations

import signal

import pytest
import ray

from tap_platform.config.load import merge, validate_job
from tap_platform.launch.workers import _use_gpu, own_signals

TREE = {
    "name": "small",
    "model": {"preset": "tiny"},
    "data": {"source": "scenes", "partitions": 4},
    "training": {"max_steps": 2, "global_batch": 4},
    "scale": {"workers": 2},
}


def uses_gpu(monkeypatch, gpus, **changes):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 9.0, "GPU": float(gpus)})
    return _use_gpu(validate_job(merge(TREE, changes), where="small"))


def test_gpus_are_taken_where_there_are_enough(monkeypatch):
    assert uses_gpu(monkeypatch, 2)
    assert not uses_gpu(monkeypatch, 0)
    assert not uses_gpu(monkeypatch, 2, scale={"device": "cpu"})


@pytest.mark.parametrize(
    ("gpus", "changes", "message"),
    [
        (1, {}, "workers 2 take a GPU each, the cluster has 1"),
        (0, {"scale": {"device": "gpu"}}, "workers 2 take a GPU each, the cluster has 0"),
        (0, {"training": {"precision": "fp16"}}, "fp16 needs a GPU, the cluster has none"),
    ],
)
def test_too_few_gpus_are_refused(monkeypatch, gpus, changes, message):
    with pytest.raises(ValueError, match=message):
        uses_gpu(monkeypatch, gpus, **changes)


def terminated_while_training():
    with own_signals():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as Ray Train takes it
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_ends_training_and_the_keyboard_is_given_back():
    ctrl_c, terminate = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match="143"):
            terminated_while_training()
        assert signal.getsignal(signal.SIGINT) == ctrl_c
    finally:
        signal.signal(signal.SIGTERM, terminate)
