from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tap_platform import cli
from tap_platform.config.load import load_job

ROOT = Path(__file__).resolve().parents[2]
JOB = str(ROOT / "jobs/tap_tiny_scenes.yaml")
HEAVY = ("torch", "ray", "lightning", "deepspeed", "mlflow", "wandb")

IMPORTED_AFTER = """
import sys
from tap_platform.cli import main
for arguments in (
    ["--help"], ["schema"], ["plan", sys.argv[1]], ["train", "--help"], ["data", "--help"],
    ["data", "import", "coco", "--help"], ["data", "convert", "--help"],
    ["data", "priors", "--help"], ["data", "inspect", "--help"], ["data", "verify", "--help"],
    ["data", "label", "--help"], ["run", "--help"], ["ablate", "--help"], ["report", "--help"],
    ["schema", "--sweep"], ["sweep", "--help"], ["compare", "--help"], ["alert", "--help"],
):
    sys.argv[1:], spec = arguments, sys.argv[1]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, stop.code
    sys.argv[1:] = [spec]
    found = [name for name in %r if name in sys.modules]
    print("heavy after", arguments[0], found, file=sys.stderr)
"""


@pytest.fixture
def refused(tap):
    """Run `tap` and return what it says to a mistake."""

    def run(*arguments):
        status, _, errors = tap(*arguments)
        assert status == 2, errors
        assert "Traceback" not in errors
        assert "pydantic" not in errors
        return errors

    return run


def test_looking_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED_AFTER % (HEAVY,), JOB],
        capture_output=True,
        text=True,
        check=True,
    )
    told = [line for line in done.stderr.splitlines() if line.startswith("heavy after")]
    verbs = ["--help", "schema", "plan", "train", *["data"] * 7, "run", "ablate", "report"]
    verbs += ["schema", "sweep", "compare", "alert"]
    assert told == [f"heavy after {verb} []" for verb in verbs]


def test_what_a_ray_task_raised_is_told_without_its_traceback(tap, monkeypatch):
    from ray.exceptions import RayTaskError

    def fail(*_, **__):
        raise RayTaskError("read", "Traceback", OSError("the store is down")).as_instanceof_cause()

    monkeypatch.setattr(cli.tap, "main", fail)
    assert tap("data", "verify", "data") == (2, "", "tap: the store is down\n")


def test_mistakes_end_a_process_with_a_message_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from tap_platform.cli import main; main()", "plan", JOB, "lr=1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"tap: {JOB}: unknown key 'lr'; did you mean 'optimizer.lr'?\n"


@pytest.mark.parametrize(
    "verb",
    [
        (),
        ("plan",),
        ("train",),
        ("runs", "sync"),
        ("predict",),
        ("app",),
        ("data", "import", "coco"),
        ("sweep",),
        ("compare",),
        ("alert",),
    ],
)
def test_every_verb_explains_itself(tap, verb):
    for flag in ("-h", "--help"):
        status, output, errors = tap(*verb, flag)
        assert (status, errors) == (0, "")
        assert output.startswith("Usage: tap")


def test_the_version_is_that_of_the_package(tap):
    from tap_platform import __version__

    assert tap("--version") == (0, f"tap, version {__version__}\n", "")


def test_a_plan_as_json_is_the_resolved_job_and_its_arithmetic(tap):
    changes = ("training.global_batch=8", "scale.workers=2", "training.micro_batch=1")
    status, output, _ = tap("plan", JOB, *changes, "--json")
    plan = json.loads(output)
    job = load_job(JOB, changes)
    assert status == 0
    assert plan["job"] == job.model_dump(mode="json")
    assert plan["identity"] == job.identity
    assert plan["batch"]["accumulation"] == 4


def test_a_plan_for_people_tells_config_parameters_and_batches(tap):
    changes = ("training.max_steps=400", "training.global_batch=8", "scale.workers=2")
    status, output, _ = tap("plan", JOB, *changes)
    assert status == 0
    assert "max_steps: 400" in output
    assert load_job(JOB, changes).identity in output
    assert "image_encoder" in output
    assert "A global batch of 8 images = 2 workers x 4 images x 1 micro-batches" in output


def test_shards_of_others_are_indexed(tap, tmp_path):
    with tarfile.open(tmp_path / "sa_000000.tar", "w") as tar:
        for name in ("./sa_1.jpg", "./sa_1.json", "./sa_2.jpg", "./sa_2.json"):
            tar.addfile(tarfile.TarInfo(name))
    assert tap("data", "index", tmp_path) == (0, f"{tmp_path}: 2 samples in 1 shards\n", "")
    assert (tmp_path / "index.json").exists()


@pytest.mark.parametrize(
    ("of", "key"),
    [
        ((), "optimizer"),
        (("--pipeline",), "stages"),
        (("--profile",), None),
        (("--sweep",), "space"),
    ],
)
def test_the_schema_is_json(tap, of, key):
    status, output, _ = tap("schema", *of)
    assert status == 0
    assert key is None or key in json.loads(output)["properties"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plan"], "Missing argument 'SPEC'"),
        (["plan", "nowhere.yaml"], "'nowhere.yaml' does not exist"),
        (["plan", JOB, "optimizer.lrr=3"], "did you mean 'optimizer.lr'?"),
        (["plan", JOB, "optimizer.lr"], "expected key=value"),
        (["plan", JOB, "scale.workers=5"], "take 4 workers at most"),
        (["plam"], "No such command 'plam'"),
        (["train"], "name a job file, such as"),
        (["train", JOB, "--resume", "run"], "--resume takes the job from the run; leave out"),
        (["train", "--resume", "nothing"], "there is no run 'nothing' in runs"),
        (["runs", "sync", "nothing"], "there is no run 'nothing' in runs"),
        (["data", "scenes", "out", "--train", "0"], "Invalid value for '--train'"),
        (["data", "scenes", "out", "--size", "8"], "Invalid value for '--size'"),
        (["data", "import", "coco", "in", "out", "--val-fraction", "1"], "'--val-fraction'"),
        (["data", "import", "coco", "nowhere", "out"], "no such folder: nowhere"),
        (["data", "index", "nowhere"], "no tars in nowhere"),
        (["data", "import", "coco", "in", "out", "--vocabulary", "coco"], "Did you mean coco_80?"),
    ],
)
def test_mistakes_are_told_in_words(refused, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert told in refused(*arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that nobody reads")
def test_a_file_that_cannot_be_read_is_told_in_words(refused, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations.json").symlink_to("/proc/self/mem")
    assert "Input/output error" in refused("data", "import", "coco", tmp_path, tmp_path / "out")


def test_a_failed_run_and_a_stop_have_statuses_of_their_own(tap, monkeypatch):
    from tap_platform.launch import train
    from tap_platform.launch.errors import RunFailedError

    def fail(*_):
        raise RunFailedError("worker 1 failed: out of memory")

    monkeypatch.setattr(train, "start_run", fail)
    assert tap("train", JOB) == (1, "", "tap: worker 1 failed: out of memory\n")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "start_run", stop)
    status, _, errors = tap("train", JOB)
    assert status == 130
    assert errors.strip() == "stopped"


def test_what_fails_at_a_store_is_told_with_its_place(refused, monkeypatch):
    def fail(*_, **__):
        raise OSError("the disk is on fire")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.ls", fail)
    told = refused("data", "index", "memory://burnt/set")
    assert told == "tap: memory://burnt/set: the disk is on fire\n"
