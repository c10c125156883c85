"""The verb that shows all runs and sweeps in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from tap_platform.cli.options import FOLDER


@click.command()
@click.argument("storages", nargs=-1, metavar="[STORAGE]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8800,
    show_default=True,
    help="Port to listen at; 0 for any that is free.",
)
@click.option(
    "--mlflow-port",
    type=click.IntRange(1, 65535),
    default=5000,
    show_default=True,
    help="Port of the MLflow server beside it.",
)
@click.option("--no-mlflow", is_flag=True, help="Start no MLflow server.")
@click.option(
    "--auth",
    is_flag=True,
    help="Ask for a password, that of the variable TAP_DASHBOARD_PASSWORD; the user is admin. Any"
    " host but this computer's own needs it.",
)
@click.option(
    "--write", "folder", type=FOLDER, help="Only write the pages to this folder, and serve nothing."
)
def dashboard(
    storages: tuple[str, ...],
    host: str,
    port: int,
    mlflow_port: int,
    no_mlflow: bool,
    auth: bool,
    folder: Path | None,
) -> None:
    """Show all runs and sweeps of STORAGE in a browser, and MLflow beside them.

    STORAGE is a folder of runs, or a mirror's URL such as s3://bucket/runs; by default `runs`.
    Everything is read from run directories, so no cluster has to be there.
    """
    if folder is not None:
        from tap_platform.dashboard.site import write_site

        pages = write_site(storages or ("runs",), folder)
        click.echo(f"wrote {pages:,} pages: open {folder / 'index.html'}")
        return
    from tap_platform.dashboard.run_dashboard import run_dashboard
    from tap_platform.dashboard.server import end_as_by_ctrl_c

    end_as_by_ctrl_c()
    run_dashboard(storages or ("runs",), host, port, None if no_mlflow else mlflow_port, auth)
