"""The first process of a run on a Ray cluster: it looks for the storage, and becomes the command.

`python -m tap_platform.places.ray_jobs.enter STORAGE COMMAND…`
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import NoReturn

STORAGE_IS_THERE = "runs lie in "
"""How the line begins that tells so."""
REFUSED = 2
"""Exit status where the command is not begun."""


def enter(storage: str, *command: str) -> NoReturn:
    """Become a command, where a storage is there.

    Args:
        storage: the folder of all projects.
        command: the program and its arguments.

    Raises:
        SystemExit: with `REFUSED`, if it is no folder that can be written, or there is no program.
    """
    host = socket.gethostname()
    if not (Path(storage).is_dir() and os.access(storage, os.W_OK)):
        _refuse(
            f"the storage {storage} is no folder that can be written on {host}, the host of drivers"
            " in this cluster: mount it on all nodes, make the folder, or name another with"
            " storage=/FOLDER"
        )
    program = shutil.which(command[0])
    if program is None:
        _refuse(f"there is no program {command[0]} on {host}: what is its image made of?")
    print(f"{STORAGE_IS_THERE}{storage}, this is {host}", flush=True)
    os.execv(program, command)


def _refuse(why: str) -> NoReturn:
    print(f"tap: {why}", flush=True)
    sys.exit(REFUSED)


if __name__ == "__main__":
    enter(*sys.argv[1:])
