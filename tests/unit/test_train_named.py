"""`tap train JOB --run NAME`, called again and again as a cluster does."""

from __future__ import annotations

import json
import shutil
import threading

import pytest
from test_launch_prepare import make_job, write_set

from tap_platform.cli import main
from tap_platform.config.load import load_job
from tap_platform.launch import attempt, named_run
from tap_platform.launch import train as launch
from tap_platform.launch.errors import RunFailedError, RunStoppedError
from tap_platform.launch.named_run import train_named
from tap_platform.launch.train import job_of
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import read_events
from tap_platform.runs.files import locked, read_json, write_json
from tap_platform.runs.mirrored import fetch_run, mirrored_runs
from tap_platform.runs.status import (
    RunStatus,
    driver_identity,
    read_status,
    update_status,
    write_status,
)


@pytest.fixture
def attempts(monkeypatch):
    """What each attempt does: nothing, or an error that it ends with."""
    ends = []

    def run_workers(job, run, attempt, console):
        if ends:
            raise ends.pop(0)

    monkeypatch.setattr(launch, "run_workers", run_workers)
    return ends


@pytest.fixture
def spec(tmp_path):
    """A resolved job as JSON, with numbers that YAML takes for words."""
    write_set(tmp_path)
    job = make_job(tmp_path)
    job = job.replaced(
        optimizer=job.optimizer.replaced(lr=1e-05, epsilon=1e-08),
        tracking=job.tracking.replaced(tracker="none"),
        evaluation=job.evaluation.replaced(final_images=0, page=False),
    )
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())
    return path


def the_run(spec):
    job = load_job(spec)
    return RunDirectory.find(job.storage, f"{job.project}/one")


def kinds(run):
    return [event["kind"] for event in read_events(run.events)]


def test_a_resolved_job_is_a_job_file(spec):
    assert load_job(spec).identity == load_job(spec, ["optimizer.lr=1e-05"]).identity
    assert load_job(spec).model_dump(mode="json") == json.loads(spec.read_text())
    assert load_job(spec, ["optimizer.lr=0.5"]).optimizer.lr == 0.5


def test_a_run_is_begun_gone_on_with_and_left_alone_when_finished(spec, attempts, capsys):
    attempts += [RunFailedError("a node is lost"), RunStoppedError("the head is drained")]
    with pytest.raises(RunFailedError, match="a node is lost"):
        train_named(spec, "one")
    with pytest.raises(RunStoppedError):
        train_named(spec, "one")
    run = train_named(spec, "one")
    assert run == the_run(spec)
    assert read_status(run.status).state == "finished"
    assert kinds(run) == ["started", "failed", "started", "interrupted", "started", "finished"]
    assert train_named(spec, "one") == run
    assert "one is finished, at step 2: there is nothing to do" in capsys.readouterr().out
    assert run.attempt == 3


def test_a_finished_run_goes_on_when_its_job_grows(spec, attempts):
    train_named(spec, "one")
    run = train_named(spec, "one", ["training.max_steps=5"])
    assert (run.attempt, read_status(run.status).step) == (2, 5)
    with pytest.raises(ValueError, match="max_steps 2 is below the 5 of this run"):
        train_named(spec, "one")


def test_what_leaves_it_the_same_run_may_change(spec, attempts):
    attempts.append(RunFailedError("no luck"))
    with pytest.raises(RunFailedError):
        train_named(spec, "one")
    run = train_named(spec, "one", ["scale.max_failures=3"])
    assert read_json(run.config)["scale"]["max_failures"] == 3
    assert kinds(run) == ["started", "failed", "changed", "started", "finished"]


def test_another_job_is_refused_by_name(spec, attempts):
    train_named(spec, "one")
    with pytest.raises(ValueError, match=r"cannot go on so:\n.*lr=0.5 \(was 1e-05\) would make"):
        train_named(spec, "one", ["optimizer.lr=0.5"])
    assert the_run(spec).attempt == 1


def test_a_run_that_was_killed_while_it_was_made_is_made_anew(spec, attempts):
    job = load_job(spec)
    half = RunDirectory.create(job.storage, job.project, "one")
    write_json(half.plan, {"half": "made"})
    run = train_named(spec, "one")
    assert read_json(run.plan)["job"]["name"] == job.name
    assert run.attempt == 1


@pytest.mark.parametrize("what", ["file", "pipeline", "attempt"])
def test_what_is_no_run_of_one_job_is_left_alone(what, spec, attempts):
    job = load_job(spec)
    other = RunDirectory.create(job.storage, job.project, "one")
    if what == "file":
        other.status.unlink()
        (other.path / "thesis.tex").write_text("not ours")
    elif what == "pipeline":
        write_json(other.pipeline, {})
    else:
        other.begin_attempt()
    with pytest.raises(ValueError, match="is there, and no run of one job: choose another name"):
        train_named(spec, "one")
    assert other.path.is_dir()


