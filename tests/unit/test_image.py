"""The image, as far as that can be told without a container engine."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tap_platform.places.kubernetes import environment

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()


class Instruction(NamedTuple):
    stage: str
    word: str
    text: str


def instructions() -> list[Instruction]:
    """The Dockerfile, with long lines joined and each instruction's stage beside it."""
    text = (ROOT / "cluster" / "image" / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found, stage = [], ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            stage = rest.split()[-1] if word == "FROM" else stage
            found.append(Instruction(stage, word, " ".join(rest.split())))
    return found


def of(word: str, stage: str | None = None) -> list[str]:
    return [
        each.text for each in instructions() if each.word == word and stage in (None, each.stage)
    ]


def settings(word: str, stage: str) -> dict[str, str]:
    """Names and values of ENV, ARG or LABEL."""
    pairs = [pair for text in of(word, stage) for pair in shlex.split(text) if "=" in pair]
    return dict(pair.split("=", 1) for pair in pairs)


def copied() -> list[str]:
    """What the Dockerfile takes from the folder that it is built in."""
    own = [text.split() for text in of("COPY") if "--from=" not in text]
    return [source for words in own for source in words[:-1]]


def is_ignored(path: str) -> bool:
    """By .dockerignore: the last line that names the path, or a folder around it, counts."""
    ignored = False
    parts = Path(path).parts
    around = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            names = [Path(each).name for each in around] if "**/" in line else around
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                ignored = not line.startswith("!")
    return ignored


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of nothing but what the Dockerfile copies."""
    folder = tmp_path_factory.mktemp("build")
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / source, ignore=_left_out)
        else:
            shutil.copy(ROOT / source, folder / source)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def _left_out(folder: str, names: list[str]) -> list[str]:
    inside = Path(folder).relative_to(ROOT)
    return [name for name in names if is_ignored(str(inside / name))]


def test_stages_stand_on_one_base_of_an_exact_version():
    bases = [text.split()[0] for text in of("FROM")]
    assert len(bases) >= 2
    assert set(bases) <= {"${PYTHON_IMAGE}", "scratch"}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", settings("ARG", "")["PYTHON_IMAGE"])
    assert instructions()[-1].stage == "final"


def test_stages_copy_only_from_stages_before_them():
    stages: list[str] = []
    for each in instructions():
        if each.word == "FROM":
            stages.append(each.stage)
        if found := re.match(r"--from=(\S+)", each.text):
            assert found[1] in stages[:-1]


def test_it_runs_as_a_user_whom_kubernetes_can_tell_from_root():
    assert of("USER", "final") == ["1000:1000"]


def test_nothing_is_fetched_by_the_dockerfile_but_through_package_managers():
    assert not of("ADD")
    assert not [
        each for each in instructions() if "://" in each.text and each.word != "HEALTHCHECK"
    ]


def test_what_is_copied_exists_and_is_not_ignored():
    assert "tap_platform" in copied()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not is_ignored(source), source


@pytest.mark.parametrize(
    "path",
    [".git/config", ".venv/bin/tap", "runs/tap", "data/scenes", "tests/unit", ".env",
     "tap_platform/cli/__pycache__/x.pyc", "mlflow.db", "dist/sbom.cdx.json"],
)  # fmt: skip
def test_what_is_of_this_machine_stays_out(path):
    assert is_ignored(path)


def test_every_installation_is_checked_against_hashes():
    steps = [step for text in of("RUN") for step in re.split(r"&&|;", text)]
    installing = [step for step in steps if "pip install" in step]
    assert len(installing) == 4
    own = [step for step in installing if "--no-deps dist/*.whl" in step]
    assert len(own) == 1
    assert all("--require-hashes" in step for step in installing if step not in own)


def test_the_lock_has_what_is_installed_and_names_no_registry():
    extras = PROJECT["optional-dependencies"]
    named = {name for text in of("RUN") for name in re.findall(r"--extra (\S+)", text)}
    assert named <= set(extras)
    wanted = list(PROJECT["dependencies"])
    for name in named:
        wanted += _unfolded(extras, name)
    pinned = {
        canonicalize_name(name) for name in re.findall(r"^(\S+?)==[^\\]*\\\n +--hash", LOCK, re.M)
    }
    tools = {"uv", "hatchling", "cyclonedx-bom"}
    assert {canonicalize_name(Requirement(each).name) for each in wanted} | tools <= pinned
    assert "://" not in LOCK


def _unfolded(extras: dict[str, list[str]], name: str) -> list[str]:
    """The requirements of an extra, with those of other extras that it names."""
    found = []
    for text in extras[name]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            found += [each for extra in requirement.extras for each in _unfolded(extras, extra)]
        else:
            found.append(text)
    return found


def test_the_last_stage_tells_what_it_is():
    labels = settings("LABEL", "final")
    said = {key.rpartition(".")[2] for key in labels}
    assert {"title", "description", "licenses", "version", "revision", "created"} <= said
    assert labels["org.opencontainers.image.licenses"] == PROJECT["license"]
    assert settings("ARG", "final")["VERSION"] == PROJECT["version"]


def test_folders_are_those_that_pods_can_write_to():
    told = settings("ENV", "final")
    assert (told["HOME"], told["TAP_CACHE"]) == (environment.HOME, environment.CACHE)
    assert "NVIDIA_VISIBLE_DEVICES" not in told


def test_nothing_in_it_is_a_secret():
    names = [name for word in ("ENV", "ARG") for name in settings(word, "final")]
    assert names
    assert not [name for name in names if re.search("TOKEN|SECRET|PASSWORD|KEY", name)]
    assert settings("ENV", "final")["RAY_AUTH_MODE"] == "token"


def test_the_wheel_has_all_that_a_run_reads(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("jobs", "cluster/profiles", "cluster/namespace"):
        files = {f"tap_platform/{folder}/{file.name}" for file in (ROOT / folder).glob("*.yaml")}
        assert files
        assert files <= names
    for name in ("report/page.css", "evaluation/suites/text_metrics.java", "places/leave.py"):
        assert f"tap_platform/{name}" in names
    assert "datamodules/storage.py" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]


def test_the_installed_wheel_finds_its_profiles_and_jobs(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    look = (
        "import sys; sys.path.insert(0, 'installed')\n"
        "import tap_platform, datamodules\n"
        "from tap_platform.config.load_profile import load_profile, profile_files\n"
        "assert load_profile('h100_32x8_rdma')[1].groups\n"
        "print(tap_platform.__file__, *sorted(map(str, profile_files().values())), sep='\\n')\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", look], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    package, *profiles = told.stdout.splitlines()
    assert Path(package).is_relative_to(tmp_path)
    assert len(profiles) == len(list((ROOT / "cluster" / "profiles").glob("*.yaml")))
    assert all(Path(file).is_relative_to(tmp_path) for file in profiles)


@contextmanager
def agent(port: int, status: int):
    """What Ray's agent of a node answers."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/api/local_raylet_healthz" else 404)
            self.end_headers()
            self.wfile.write(b"success" if status == 200 else b"Local Raylet failed")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", port), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


@contextmanager
def raylet(port: int):
    """A process that is called as the raylet of a node with that port is."""
    words = [sys.executable, "-c", "input()", f"--listen-port={port}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        yield
        process.kill()


@pytest.mark.skipif(shutil.which("wget") is None, reason="the image has wget, this machine has not")
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux")
class TestHealthCheck:
    @pytest.fixture
    def port(self) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return free.getsockname()[1]

    def is_healthy(self, port: int) -> bool:
        (text,) = of("HEALTHCHECK", "final")
        command = json.loads(text[text.index("[") :].replace("52365", str(port)))
        return subprocess.run(command, check=False).returncode == 0

    def test_a_container_without_a_node_of_ray_is_healthy(self, port):
        assert self.is_healthy(port)

    def test_a_node_is_healthy_if_its_agent_says_so(self, port):
        with raylet(port), agent(port, 200):
            assert self.is_healthy(port)

    def test_a_node_whose_raylet_fails_is_not(self, port):
        with raylet(port), agent(port, 503):
            assert not self.is_healthy(port)

    def test_a_node_whose_agent_is_silent_is_not(self, port):
        with raylet(port):
            assert not self.is_healthy(port)
