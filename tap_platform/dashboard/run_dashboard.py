"""The pages, and MLflow beside them, from the start of both to their end."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from tap_platform.dashboard.access import USER, in_url, is_loopback, password_for
from tap_platform.dashboard.mlflow_server import MlflowServer, storage_with_mlflow
from tap_platform.dashboard.server import application, listen, serve
from tap_platform.dashboard.site import Site
from tap_platform.dashboard.words import counted


def run_dashboard(
    storages: Sequence[str],
    host: str,
    port: int,
    mlflow_port: int | None,
    auth: bool,
    console: Console | None = None,
) -> None:
    """Serve until Ctrl-C.

    Args:
        storages: folders, or mirrors' URLs.
        host: where to listen; one that others reach needs `auth`.
        port: the same; 0 for any that is free.
        mlflow_port: where MLflow listens; None for no MLflow.
        auth: whether to ask for the password of `TAP_DASHBOARD_PASSWORD`.
        console: where to tell how it goes.

    Raises:
        ValueError: a storage is not there, the port is taken, or a password is missing.
        OSError: a store does not answer.
    """
    console = console or Console()
    password = password_for(host, auth)
    with listen(host, port) as at:
        site = Site(storages)
        read = site.pages.collected
        console.print(
            f"{counted(len(read.runs), 'run')} and {counted(len(read.sweeps), 'sweep')} of"
            f" {', '.join(read.storages)}",
            highlight=False,
            soft_wrap=True,
        )
        mlflow = _start_mlflow(storages, host, mlflow_port, password, site, console)
        try:
            asked = f" (user {USER}, the password of the variable)" if auth else ""
            console.print(
                f"dashboard  http://{in_url(host)}:{at.getsockname()[1]}{asked}, Ctrl-C ends it",
                highlight=False,
                soft_wrap=True,
            )
            if not is_loopback(host):
                console.print(
                    "passwords and pages travel as they are: put TLS before it where others listen"
                )
            serve(application(site, password, mlflow_port if mlflow else None, host), at)
        finally:
            if mlflow is not None:
                mlflow.stop()


def _start_mlflow(
    storages: Sequence[str],
    host: str,
    port: int | None,
    password: str | None,
    site: Site,
    console: Console,
) -> MlflowServer | None:
    """MLflow beside the pages; what keeps it from starting is told, and the pages go on."""
    if port is None:
        return None
    storage = storage_with_mlflow(storages)
    if storage is None:
        console.print("MLflow     there is no mlflow.db in the storage: no run has written to it")
        return None
    server = MlflowServer(storage, host, port, password)

    def told(words: str, answers: bool) -> None:
        console.print(f"MLflow     {words}", highlight=False, soft_wrap=True, markup=False)
        if answers:
            site.show_mlflow("mlflow")

    try:
        listen(host, port).close()
        server.start(told)
    except (ValueError, OSError) as error:
        console.print(
            f"MLflow     {str(error).replace('--port', '--mlflow-port')}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
        server.stop()
        return None
    return server
