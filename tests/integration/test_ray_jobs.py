"""Runs as jobs of a real Ray cluster with a token: one head, whose drivers are shell scripts."""

from __future__ import annotations

import io
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import psutil
import pytest
import yaml
from dropping_proxy import DroppingProxy

from tap_platform.places.place import CodePackage, Submission
from tap_platform.places.ray_jobs.place import RayJobsPlace
from tap_platform.sweeps.directory import SweepDirectory
from tap_platform.sweeps.hand_over import submit_sweep
from tap_platform.sweeps.records import newest_records
from tests.chaos.processes import start, wait_until

pytestmark = pytest.mark.timeout(300)


def free_ports(count):
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in listeners]
    for each in listeners:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head():
    """The port of a dashboard, and its token."""
    # Sockets lie below it, whose names are short.
    with tempfile.TemporaryDirectory(prefix="tap-", dir="/tmp") as name:
        folder, token = Path(name), secrets.token_hex(16)
        gcs, port, agent, client = free_ports(4)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "HOME": name,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "CUDA_VISIBLE_DEVICES": "",
        }
        ray = str(Path(sys.executable).with_name("ray"))
        options = (
            "--head --block --num-cpus=1 --object-store-memory=80000000 --include-dashboard=true"
            f" --node-ip-address=127.0.0.1 --port={gcs} --dashboard-port={port}"
            f" --dashboard-agent-listen-port={agent} --ray-client-server-port={client}"
            f" --temp-dir={name}/ray"
        )
        node = start([ray, "start", *options.split()], environment, folder / "log", folder)
        try:
            assert node.says("Ray runtime started", seconds=120), node.said()
            yield port, token
        finally:
            everything = psutil.Process(node.entry.pid).children(recursive=True)
            node.send(signal.SIGTERM)
            node.wait(60)
            _, alive = psutil.wait_procs(everything, timeout=30)
            for process in alive:
                process.kill()


