"""Samples as rows of an Arrow table, without a copy more than the object store makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.shards.records import BadSample, RawSample
from datamodules.stream.packing import PackedSample
from datamodules.stream.reading import SeededSample

_BINARY = ("image", "annotation", "priors", "data")
"""Columns of bytes: three of a raw sample, the last of a packed one."""


def encode_block(samples: Sequence[SeededSample]) -> pa.Table:
    """One row a sample: as it lies in its shard, packed, or the reason why there is none."""
    columns: dict[str, Any] = {
        "seed": pa.array([each.seed for each in samples], pa.int64()),
        "shard": pa.array([each.sample.shard for each in samples], pa.string()),
        "key": pa.array([each.sample.key for each in samples], pa.string()),
        "reason": pa.array([getattr(each.sample, "reason", None) for each in samples], pa.string()),
    }
    for name in _BINARY:
        columns[name] = _binary([getattr(each.sample, name, None) for each in samples])
    return pa.table(columns)


def _binary(values: Sequence[bytes | memoryview | None]) -> pa.LargeBinaryArray:
    """A column of bytes; they are copied once, where Arrow's own builder copies as it grows."""
    offsets = np.cumsum([0, *(len(value or b"") for value in values)], dtype=np.int64)
    missing = np.packbits([value is not None for value in values], bitorder="little")
    data = b"".join(value for value in values if value is not None)
    buffers = [pa.py_buffer(each) for each in (missing, offsets, data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(values), buffers)


def decode_block(table: pa.Table) -> Iterator[SeededSample]:
    """The samples of a table that `encode_block` made.

    Raw samples are copied out of the table; packed ones are views of it.
    """
    for batch in table.to_batches():
        columns = [batch.column(name).to_pylist() for name in ("seed", "shard", "key", "reason")]
        views = [_views(batch.column(name)) for name in _BINARY]
        for seed, shard, key, reason, image, annotation, priors, data in zip(
            *columns, *views, strict=True
        ):
            sample: RawSample | PackedSample | BadSample
            if reason is not None:
                sample = BadSample(shard, key, reason)
            elif data is not None:
                sample = PackedSample(shard, key, data)
            else:
                assert image is not None
                assert annotation is not None
                raw_priors = None if priors is None else bytes(priors)
                sample = RawSample(shard, key, bytes(image), bytes(annotation), raw_priors)
            yield SeededSample(seed, sample)


def _views(column: pa.LargeBinaryArray) -> list[memoryview | None]:
    """The bytes of each row, where they lie."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    whole = memoryview(data).cast("B")
    valid = column.is_valid().to_pylist()
    return [
        whole[start:stop] if there else None
        for there, (start, stop) in zip(valid, pairwise(ends.tolist()), strict=True)
    ]