def test_of_two_drivers_one_makes_the_run_and_the_other_finds_it(spec, monkeypatch):
    told = []
    ready, go = threading.Event(), threading.Event()

    def run_workers(*_):
        ready.set()
        go.wait(20)

    def second():
        try:
            train_named(spec, "one")
        except ValueError as error:
            told.append(str(error))

    monkeypatch.setattr(launch, "run_workers", run_workers)
    threads = [threading.Thread(target=second) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert ready.wait(20)
    threading.Event().wait(0.3)
    go.set()
    for thread in threads:
        thread.join(20)
    if told:  # else the second came when the first had ended, and found the run finished
        assert "is being trained already, by process" in told[0]
    assert the_run(spec).attempt == 1


@pytest.fixture
def lost(spec, attempts):
    """A run whose driver, on another host, was lost with that host."""
    attempts.append(RunFailedError("lost"))
    with pytest.raises(RunFailedError):
        train_named(spec, "one")
    run = the_run(spec)
    status = RunStatus(state="running", attempt=1, host="head-of-yesterday", pid=7)
    write_status(run.status, status)
    return run


def test_a_driver_whose_host_is_gone_does_not_block(spec, lost):
    assert read_status(lost.status).state == "running"
    train_named(spec, "one")
    assert (read_status(lost.status).state, lost.attempt) == ("finished", 2)


def test_the_lock_of_a_lost_host_is_waited_for(spec, lost, monkeypatch):
    """A network file system keeps it for a while."""
    monkeypatch.setattr(attempt, "LOOK_EVERY_SECONDS", 0.01)
    held, released = threading.Event(), threading.Event()

    def hold():
        with locked(lost.path / attempt.DRIVER_LOCK):
            held.set()
            released.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(20)
    threading.Timer(0.1, released.set).start()
    train_named(spec, "one")
    holder.join()
    assert lost.attempt == 2


def test_a_lock_that_stays_is_told_with_its_file(spec, lost, monkeypatch):
    monkeypatch.setattr(named_run, "LOST_HOST_SECONDS", 0.0)
    with (
        locked(lost.path / attempt.DRIVER_LOCK),
        pytest.raises(ValueError, match=r"on head-of-yesterday: .* delete .*one/\.driver\.lock$"),
    ):
        train_named(spec, "one")


def test_a_driver_on_this_host_is_not_waited_for(spec, lost):
    update_status(lost.status, **driver_identity())
    with (
        locked(lost.path / attempt.DRIVER_LOCK),
        pytest.raises(ValueError, match=r"wait for its end, or stop it first$"),
    ):
        train_named(spec, "one")


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (None, 0),
        (RunFailedError("no luck"), 1),
        (RunStoppedError("asked to"), 1),
        (ValueError("bad"), 2),
    ],
)
def test_the_exit_status_tells_a_cluster_whether_to_try_again(
    end, status, spec, attempts, monkeypatch
):
    attempts += [end] if end else []
    monkeypatch.setattr("sys.argv", ["tap", "train", str(spec), "--run", "one"])
    if status:
        with pytest.raises(SystemExit) as exited:
            main()
        assert exited.value.code == status
    else:
        main()
    main()  # another try, or nothing to do
    assert read_status(the_run(spec).status).state == "finished"


def test_run_and_resume_are_one_or_the_other(spec, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tap", "train", str(spec), "--run", "one", "--resume", "one"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "give one of them" in capsys.readouterr().err


def test_a_run_is_read_in_its_mirror_once_its_storage_is_gone(spec, attempts, tmp_path):
    mirror = str(tmp_path / "mirror")
    run = train_named(spec, "one", [f"mirror.url={mirror}"])
    shutil.rmtree(run.storage)
    (listed,) = mirrored_runs(mirror)
    assert listed.status.state == "finished"
    fetched = fetch_run(mirror, run.project, "one")
    assert kinds(fetched) == ["started", "finished"]
    assert job_of(fetched).mirror.url == mirror


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://key:word@bucket/runs", "the URL holds a key or password"),
        ("gopher://host/runs", "there are no gopher:// URLs"),
    ],
)
def test_a_mirror_that_cannot_be_is_refused_before_anything_is_made(url, told, spec):
    with pytest.raises(ValueError, match=told):
        train_named(spec, "one", [f"mirror.url={url}"])
    assert not list(RunDirectory.all(load_job(spec).storage))