@pytest.fixture
def allowed(head, monkeypatch):
    """We have the token; the variables of another cluster must not lead us there."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", head[1])
    monkeypatch.setenv("RAY_ADDRESS", "ray://elsewhere:10001")


@pytest.fixture
def place(head, allowed):
    return RayJobsPlace("lab", f"http://127.0.0.1:{head[0]}")


@pytest.fixture
def submission(tmp_path, make_job):
    """A run whose driver is a script; nothing of it is left on the cluster to wait for."""

    def make(run, script, storage=tmp_path, code=None):
        job = make_job("tiny", project="trials", storage=str(storage))
        command = ("bash", "-c", script)
        files = {"job.json": "{}"}
        return Submission(run, "trials", "train", command, files, job, code, "ann@desk")

    return make


def test_a_run_is_followed_through_a_drop_and_stopped_with_grace(head, place, submission, tmp_path):
    go = tmp_path / "go"
    script = (
        # Longer than the three seconds that Ray gives by itself.
        "trap 'sleep 5; echo checkpoint; exit 1' TERM; cat .tap/job.json; echo; echo first;"
        f" while [ ! -e {go} ]; do sleep 0.1; done; echo second; while :; do sleep 0.1; done"
    )
    place.submit(submission("followed", script))
    state = place.state("followed")
    assert state[:4] == ("followed", "trials", "running", "")
    assert (state.by, state.run_directory) == ("ann@desk", f"{tmp_path}/trials/followed")
    with pytest.raises(ValueError, match="followed is on lab already, as job followed: wait"):
        place.submit(submission("followed", script))

    proxy = DroppingProxy(head[0])
    lines = RayJobsPlace("lab", proxy.url).logs("followed", follow=True, rank=None)
    seen = [next(lines)]
    while seen[-1] != "first":
        seen.append(next(lines))
    # Ray's own first line comes before or after it.
    assert any(line.startswith(f"runs lie in {tmp_path}") for line in seen)
    assert seen[-2] == "{}"
    before = proxy.taken
    proxy.drop()
    go.touch()
    assert next(lines) == "second"
    assert proxy.taken > before
    place.stop("followed", grace=30)
    assert list(lines)[-1] == "checkpoint"
    proxy.close()
    assert place.state("followed").state == "stopped"
    assert list(place.logs("followed", follow=False, rank=None))[-1] == "checkpoint"
    with pytest.raises(ValueError, match="followed does not run on lab: there is nothing to stop"):
        place.stop("followed", grace=30)


def test_a_run_that_ended_is_submitted_again_under_its_name(place, submission):
    place.submit(submission("again", "echo once; exit 3"))
    assert wait_until(lambda: place.state("again").ended, seconds=60)
    assert place.state("again")[2:4] == ("failed", "exit code 3: once")
    place.submit(submission("again", "echo twice"))
    assert "twice" in place.logs("again", follow=True, rank=None)
    assert place.state("again").state == "succeeded"
    assert [each.run for each in place.states()].count("again") == 1


def test_a_storage_that_the_cluster_has_not_is_refused_and_nothing_is_left(place, submission):
    with pytest.raises(ValueError, match="the storage /no/such/folder is no folder that can be"):
        place.submit(submission("nowhere", "echo here", storage="/no/such/folder"))
    assert place.state("nowhere").state == "gone"


def test_a_program_that_the_cluster_has_not_is_refused_and_nothing_is_left(place, submission):
    missing = replace(submission("missing", ""), command=("no-such-program",))
    with pytest.raises(ValueError, match="there is no program no-such-program on"):
        place.submit(missing)
    assert place.state("missing").state == "gone"


def test_the_callers_code_goes_before_what_is_installed(place, submission):
    packed = io.BytesIO()
    with ZipFile(packed, "w") as archive:
        archive.writestr("rich/__init__.py", "told = 'of the caller'")
    code = CodePackage(packed.getvalue(), 1, "abc", ())
    script = "python -c 'import rich; print(rich.told)'"
    place.submit(submission("with-code", script, code=code))
    assert "of the caller" in place.logs("with-code", follow=True, rank=None)


@pytest.mark.long
def test_a_sweep_is_driven_there_and_seen_from_here(head, allowed, make_job, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    job = make_job(
        "small",
        storage=str(tmp_path / "runs"),
        data={"reader_tasks": 0},  # a head of one CPU
        training={"max_steps": 4},
        evaluation={"every_steps": 2, "images": 4, "page": False},
        scale={"workers": 1},
    )
    spec = {
        "name": "there",
        "base": job.model_dump(mode="json"),
        "space": {"optimizer.lr": {"grid": [1e-4, 1e-3]}},
        "objective": {"metric": "train/loss", "mode": "min"},
        "search": {"type": "grid"},
    }
    (tmp_path / "runs").mkdir()
    Path("there.yaml").write_text(yaml.safe_dump(spec))
    on = f"http://127.0.0.1:{head[0]}"
    submit_sweep(Path("there.yaml"), (), on, None, with_code=False)
    place = RayJobsPlace(on, on)
    assert wait_until(lambda: place.state("there").ended, seconds=240)
    told = "\n".join(place.logs("there", follow=False, rank=None))
    assert place.state("there").state == "succeeded", told
    sweep = SweepDirectory.find(tmp_path / "runs", "there")
    assert place.state("there").run_directory == str(sweep.path)
    assert [each.state for each in newest_records(sweep.trials)] == ["finished", "finished"]
    assert "2/2" in told


def test_what_the_cluster_does_not_know(place):
    assert place.state("unheard").state == "gone"
    with pytest.raises(ValueError, match="lab does not know unheard"):
        next(place.logs("unheard", follow=True, rank=None))
    with pytest.raises(ValueError, match="unheard does not run on lab"):
        place.stop("unheard", grace=30)
    with pytest.raises(ValueError, match="shows no log of rank 1"):
        next(place.logs("unheard", follow=False, rank=1))
    with pytest.raises(ValueError, match="a Ray cluster ends no run at once"):
        place.stop("unheard", grace=0)


@pytest.mark.parametrize(("token", "said"), [(None, "wants a token (401)"), ("x", "(403)")])
def test_nobody_comes_in_without_the_token(place, submission, monkeypatch, token, said):
    # A Ray that this process started itself has set more than the token.
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    for ask in (
        lambda: place.submit(submission("refused", "echo here")),
        lambda: place.state("refused"),
        place.states,
        lambda: next(place.logs("refused", follow=True, rank=None)),
        lambda: place.stop("refused", grace=30),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            ask()
