import os
import socket
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest

from datamodules.local_cache import local_copy
from datamodules.storage import (
    atomic_file,
    child,
    exists,
    list_files,
    location,
    make_folder,
    read_blocks,
    read_bytes,
    read_range,
    remove_tree,
    size_of,
    version_of,
    write_bytes,
)
from tap_platform.config.secrets import secret_in


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    """A folder on the disk, then one of an object store in memory."""
    place = tmp_path / "folder" if request.param == "local" else f"memory://{uuid4().hex}/folder"
    return location(place)


def test_files_are_written_read_listed_and_removed(folder):
    assert list_files(folder) == []
    assert not exists(folder)
    make_folder(folder)
    for name in ("b.tar", "a.tar", "c.json"):
        write_bytes(folder / name, name.encode())
    assert [place.name for place in list_files(folder, "*.tar")] == ["a.tar", "b.tar"]
    assert len(list_files(folder)) == 3
    place = folder / "a.tar"
    assert (read_bytes(place), b"".join(read_blocks(place)), size_of(place)) == (
        b"a.tar",
        b"a.tar",
        5,
    )
    assert [read_range(place, *span) for span in [(0, 2), (3, 9), (7, 9)]] == [b"a.", b"ar", b""]
    remove_tree(folder)
    remove_tree(folder)
    assert not exists(folder)
    for look in (read_bytes, size_of, version_of, lambda place: read_range(place, 0, 1)):
        with pytest.raises(FileNotFoundError):
            look(place)


def test_a_file_appears_whole_or_not_at_all(folder):
    make_folder(folder)
    write_bytes(folder / "file", b"old")
    before = version_of(folder / "file")

    def interrupted():
        with atomic_file(folder / "file") as file:
            file.write(b"new and lon")
            assert read_bytes(folder / "file") == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [place.name for place in list_files(folder)] == ["file"]
    with atomic_file(folder / "file") as file:
        file.write(b"new and longer")
    assert read_bytes(folder / "file") == b"new and longer"
    assert version_of(folder / "file") != before


def test_blocks_of_a_remote_file_end_with_it(monkeypatch):
    monkeypatch.setattr("datamodules.storage.BLOCK_BYTES", 4)
    place = location(f"memory://{uuid4().hex}/file")
    for data in (b"", b"123", b"1234", b"12345678", b"123456789"):
        write_bytes(place, data)
        assert b"".join(read_blocks(place)) == data


def test_paths_and_urls_become_places(tmp_path):
    assert location(tmp_path) == location(str(tmp_path)) == location(f"file://{tmp_path}")
    assert location("~/data") == Path.home() / "data"
    place = location("memory://bucket/folder")
    assert location(place) is place
    assert child(place, "a.tar") == place / "a.tar"
    assert child(tmp_path, "/disk/a.tar") == Path("/disk/a.tar")
    assert child(tmp_path, "memory://bucket/a.tar") == location("memory://bucket/a.tar")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("pipe:touch {}", "pipes and chains"),
        ("pipe://touch {}", "pipes and chains"),
        ("simplecache::http://host/a", "pipes and chains"),
        ("zip://a::pipe://touch {}", "pipes and chains"),
        ("foo://a", "there are no foo:// URLs"),
        ("gs://bucket/a", r"gs:// is not installed here: pip install 'tap-platform\[gcs\]'"),
    ],
)
def test_urls_that_are_not_opened_are_refused(tmp_path, monkeypatch, url, told):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ValueError, match=told):
        location(url.format(tmp_path / "touched"))
    with pytest.raises(ValueError, match=told):
        child(tmp_path, url.format(tmp_path / "touched"))
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/data/train", "../../etc/a.tar"),
        ("/data/train", "sub/../../a.tar"),
        ("s3://bucket/train", "/etc/passwd"),
        ("s3://bucket/train", "file:///etc/passwd"),
        ("s3://bucket/train", "local:///etc/passwd"),
        ("s3://bucket/train", "http://169.254.169.254/a.tar"),
        ("http://host/train", "http://other/a.tar"),
        ("http://host/train", "http://host:22/a.tar"),
    ],
)
def test_names_that_lead_where_their_list_has_no_say_are_refused(folder, name):
    with pytest.raises(ValueError, match="leads out of"):
        child(location(folder), name)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/data/train", "http://host/a.tar"),
        ("/data/train", "sub/a..b.tar"),
        ("http://host/train", "http://host/elsewhere/a.tar"),
        ("memory://bucket/train", "memory://other/a.tar"),
    ],
)
def test_names_elsewhere_are_taken_where_the_list_may_say_so(folder, name):
    assert str(child(location(folder), name)).endswith(name)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA0:sec/ret@bucket/a",
        "s3://AKIA0secret@bucket",
        "https://secret@host/a",
        "hdfs://user:secret@host/a",
        "https://host/a?X-Amz-Signature=secret",
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_shown(url):
    with pytest.raises(ValueError, match="AWS_ACCESS_KEY_ID") as told:
        location(url)
    assert "sec" not in str(told.value).partition(": the URL")[0]
    assert "AKIA0" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/a@b",
        "http://host:80/a:b@c",
        "abfs://box@account.net/a",
        "/a:b@c",
        "s3://b/x?y=z",
    ],
)
def test_a_url_without_a_secret_is_none(url):
    assert not secret_in(url)


@pytest.mark.parametrize("digest", ["../../../elsewhere/file", "", "0" * 63, "0" * 64 + "\n"])
def test_a_hash_that_is_none_leads_nowhere(monkeypatch, tmp_path, digest):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))
    place = location(f"memory://{uuid4().hex}/samples.npy")
    write_bytes(place, b"content")
    with pytest.raises(ValueError, match="is no sha256"):
        local_copy(place, digest)
    assert not list(tmp_path.iterdir())


def test_a_remote_file_is_copied_once_to_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))
    place = location(f"memory://{uuid4().hex}/samples.npy")
    write_bytes(place, b"content")
    digest = sha256(b"content").hexdigest()
    copy = local_copy(place, digest)
    assert copy.read_bytes() == b"content"
    assert copy.is_relative_to(tmp_path / "cache")
    remove_tree(place)
    assert local_copy(place, digest) == copy
    assert local_copy(tmp_path, digest) == tmp_path
    write_bytes(place, b"other content")
    with pytest.raises(ValueError, match="is not the file that the index speaks of"):
        local_copy(place, sha256(b"").hexdigest())
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [copy]


def test_drafts_of_processes_that_were_killed_are_removed(monkeypatch, tmp_path):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    own = f"{host}-{os.getpid()}"
    others = {f"{host}-{os.getppid()}", f"{host}-elsewhere-{dead.pid}"}
    for name in {f"{host}-{dead.pid}", own, *others}:
        (tmp_path / "drafts" / name).mkdir(parents=True)
        (tmp_path / "drafts" / name / ".part-00000.part").write_bytes(b"half")
    with atomic_file(location(f"memory://{uuid4().hex}/part")) as file:
        assert Path(file.name).parent == tmp_path / "drafts" / own
        with atomic_file(location(f"memory://{uuid4().hex}/part")):
            assert len(list((tmp_path / "drafts" / own).iterdir())) == 2
    assert {folder.name for folder in (tmp_path / "drafts").iterdir()} == {own, *others}
    assert not list((tmp_path / "drafts" / own).iterdir())


def test_a_full_disk_or_a_lost_right_is_told_and_leaves_no_draft(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        write_bytes(tmp_path / "nowhere/file", b"data")
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_the_data_core_opens_no_cloud_library_for_a_path():
    code = "import sys, datamodules.shards.reader as _; print({'s3fs', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
