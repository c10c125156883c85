from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading

import pytest

from tap_platform.runs import provenance
from tap_platform.runs.directory import RunDirectory, new_run_name
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.files import read_json, write_json
from tap_platform.runs.metrics import MetricsWriter, read_metrics
from tap_platform.runs.status import (
    RunStatus,
    driver_identity,
    read_status,
    update_status,
    write_status,
)


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "runs", "tap", "one-20261121-153000-a1b2")


def in_another_process(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])


def test_create_makes_a_run_that_is_found_by_name_project_and_path(run):
    assert read_status(run.status).state == "preparing"
    assert (run.storage.name, run.project) == ("runs", "tap")
    for wanted in (run.name, f"tap/{run.name}", run.path, str(run.path)):
        assert RunDirectory.find(run.storage, wanted) == run


def test_find_names_the_nearest(run):
    with pytest.raises(ValueError, match=r"did you mean one-20261121-153000-a1b2\?"):
        RunDirectory.find(run.storage, "one-20261121-153000-a1b3")


def test_find_says_what_a_folder_lacks(run):
    with pytest.raises(ValueError, match=r"/checkpoints is no run directory: .* no status\.json"):
        RunDirectory.find(run.storage, run.checkpoints)


def test_find_in_an_empty_storage_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"no run 'x' in .* none of 0 is like it.* by the path"):
        RunDirectory.find(tmp_path, "x")


def test_create_refuses_a_storage_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write to the storage"):
        RunDirectory.create(tmp_path / "file", "tap", "one")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_create_refuses_a_storage_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot write to the storage"):
        RunDirectory.create(tmp_path / "runs", "tap", "one")


def test_create_refuses_urls_strange_names_and_a_second_run_of_a_name(run):
    with pytest.raises(ValueError, match="is a URL"):
        RunDirectory.create("s3://bucket/runs", "tap", "one")
    with pytest.raises(ValueError, match=r"project name '\.\./tap'"):
        RunDirectory.create(run.storage, "../tap", "one")
    with pytest.raises(ValueError, match="exists already"):
        RunDirectory.create(run.storage, run.project, run.name)


def test_names_are_plain_and_never_the_same():
    names = {new_run_name("tiny") for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("tiny-20") for name in names)


def test_attempts_are_numbered_without_doubles(run):
    numbers = []
    threads = [
        threading.Thread(target=lambda: numbers.append(run.begin_attempt())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))
    assert run.attempt == 8
    assert run.log(8, 0).parent.is_dir()


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"new": math.nan})
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_broken_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        read_json(tmp_path / "config.json")


