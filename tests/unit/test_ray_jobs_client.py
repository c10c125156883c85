"""Finding the Jobs API of a cluster, being let in, and what is told where one is not."""

from __future__ import annotations

import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from tap_platform.places.ray_jobs.client import (
    TIMEOUT,
    check_version,
    credentials,
    dashboard_of,
    jobs_api,
    ray_version_of,
)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://head:8265", "http://head:8265"),
        ("http://head:8265/", "http://head:8265"),
        ("http://head", "http://head:8265"),
        ("https://ray.example.com", "https://ray.example.com:443"),
        ("https://example.com/team/ray/", "https://example.com:443/team/ray"),
        ("ray://head:10001", "http://head:8265"),
        ("ray://[fd00::1]:10001", "http://[fd00::1]:8265"),
        ("http://[fd00::1]", "http://[fd00::1]:8265"),
    ],
)
def test_where_the_dashboard_is(address, url):
    assert dashboard_of(address) == url


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://", "names no cluster"),
        ("head:8265", "names no cluster"),
        ("http://head:many", "is no address"),
        ("http://ann:secret@head:8265", "holds no password"),
    ],
)
def test_what_is_no_address_is_refused(address, said):
    with pytest.raises(ValueError, match=said) as error:
        dashboard_of(address)
    assert "secret" not in str(error.value)


def test_a_token_is_shown_as_ray_would(tmp_path):
    file = tmp_path / "token"
    file.write_text("of the file\n")
    shown = {"Authorization": "Bearer of the file"}
    assert credentials({"RAY_AUTH_TOKEN_PATH": str(file)}) == shown
    both = {"RAY_AUTH_TOKEN": "itself", "RAY_AUTH_TOKEN_PATH": str(file)}
    assert credentials(both) == {"Authorization": "Bearer itself"}
    assert credentials({**both, "RAY_AUTH_MODE": "disabled"}) == {}


def test_rays_own_token_is_shown_only_when_asked_for(tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("ours")
    assert credentials({"HOME": str(tmp_path)}) == {}
    asked = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    assert credentials(asked) == {"Authorization": "Bearer ours"}


def test_a_token_that_cannot_be_read_is_told(tmp_path):
    missing = tmp_path / "none"
    with pytest.raises(ValueError, match=re.escape(f"No such file or directory: {missing}")):
        credentials({"RAY_AUTH_TOKEN_PATH": str(missing)})
    missing.write_text(" \n")
    with pytest.raises(ValueError, match="is empty"):
        credentials({"RAY_AUTH_TOKEN_PATH": str(missing)})


@pytest.fixture
def server():
    """An HTTP server that answers what it is told to, and remembers what it was shown."""
    answers, shown = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            shown.append((self.path, self.headers.get("Authorization")))
            status, body = answers.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.answers, http.shown, http.url = answers, shown, f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield http
    http.shutdown()
    http.server_close()


def test_the_first_answer_tells_the_version(server):
    server.answers.append((200, json.dumps({"ray_version": "2.60.0"}).encode()))
    assert ray_version_of(server.url, {"Authorization": "Bearer ours"}) == "2.60.0"
    assert server.shown == [("/api/version", "Bearer ours")]


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (401, {}, "wants a token (401), and there is none: set RAY_AUTH_MODE=token"),
        (403, {}, "wants a token (403), and there is none"),
        (403, {"Authorization": "Bearer theirs"}, "refuses the token (403)"),
        (404, {}, "not as a Ray dashboard with a Jobs API (status 404)"),
        (200, {}, "not as a Ray dashboard with a Jobs API (status 200)"),
        (502, {}, "not as a Ray dashboard with a Jobs API (status 502)"),
    ],
)
def test_a_refusal_tells_what_helps(server, status, headers, said):
    server.answers.append((status, b"<html>"))
    with pytest.raises(ValueError, match=re.escape(f"{server.url} {said}")) as error:
        _ask(server.url, headers)
    assert "theirs" not in str(error.value)


def _ask(url, headers):
    try:
        return ray_version_of(url, headers)
    except ValueError as error:
        raise ValueError(str(error).replace("answers, but ", "")) from error


def test_nobody_answers():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"no answer from {url} .*is the cluster up"):
            ray_version_of(url, {})


def test_somebody_listens_and_says_nothing(monkeypatch):
    monkeypatch.setattr("tap_platform.places.ray_jobs.client.ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"no answer from {url} .ReadTimeout"):
            ray_version_of(url, {})


def test_no_request_is_waited_for_without_end(server, monkeypatch):
    version = json.dumps({"version": "4", "ray_version": "2.60.0", "session_name": "s"}).encode()
    server.answers.extend([*[(200, version)] * 3, (200, b"[]")])
    waited, request = [], requests.request

    def noted(*arguments, **options):
        waited.append(options["timeout"])
        return request(*arguments, **options)

    monkeypatch.setattr(requests, "request", noted)
    with jobs_api(server.url) as client:
        assert client.list_jobs() == []
    assert len(waited) >= 2
    assert set(waited) == {TIMEOUT}


def test_plain_http_where_tls_is_meant(server):
    with pytest.raises(ValueError, match="its certificate is not trusted here"):
        ray_version_of(server.url.replace("http", "https"), {})


def test_another_ray_is_refused():
    from importlib.metadata import version

    here = version("ray")
    check_version("http://head:8265", here)
    check_version("http://head:8265", f"{here.rpartition('.')[0]}.99")
    with pytest.raises(ValueError, match=f"runs Ray 2.9.3, and here is Ray {here}"):
        check_version("http://head:8265", "2.9.3")
