"""What the prepared tier saves: bytes of shards and pictures, and CPU time to decode them.

    python tests/perf/prepared_tier.py [--pictures N] [--max-side 1536] [--quality 90]

Makes SA-1B-like shards (1500 x 2250 JPEGs of about 600 KB), converts them as `tap data convert`
does, and decodes the pictures of both for a frame of 1024 (long side 1024), in turn. CPU
milliseconds a picture are the medians of the rounds; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from machine import machine
from sa1b_like import make_data_set

from datamodules.decoding.pictures import decode_picture, picture_size
from datamodules.decoding.placement import place
from datamodules.importers.convert import plan_convert
from datamodules.importers.making import make_data_set as make_shards
from datamodules.shards.index import DataIndex
from datamodules.shards.reader import read_samples
from datamodules.shards.records import RawSample

FRAME = 1024
ROUNDS = 5


def pictures_of(index: DataIndex) -> list[bytes]:
    """The encoded images of a set."""
    samples = (
        sample
        for shard, count in enumerate(index.counts)
        for sample in read_samples(index, shard, range(count))
    )
    return [sample.image for sample in samples if isinstance(sample, RawSample)]


def decode_ms(pictures: list[bytes]) -> float:
    """CPU milliseconds that decoding takes a picture, at the fraction that the frame allows."""
    started = time.process_time()
    for data in pictures:
        size = picture_size(data)
        placement = place(*size, FRAME)
        decode_picture(data, size, needed=(placement.height, placement.width))
    return 1000 * (time.process_time() - started) / len(pictures)


def facts_of(index: DataIndex, times: list[float]) -> dict[str, float]:
    """Bytes and time of one tier."""
    pictures = pictures_of(index)
    return {
        "shards_mb": round(sum(index.sizes) / 1e6, 2),
        "jpeg_kb": round(statistics.mean(map(len, pictures)) / 1e3, 1),
        "decode_ms": round(statistics.median(times), 2),
    }


def main() -> None:
    """Make, convert, decode and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--max-side", type=int, default=1536)
    parser.add_argument("--quality", type=int, default=90)
    ask = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tap-perf-") as name:
        whole, small = Path(name) / "whole", Path(name) / "small"
        make_data_set(whole, ask.pictures, lambda done, of: None)
        started = time.process_time()
        make_shards(plan_convert(whole, ask.max_side, ask.quality), small)
        convert_ms = 1000 * (time.process_time() - started) / ask.pictures
        tiers = {tier.name: DataIndex.load(tier / "train") for tier in (whole, small)}
        pictures = {name: pictures_of(index) for name, index in tiers.items()}
        rounds = [{name: decode_ms(data) for name, data in pictures.items()} for _ in range(ROUNDS)]
        found = {
            name: facts_of(index, [each[name] for each in rounds]) for name, index in tiers.items()
        }
    print(json.dumps({**found, "convert_ms": round(convert_ms, 1), **machine()}))


if __name__ == "__main__":
    main()