def test_status_changes_by_several_threads_are_all_kept(run):
    changes = [{"step": 7}, {"state": "running"}, {"message": "m"}, {"world_size": 2}]
    threads = [
        threading.Thread(target=lambda c=change: update_status(run.status, **c))
        for change in changes
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    status = read_status(run.status)
    assert (status.step, status.state, status.message, status.world_size) == (7, "running", "m", 2)


def test_status_refuses_unknown_fields_and_states(run):
    with pytest.raises(ValueError, match="no field stpe"):
        update_status(run.status, stpe=1)
    with pytest.raises(ValueError, match="state"):
        update_status(run.status, state="walking")
    assert read_status(run.status).state == "preparing"


def test_a_run_whose_driver_died_is_interrupted(run):
    code = (
        "import sys; from pathlib import Path; from tap_platform.runs.status import *;"
        "update_status(Path(sys.argv[1]), state='running', step=3, **driver_identity())"
    )
    driver = in_another_process(code, run.status)
    assert driver.wait() == 0
    status = read_status(run.status)
    assert (status.state, status.step) == ("interrupted", 3)
    assert str(driver.pid) in status.message
    update_status(run.status, state="running", **driver_identity())
    assert read_status(run.status).state == "running"


def test_a_process_id_that_is_used_again_is_not_the_driver(run):
    write_status(run.status, RunStatus(state="running", process_started=1.0))
    assert read_status(run.status).state == "interrupted"


def test_the_word_of_a_driver_on_another_host_stands(run):
    write_status(run.status, RunStatus(state="running", host="elsewhere", process_started=1.0))
    assert read_status(run.status).state == "running"


def test_events_of_many_processes_are_all_whole(run):
    code = (
        "import sys; from pathlib import Path; from tap_platform.runs.events import EventLog;"
        "log = EventLog(Path(sys.argv[1]), attempt=1, rank=int(sys.argv[2]));"
        "[log.record('tick', number=i, text='x' * 3000) for i in range(100)]"
    )
    writers = [in_another_process(code, run.events, rank) for rank in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    for rank in range(3):
        numbers = [event["number"] for event in read_events(run.events) if event["rank"] == rank]
        assert numbers == list(range(100))


def test_a_torn_event_costs_only_itself(run):
    log = EventLog(run.events, attempt=1)
    log.record("first")
    with run.events.open("ab") as file:
        file.write(b'{"time": "2026-11-21T15:30:00+00:00", "ki')
    assert [event["kind"] for event in read_events(run.events)] == ["first"]
    log.record("second", path=run.path)
    assert [event["kind"] for event in read_events(run.events)] == ["first", "second"]
    assert read_events(run.events, "second")[0]["path"] == str(run.path)


def test_metrics_come_back_as_written_the_last_attempt_first(run):
    first = MetricsWriter(run.metrics, attempt=1)
    for step in (1, 2, 3):
        first.write(step, {"loss": 10 - step})
    first.write(3, {"iou": 0.5}, kind="val")
    first.write(3, {"lr": 0.1})
    second = MetricsWriter(run.metrics, attempt=2)
    second.write(2, {"loss": math.nan, "scale": math.inf, "low": -math.inf})

    records = {(record.step, record.kind): record for record in read_metrics(run.metrics)}
    assert list(records) == [(1, "train"), (2, "train"), (3, "train"), (3, "val")]
    assert records[3, "train"].values == {"loss": 7, "lr": 0.1}
    assert records[3, "val"].named_values == {"val/iou": 0.5}
    assert records[2, "train"].attempt == 2
    assert math.isnan(records[2, "train"].values["loss"])
    assert records[2, "train"].values["scale"] == math.inf
    assert records[2, "train"].values["low"] == -math.inf


def test_metrics_are_strict_json_and_survive_a_torn_line(run):
    writer = MetricsWriter(run.metrics)
    writer.write(1, {"loss": math.nan, "speed/images": 3})
    with run.metrics.open("ab") as file:
        file.write(b'{"step": 2, "kind": "train", "val')
    MetricsWriter(run.metrics, attempt=2).write(2, {"loss": 1.0})

    def refuse(word):
        raise AssertionError(word)

    json.loads(run.metrics.read_text().splitlines()[0], parse_constant=refuse)
    assert [record.step for record in read_metrics(run.metrics)] == [1, 2]
    assert set(read_metrics(run.metrics)[0].named_values) == {"train/loss", "speed/images"}


def test_a_run_without_records_has_none(run):
    assert read_metrics(run.metrics) == []
    assert read_events(run.events) == []


def test_more_than_a_chunk_of_metrics_is_read(run):
    line = json.dumps({"step": 0, "kind": "train", "attempt": 1, "time": "t", "values": {"a": 1.0}})
    run.metrics.write_text("".join(line.replace("0", str(s), 1) + "\n" for s in range(30_000)))
    assert [record.step for record in read_metrics(run.metrics)] == list(range(30_000))


def test_provenance_tells_the_checkout(tmp_path):
    assert provenance.collect(tmp_path).git_revision is None
    assert provenance.collect(tmp_path).git_dirty is None
    git = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("a")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "m"], check=True)
    clean = provenance.collect(tmp_path, data_hash="d")
    (tmp_path / "file").write_text("b")
    dirty = provenance.collect(tmp_path)
    assert len(clean.git_revision) == 40
    assert (clean.git_dirty, dirty.git_dirty) == (False, True)
    tags = provenance.tags_of(clean.to_json())
    assert tags["git.revision"] == clean.git_revision
    assert tags["data.hash"] == "d"
    assert "config.hash" not in tags
    assert "package.torch" in tags


def test_provenance_is_that_of_the_code_wherever_one_stands(tmp_path, monkeypatch):
    here = provenance.collect().git_revision
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    assert provenance.collect().git_revision == here
    (tmp_path / "installed.py").write_text("")
    assert provenance._checkout_of(tmp_path / "installed.py") is None


def test_the_run_directory_costs_no_heavy_import():
    code = (
        "import sys, tap_platform.runs.tracking, tap_platform.runs.checkpoints,"
        "tap_platform.runs.provenance as p; p.collect();"
        "sys.exit(bool({'torch', 'ray', 'mlflow', 'wandb', 'numpy'} & set(sys.modules)))"
    )
    assert in_another_process(code).wait() == 0
