"""A run that moves between numbers of workers follows the curve of one that does not."""

from __future__ import annotations

import pytest
import torch
from whole_runs import copy_as_cut, losses, run_in_workers, starts

from tap_platform.launch.changed_job import changed_job, write_changes
from tap_platform.launch.train import create_run, resume_run
from tap_platform.launch.worker_entry import run_worker, tell_start
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.files import read_json
from tap_platform.runs.status import read_status
from tap_platform.training.base_weights import job_of
from tap_platform.training.weights import load_model_weights

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

STRATEGIES = ("ddp", "zero_1", "zero_2", "zero_3")
TOLERANCE = 2e-4
"""Relative, of the losses: other workers add the same numbers in another order, in float32."""
LAST = 12


CHANGES = [
    ("one", 4),
    pytest.param("two_again", 8, marks=pytest.mark.long),
    pytest.param("four", 4, marks=pytest.mark.long),
]
"""Name of the fixture, and the step that it goes on from."""


@pytest.fixture(scope="module")
def unbroken(make_job):
    """By strategy: twelve steps on two workers, an epoch and a half."""
    runs = {
        strategy: create_run(
            make_job(
                f"resize-{strategy.replace('_', '-')}",
                model={"drop_path": 0.0, "decoder_dropout": 0.0},
                # Four workers and the controller leave no place for readers.
                data={"reader_tasks": 0},
                scale={"workers": 2, "strategy": strategy},
                checkpoint={"every_steps": 4, "keep_last": 5},
            )
        )
        for strategy in STRATEGIES
    }
    train_all(runs, 2)
    return runs


def train_all(runs, workers):
    """Train several runs in one start of the workers: importing takes longer than they do."""
    paths = [run.path for run in runs.values()]
    jobs = [job_of(run).model_dump_json() for run in runs.values()]

    def work(config):
        for job, path in zip(jobs, paths, strict=True):
            run_worker({"job": job, "run": str(path), "attempt": 1})

    run_in_workers(work, workers, paths[0].parent)


def cut(runs, step):
    """Copies of runs as a crash after a step would have left them."""
    copies = {strategy: create_run(job_of(run)) for strategy, run in runs.items()}
    for strategy, run in runs.items():
        copy_as_cut(run, copies[strategy], step)
    return copies


def resized(runs, step, workers):
    """Copies of runs, cut after a step, that went on with other workers."""
    copies = cut(runs, step)
    for run in copies.values():
        change = changed_job(job_of(run), [f"scale.workers={workers}"], run)
        write_changes(*change, run)
    train_all(copies, workers)
    return copies


@pytest.fixture(scope="module")
def one(unbroken):
    """From step 4 on with one worker."""
    return resized(unbroken, 4, workers=1)


@pytest.fixture(scope="module")
def two_again(one):
    """From step 8 on with two workers once more."""
    return resized(one, 8, workers=2)


@pytest.fixture(scope="module")
def four(unbroken):
    """From step 4 on with four workers."""
    return resized(unbroken, 4, workers=4)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("moved", "start"), CHANGES)
def test_other_workers_go_on_with_the_same_curve(strategy, moved, start, unbroken, request):
    expected, run = unbroken[strategy], request.getfixturevalue(moved)[strategy]
    assert starts(run) == [f"step-{start}"]
    assert set(losses(run)) == set(range(1, LAST + 1))
    assert losses(run) == pytest.approx(losses(expected), rel=TOLERANCE)
    weights, wanted = (load_model_weights(r.checkpoints / f"step-{LAST}") for r in (run, expected))
    assert weights.keys() == wanted.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-2, atol=1e-3, msg=name)


def test_a_run_that_is_resumed_with_more_workers_tells_of_it(unbroken):
    """With three, which do not divide the four partitions."""
    (run,) = cut({"ddp": unbroken["ddp"]}, 8).values()
    tell_start(run, EventLog(run.events, 1, rank=0), 2, None)
    resume_run(str(run.path), ["scale.workers=3"])
    assert losses(run) == pytest.approx(losses(unbroken["ddp"]), rel=TOLERANCE)
    assert read_json(run.config)["scale"]["workers"] == 3
    (changed,), (event,) = (read_events(run.events, kind) for kind in ("changed", "resized"))
    assert changed["changes"] == {"scale.workers": [2, 3]}
    assert (event["was"], event["now"]) == (2, 3)
    status = read_status(run.status)
    assert (status.state, status.world_size) == ("finished", 3)
