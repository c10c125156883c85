"""What W&B's offline file holds."""

from __future__ import annotations

import struct
import time


def rows_of(run):
    """What the offline file holds: rows of history, and config.

    W&B's own process completes the file some milliseconds after it has acknowledged the end.
    """
    (path,) = (run.path / "wandb").glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + 10
    while not any(record.HasField("exit") for record in records_of(path)):
        assert time.monotonic() < deadline, "the file has no end"
    records = list(records_of(path))
    rows = [items(record.history.item) for record in records if record.HasField("history")]
    config = {}
    for record in records:
        config |= items(record.config.update) | items(record.run.config.update)
    return rows, config


def records_of(path):
    """LevelDB's log format: records, some in pieces, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, buffer = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        size, kind = struct.unpack_from("<HB", data, position + 4)
        buffer += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4) and position <= len(data):
            yield Record.FromString(buffer)
            buffer = b""


def items(entries):
    return {"/".join([e.key, *e.nested_key]).strip("/"): e.value_json for e in entries}
