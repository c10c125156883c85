"""What a run takes along to a Ray cluster, what is started there, and how its jobs are read."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from ray.job_submission import JobDetails, JobStatus

from tap_platform.places.place import CodePackage, Submission
from tap_platform.places.ray_jobs import package
from tap_platform.places.ray_jobs.jobs import newest_of_each, next_id, of_run, state_of
from tap_platform.places.ray_jobs.package import (
    entry_point,
    environment_of,
    write_working_directory,
)
from tap_platform.places.ray_jobs.place import RayJobsPlace

RUN = "tiny-20261121-153000-a1b2"


@pytest.fixture
def submission(tmp_path, make_job):
    def make(*command, storage=tmp_path, **changes):
        job = make_job("tiny", project="trials", **changes)
        # As a place would have it: nothing is anchored here.
        job = job.replaced(storage=str(storage))
        files = {"job.json": job.model_dump_json()}
        return Submission(RUN, "trials", "train", command, files, job, None, "ann@desk")

    return make


def code_of(**files):
    packed = io.BytesIO()
    with ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/"), text)
    return CodePackage(packed.getvalue(), len(files), "abc", ())


def test_code_and_files_lie_side_by_side(tmp_path):
    path = tmp_path / "package.zip"
    write_working_directory(path, {"job.json": "{}"}, code_of(tap_platform__x="x = 1"))
    with ZipFile(path) as archive:
        assert archive.namelist() == ["tap_platform/x", ".tap/job.json"]
        assert archive.read(".tap/job.json") == b"{}"


def test_the_same_content_is_the_same_package(tmp_path):
    first, second = tmp_path / "1.zip", tmp_path / "2.zip"
    write_working_directory(first, {"job.json": "{}", "a": ""}, None)
    write_working_directory(second, {"a": "", "job.json": "{}"}, None)
    assert first.read_bytes() == second.read_bytes()


def test_a_package_that_ray_would_not_take_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "MOST_BYTES", 1 << 20)
    large = code_of(weights="x" * (1 << 20))
    with pytest.raises(ValueError, match="have 1 MiB, Ray takes less than 1"):
        write_working_directory(tmp_path / "package.zip", {}, large)


def shell(line):
    """What Ray does with it."""
    path = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(line, shell=True, env=path, check=False, capture_output=True, text=True)


def test_the_program_takes_the_shells_place(submission, tmp_path):
    said = shell(entry_point(submission("sh", "-c", 'echo "$1 of $PPID"', "-", "it's")))
    first, second = said.stdout.splitlines()
    assert first.startswith(f"runs lie in {tmp_path}, this is ")
    # Were there a shell in between, it would be the parent.
    assert second == f"it's of {os.getpid()}"
    assert said.returncode == 0


@pytest.mark.parametrize("storage", ["/no/such/folder", "/proc/version"])
def test_a_storage_that_cannot_be_used_ends_it_at_once(submission, tmp_path, storage):
    said = shell(entry_point(submission("touch", str(tmp_path / "begun"), storage=storage)))
    assert said.returncode == 2
    assert said.stdout.startswith(f"tap: the storage {storage} is no folder that can be written")
    assert not (tmp_path / "begun").exists()


def test_a_program_that_is_not_there_is_told(submission):
    said = shell(entry_point(submission("no-such-program")))
    assert said.returncode == 2
    assert said.stdout.startswith("tap: there is no program no-such-program on ")


def test_a_command_without_a_job_has_no_storage_to_look_for():
    submission = Submission(RUN, "tap", "data", ("tap", "data", "x y"), {}, None, None, "ann@desk")
    assert entry_point(submission) == "exec tap data 'x y'"
    assert environment_of(submission) == {}


def test_ray_waits_for_a_checkpoint(submission, tmp_path):
    changes = {"scale": {"grace_seconds": 90}, "tracking": {"final_timeout": 20}}
    changes |= {"mirror": {"final_timeout": 5}, "alerts": {"final_timeout": 2}}
    told = environment_of(submission("tap", **changes))
    assert told["RAY_JOB_STOP_WAIT_TIME_S"] == "127"
    assert told["TAP_RUN_DIRECTORY"] == f"{tmp_path}/trials/{RUN}"


def test_what_would_be_sent_can_be_read(submission, tmp_path):
    place = RayJobsPlace("lab", "ray://head:10001")
    job = submission("tap", "train", ".tap/job.json", mirror={"url": "s3://bucket/runs/"})
    told = yaml.safe_load(place.render(job))
    assert told["address"] == "http://head:8265"
    assert told["submission_id"] == RUN
    assert told["entrypoint"].endswith(f"enter {tmp_path} tap train .tap/job.json")
    assert told["metadata"]["tap-platform/run-directory"] == f"{tmp_path}/trials/{RUN}"
    assert told["metadata"]["tap-platform/mirror"] == f"s3://bucket/runs/trials/{RUN}"
    assert told["runtime_env"]["working_dir"] == {".tap/job.json": job.files["job.json"]}


def test_a_storage_that_every_node_reads_otherwise_is_refused(submission):
    place = RayJobsPlace("lab", "http://head:8265")
    with pytest.raises(ValueError, match="the storage runs is no folder that all nodes"):
        place.render(submission("tap", storage="runs"))


def job(identity, status=JobStatus.RUNNING, run=RUN, start=1, **told):
    written = {"tap-platform/run": run, "tap-platform/project": "trials"} if run else None
    return JobDetails(
        type="SUBMISSION",
        submission_id=identity,
        status=status,
        entrypoint="",
        metadata=written,
        start_time=start,
        **told,
    )


def test_the_jobs_of_a_run_are_told_apart():
    jobs = [
        job(f"{RUN}-2", start=5),
        job("somebody's", run=None),
        job("other", run="other", start=3),
        job(RUN, status=JobStatus.FAILED, start=2),
    ]
    assert [each.submission_id for each in of_run(jobs, RUN)] == [RUN, f"{RUN}-2"]
    assert [each.submission_id for each in newest_of_each(jobs)] == ["other", f"{RUN}-2"]
    assert next_id(RUN, jobs) == f"{RUN}-3"
    assert next_id(RUN, jobs[:1]) == RUN
    assert next_id(RUN, []) == RUN


FAILED = "Job entrypoint command failed with exit code {}, last available logs (truncated):\n{}"


@pytest.mark.parametrize(
    ("status", "message", "code", "state", "why"),
    [
        ("PENDING", "Job has not started yet.", None, "starting", "Job has not started yet."),
        ("RUNNING", "Job is currently running.", None, "running", ""),
        ("SUCCEEDED", "Job finished successfully.", 0, "succeeded", ""),
        ("STOPPED", "Job was intentionally stopped.", None, "stopped", ""),
        (
            "FAILED",
            FAILED.format(2, "x\ntap: no data\n  in /data"),
            2,
            "failed",
            "no data in /data",
        ),
        (
            "FAILED",
            FAILED.format(3, "once\nRunning entrypoint for job x: y"),
            3,
            "failed",
            "exit code 3: once",
        ),
        ("FAILED", FAILED.format(137, "a\nKilled\n"), 137, "failed", "exit code 137: Killed"),
        ("FAILED", "Job supervisor actor died", None, "failed", "Job supervisor actor died"),
        ("FAILED", None, None, "failed", ""),
    ],
)
def test_how_a_job_stands(status, message, code, state, why):
    told = job(
        RUN, JobStatus(status), message=message, driver_exit_code=code, start=1_700_000_000_000
    )
    seen = state_of(told, "lab")
    assert (seen.state, seen.why, seen.place) == (state, why, "lab")
    assert (seen.run, seen.project) == (RUN, "trials")
    assert seen.since == "2023-11-14T22:13:20.000+00:00"
