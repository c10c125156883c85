import subprocess
import sys

import orjson
import pytest
from data_samples import sample

from datamodules.shards.writer import ShardWriter
from tap_platform.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ShardWriter(tmp_path / "set" / "train", 4) as writer:
        for number in range(3):
            made = sample(f"key{number}")
            made.priors = None
            writer.write(made)
    return tmp_path


def tap(monkeypatch, *words):
    """Run a verb; gives its exit code."""
    monkeypatch.setattr(sys, "argv", ["tap", "data", *words])
    try:
        main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_inspect_writes_a_contact_sheet_and_prints_numbers(folder, monkeypatch, capsys):
    assert tap(monkeypatch, "inspect", "set", "--samples", "all", "--pictures", "2") == 0
    shown = capsys.readouterr().out
    assert "regions an image" in shown
    assert (folder / "set-inspection" / "contact_sheet.png").read_bytes()[1:4] == b"PNG"
    assert orjson.loads((folder / "set-inspection" / "statistics.json").read_bytes())
    assert tap(monkeypatch, "inspect", "set", "--json", "--pictures", "0", "--out", "here") == 0
    assert orjson.loads(capsys.readouterr().out)["samples"] == 3
    assert [path.name for path in (folder / "here").iterdir()] == ["statistics.json"]


def test_verify_tells_by_its_exit_code(folder, monkeypatch, capsys):
    assert tap(monkeypatch, "verify", "set") == 0
    assert "nothing found" in capsys.readouterr().out
    (folder / "set" / "train" / "shard-000000.tar").unlink()
    assert tap(monkeypatch, "verify", "set", "--json", "--repair-list", "repair.txt") == 1
    assert orjson.loads(capsys.readouterr().out)["bad_samples"] == 3
    assert (folder / "repair.txt").read_text() == "set/train/shard-000000.tar\n"
    quarantine = (folder / "set-verification" / "quarantine.jsonl").read_text().splitlines()
    assert orjson.loads(quarantine[2])["key"] == "key2"
    assert tap(monkeypatch, "verify", "nothing") == 2
    assert "no such folder" in capsys.readouterr().err


def test_what_is_only_suspicious_fails_the_strict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with ShardWriter(tmp_path / "odd" / "train", 4) as writer:
        made = sample("key")
        made.regions[0].area *= 3
        writer.write(made)
    assert tap(monkeypatch, "verify", "odd") == 0
    assert "suspicious  area" in capsys.readouterr().out
    assert tap(monkeypatch, "verify", "odd", "--strict") == 1


def test_a_number_of_samples_is_a_number_or_all(folder, monkeypatch, capsys):
    assert tap(monkeypatch, "inspect", "set", "--samples", "0") == 2
    assert tap(monkeypatch, "inspect", "set", "--samples", "some") == 2
    assert "--samples" in capsys.readouterr().err


def test_neither_verb_waits_for_torch_or_ray(folder):
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from tap_platform.launch.inspection import inspect_data, verify_data;"
            "inspect_data('set', None, 3, 1, 'one', True);"
            "verify_data('set', None, None, False, 0, 'two', None, True, False);"
            "print(sorted({'torch', 'ray'} & set(sys.modules)))",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.splitlines()[-1] == "[]"
