"""Records that wait in memory while the disk is full, so that nothing stops for want of a log."""

from __future__ import annotations

import errno
import logging
import threading
from collections import defaultdict, deque
from pathlib import Path
from typing import Any

from tap_platform.runs.files import append_line, record_line

MOST_WAITING = 100_000
"""Records of one file that wait at most; the oldest go then."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LOG = logging.getLogger(__name__)

_lock = threading.Lock()
_waiting: defaultdict[Path, deque[bytes]] = defaultdict(lambda: deque(maxlen=MOST_WAITING))
"""What this process could not write yet, by file. Logs come and go, and are sent to other
processes; what waits belongs to this one."""


def append_patiently(path: Path, record: dict[str, Any]) -> None:
    """Append a record after those that wait, or let it wait too while there is no room.

    What still waits when the process ends is lost.

    Raises:
        ValueError: A value is a number that JSON has no word for, such as NaN.
        OSError: The file cannot be written for another reason.
    """
    line = record_line(record)
    with _lock:
        lines = _waiting[path]
        lines.append(line)
        try:
            while lines:
                append_line(path, lines[0])
                lines.popleft()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                lines.pop()
                raise
            if len(lines) == 1:
                _LOG.warning("%s: %s; records wait in memory", path, error.strerror)
