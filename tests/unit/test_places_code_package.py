"""The caller's code as a zip."""

import io
import json
import os
import subprocess
import zipfile

import pytest

from tap_platform.places.code_package import REVISION_FILE, pack_code


@pytest.fixture
def repository(tmp_path, monkeypatch):
    for name in (
        "GIT_AUTHOR_NAME",
        "GIT_AUTHOR_EMAIL",
        "GIT_COMMITTER_NAME",
        "GIT_COMMITTER_EMAIL",
    ):
        monkeypatch.setenv(name, "test")
    git(tmp_path, "init", "-q")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text("x = 1\n")
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def git(folder, *arguments):
    subprocess.run(["git", "-C", folder, *arguments], check=True)


def unpacked(package):
    with zipfile.ZipFile(io.BytesIO(package.zip)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_tracked_files_and_no_others(repository):
    (repository / "secret.env").write_text("KEY=1")
    package = pack_code(repository / "package")
    files = unpacked(package)
    assert set(files) == {REVISION_FILE, "package/code.py", "run.sh"}
    assert package.files == 2
    assert package.changed == ()
    assert json.loads(files[REVISION_FILE]) == {"revision": package.revision, "changed": []}


def test_what_a_run_does_not_need_stays_at_home(repository):
    (repository / "tests").mkdir()
    (repository / "tests" / "test_code.py").write_text("")
    (repository / ".gitattributes").write_text("tests/** export-ignore\n")
    git(repository, "add", ".")
    files = unpacked(pack_code(repository / "package"))
    assert set(files) == {REVISION_FILE, ".gitattributes", "package/code.py", "run.sh"}


def test_the_same_files_make_the_same_bytes(repository):
    before = pack_code(repository).zip
    os.utime(repository / "run.sh", (0, 0))
    assert pack_code(repository).zip == before
    (repository / "run.sh").write_text("#!/bin/sh\nexit\n")
    assert pack_code(repository).zip != before


def test_what_differs_from_the_commit_is_told_and_taken(repository):
    (repository / "package" / "code.py").write_text("x = 2\n")
    (repository / "run.sh").unlink()
    package = pack_code(repository)
    assert package.changed == ("package/code.py", "run.sh")
    assert unpacked(package)["package/code.py"] == b"x = 2\n"


def test_programs_stay_programs(repository):
    with zipfile.ZipFile(io.BytesIO(pack_code(repository).zip)) as archive:
        modes = {each.filename: each.external_attr >> 16 & 0o777 for each in archive.infolist()}
    assert (modes["run.sh"], modes["package/code.py"]) == (0o755, 0o644)


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside.txt", ".git/config"])
def test_links_out_of_the_repository_are_refused(repository, target):
    (repository.parent / "outside.txt").write_text("of somebody else")
    (repository / "link").symlink_to(target)
    git(repository, "add", ".")
    with pytest.raises(ValueError, match=r"link in .* is a link out of the repository"):
        pack_code(repository)
    (repository / ".gitattributes").write_text("link export-ignore\n")
    assert "link" not in unpacked(pack_code(repository))


def test_links_within_the_repository_are_what_they_lead_to(repository):
    (repository / "link.py").symlink_to("package/code.py")
    git(repository, "add", ".")
    assert unpacked(pack_code(repository))["link.py"] == b"x = 1\n"


def test_too_much_code(repository):
    (repository / "large.bin").write_bytes(os.urandom(50_000))
    git(repository, "add", ".")
    with pytest.raises(
        ValueError, match=r"too large to take along: its zip has .* large.bin \(50,000 bytes\)"
    ):
        pack_code(repository, largest=10_000)
    with pytest.raises(ValueError, match="its files have 50,016 bytes"):
        pack_code(repository, largest=1_000)


def test_no_repository(tmp_path):
    with pytest.raises(ValueError, match=r"no git repository .*--code none"):
        pack_code(tmp_path)


def test_no_commit_yet(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("")
    git(tmp_path, "add", ".")
    assert pack_code(tmp_path).revision is None
