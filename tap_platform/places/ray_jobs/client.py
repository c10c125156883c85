"""The Jobs API of a Ray cluster: where it is, how one is let in, and what its refusals mean."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import requests
    from ray.job_submission import JobSubmissionClient

DASHBOARD_PORT = 8265
ANSWER_SECONDS = 15
"""How long a cluster may take for its first answer."""
TIMEOUT = (5.0, 60.0)
"""Seconds to connect, and to wait for each answer after the first."""
_FIRST_VARIABLE = "RAY_API_SERVER_ADDRESS"
_ENVIRONMENT = Lock()


def dashboard_of(address: str) -> str:
    """The URL of a cluster's dashboard, where the Jobs API is.

    Args:
        address: that URL, or the address for Ray's clients, `ray://head:10001`: then the dashboard
            is on the same host, at Ray's usual port.

    Raises:
        ValueError: if it names no host.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{address} is no address: {error}") from None
    if parts.scheme not in ("http", "https", "ray") or not host:
        raise ValueError(f"{address} names no cluster: write http://HOST:{DASHBOARD_PORT}")
    if parts.username or parts.password:
        raise ValueError("an address holds no password: a cluster's token is in RAY_AUTH_TOKEN")
    if parts.scheme == "ray":
        named = f"[{host}]" if ":" in host else host
        return f"http://{named}:{DASHBOARD_PORT}"
    standard = {"http": DASHBOARD_PORT, "https": 443}[parts.scheme]
    place = parts.netloc if port else f"{parts.netloc}:{standard}"
    return f"{parts.scheme}://{place}{parts.path.rstrip('/')}"


def credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The header that shows a cluster its token; empty if there is none to show.

    As Ray does, RAY_AUTH_TOKEN is looked at first, then the file RAY_AUTH_TOKEN_PATH. The file that
    Ray itself makes for a user, `~/.ray/auth_token`, is shown only with RAY_AUTH_MODE=token: it may
    be of another cluster, and an address may be anybody's.

    Raises:
        ValueError: if the file is missing or empty.
    """
    mode = environment.get("RAY_AUTH_MODE", "")
    if mode == "disabled":
        return {}
    token, path = environment.get("RAY_AUTH_TOKEN"), environment.get("RAY_AUTH_TOKEN_PATH")
    if not token and not path and mode == "token":
        path = str(Path(environment.get("HOME", "~")).expanduser() / ".ray" / "auth_token")
    if not token and path:
        try:
            token = Path(path).read_text()
        except OSError as error:
            raise ValueError(
                f"the token of the Ray cluster cannot be read ({error.strerror}: {path}): set"
                " RAY_AUTH_TOKEN_PATH to its file, or RAY_AUTH_TOKEN to itself"
            ) from None
        if not token.strip():
            raise ValueError(f"the token file {path} is empty: ask the cluster's owner for it")
    return {"Authorization": f"Bearer {token.strip()}"} if token else {}


def ray_version_of(url: str, headers: Mapping[str, str]) -> str:
    """The version of Ray that a cluster runs; its first answer, so all that may be wrong shows.

    Raises:
        ValueError: if nobody answers, there is no dashboard with a Jobs API, or it refuses us.
    """
    import requests

    try:
        answer = requests.get(f"{url}/api/version", headers=headers, timeout=ANSWER_SECONDS)
    except requests.exceptions.SSLError as error:
        raise ValueError(f"{url}: its certificate is not trusted here ({error})") from None
    except requests.exceptions.RequestException as error:
        raise ValueError(
            f"no answer from {url} ({type(error).__name__}): is the cluster up, with its dashboard"
            " (`ray start --head --dashboard-host=0.0.0.0`), is it reached from here, and is that"
            f" the dashboard's port ({DASHBOARD_PORT} usually)?"
        ) from None
    if refusal := _refusal(url, answer.status_code, bool(headers)):
        raise ValueError(refusal)
    try:
        return str(answer.json()["ray_version"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{url} answers, but not as a Ray dashboard with a Jobs API (status"
            f" {answer.status_code}): is it the right port, and is ray[default] installed there?"
        ) from None


@contextmanager
def jobs_api(url: str) -> Iterator[JobSubmissionClient]:
    """Ray's client, let in by the cluster; what it raises in the block is put in words for people.

    Raises:
        ValueError: as `ray_version_of` and `credentials` tell; or with what the cluster answers.
    """
    headers = credentials(os.environ)
    ray_version_of(url, headers)
    from ray.exceptions import RayError
    from requests.exceptions import RequestException

    for name in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    try:
        with _told_by_environment(url):
            client = _patient_client()(url, headers=headers)
        yield client
    except (RuntimeError, ConnectionError, RequestException, RayError) as error:
        # Of a traceback that the cluster sends, the last line tells.
        said = str(error).strip(" .\n").rpartition("\n")[2]
        raise ValueError(f"{url}: {said or type(error).__name__}") from error


@cache
def _patient_client() -> type[JobSubmissionClient]:
    """Ray's client, which sets no time-out itself, with one for every request."""
    from ray.job_submission import JobSubmissionClient

    class PatientClient(JobSubmissionClient):
        """Waits no longer than `TIMEOUT` for a connection, and for an answer."""

        def _do_request(self, *args: Any, **options: Any) -> requests.Response:
            return super()._do_request(*args, **{"timeout": TIMEOUT, **options})

    return PatientClient


@contextmanager
def _told_by_environment(url: str) -> Iterator[None]:
    """Let no RAY_ADDRESS overrule an address: of the variables, Ray's client takes this first.

    Several clusters may be asked at once, and there is one environment for all.
    """
    with _ENVIRONMENT:
        before = os.environ.get(_FIRST_VARIABLE)
        os.environ[_FIRST_VARIABLE] = url
        try:
            yield
        finally:
            if before is None:
                del os.environ[_FIRST_VARIABLE]
            else:
                os.environ[_FIRST_VARIABLE] = before


def check_version(url: str, there: str) -> None:
    """Refuse to hand a run to another Ray than the one that it was written for.

    Raises:
        ValueError: if its version differs in more than the last number.
    """
    from importlib.metadata import version

    here = version("ray")
    if there.split(".")[:2] != here.split(".")[:2]:
        raise ValueError(
            f"{url} runs Ray {there}, and here is Ray {here}: what is the same job here is not"
            f" there; start the cluster with Ray {here}, or install ray=={there} here"
        )


def _refusal(url: str, status: int, had_token: bool) -> str | None:
    if status == 401 or (status == 403 and not had_token):
        return (
            f"{url} wants a token ({status}), and there is none: set RAY_AUTH_MODE=token, and"
            " RAY_AUTH_TOKEN_PATH to a file with the cluster's token, or RAY_AUTH_TOKEN to itself"
        )
    if status == 403:
        return (
            f"{url} refuses the token (403): RAY_AUTH_TOKEN, or the file of RAY_AUTH_TOKEN_PATH, is"
            " of another cluster, or older than this one"
        )
    return None
