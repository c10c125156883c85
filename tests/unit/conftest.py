"""What many unit tests call: `tap`, as in a terminal."""

from __future__ import annotations

import sys

import pytest

from tap_platform import cli


@pytest.fixture
def tap(monkeypatch, capsys):
    """Run `tap` in this process: exit status, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tap", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capsys.readouterr()

    return run
