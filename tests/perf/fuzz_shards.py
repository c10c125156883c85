"""Damaged and hostile shards and indexes, read and decoded: what may come of them is a bad sample.

    python tests/perf/fuzz_shards.py --inputs 20000

Each input is a small shard with its index, damaged in one of five ways, then scanned, read and
decoded. The line at the end counts what came of the samples. Any error but the two that are told of
in words, and any byte from outside the shard, ends the run with the number of its input, which
alone tells what it was.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.decoding.decode import BadSampleError, Frame, decode_sample
from datamodules.shards.entries import ShardEntry, write_index
from datamodules.shards.index import DataIndex
from datamodules.shards.indexing import members_of
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import RawSample, Region, Sample, encode_annotation, encode_priors
from datamodules.shards.tar import PassingFile, scan_tar
from tap_platform.config.data import ShardSource

FRAME = Frame(size=32, mask_size=8, concept_dim=4)
CONFIG = ShardSource(path="", reader_tasks=0)
BLOCK = tarfile.BLOCKSIZE
KINDS = ("bytes", "header", "cut", "rows", "index")


def whole_tar() -> bytes:
    """A tar of two samples with priors, a JPEG's and a PNG's, and members of all other kinds."""
    mask = np.zeros((24, 32), np.uint8, order="F")
    mask[4:20, 6:28] = 1
    rle = coco_mask.encode(mask)
    region = Region({"size": [24, 32], "counts": rle["counts"].decode()}, (6, 4, 22, 16), 352.0)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, kind in (("a", "jpeg"), ("b" * 120, "png")):
            image = io.BytesIO()
            noise.save(image, kind)
            made = Sample(key, image.getvalue(), 32, 24, [region], np.ones((1, 4), np.float16))
            assert made.priors is not None
            _add(tar, f"{key}.{kind}", made.image)
            _add(tar, f"{key}.json", encode_annotation(made))
            _add(tar, f"{key}.priors.npy", encode_priors(made.priors))
        for number, kind_of_member in enumerate(b"1234567DKLSVxg"):
            _add(tar, f"c{number}.json", b"10 size=7\n", bytes([kind_of_member]))
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    tar.addfile(info, io.BytesIO(data))
    if not info.isreg():
        tar.fileobj.write(data.ljust(BLOCK, b"\0"))  # type: ignore[union-attr]
        tar.offset += BLOCK


def try_input(number: int, folder: Path, whole: bytes) -> Counter[str]:
    """Damage a shard or its index, and read what is left.

    Args:
        number: which input.
        folder: an empty folder to write it to.
        whole: a tar that is not damaged.

    Returns:
        What came of it: `refused` as a whole, or samples that are `good`, `unread` and `undecoded`.

    Raises:
        AssertionError: if a byte came from outside its member.
    """
    draw = Random(number)
    kind = KINDS[number % len(KINDS)]
    data = damaged(whole, kind, draw)
    (folder / "a.tar").write_bytes(data)
    try:
        entry = ShardEntry("a.tar", len(data), "", members_of(scan_tar(_as_file(data, draw))))
        write_index(folder, [entry])
        if kind == "rows":
            _lie(folder / "samples.npy", draw)
        elif kind == "index":
            path = folder / draw.choice(("index.json", "samples.npy"))
            path.write_bytes(damaged(path.read_bytes(), "bytes", draw))
        index = DataIndex.load(folder)
    except ValueError:
        return Counter(refused=1)
    return _read(index, data)


def _as_file(data: bytes, draw: Random) -> io.BytesIO | PassingFile:
    """The two ways in which a tar is scanned."""
    if draw.random() < 0.5:
        return io.BytesIO(data)
    step = draw.randrange(1, len(data) + 1)
    return PassingFile(data[start : start + step] for start in range(0, len(data), step))


def damaged(data: bytes, kind: str, draw: Random) -> bytes:
    """Data with a few wrong bytes, wrong header fields whose checksum is right, or cut."""
    wrong = bytearray(data)
    if kind == "cut":
        return data[: draw.randrange(len(data))]
    used = [place for place, byte in enumerate(data) if byte]
    for _ in range(draw.choice((1, 2, 5, 30))):
        if kind == "bytes":
            wrong[draw.choice(used)] = draw.randrange(256)
        elif kind == "header":
            _forge(wrong, draw)
    return bytes(wrong)


def _forge(tar: bytearray, draw: Random) -> None:
    """Write nonsense over a field of a header, and correct the checksum."""
    start = draw.choice(
        [at for at in range(0, len(tar), BLOCK) if tar[at + 257 : at + 262] == b"ustar"]
    )
    offset, length = draw.choice(((0, 100), (124, 12), (156, 1), (345, 155), (386, 126)))
    fill = draw.choice((draw.randbytes(length), b"\xff" * length, b"7" * length, bytes(length)))
    tar[start + offset : start + offset + length] = fill
    tar[start + 148 : start + 156] = b" " * 8
    tar[start + 148 : start + 156] = b"%06o\0 " % sum(tar[start : start + BLOCK])


def _lie(path: Path, draw: Random) -> None:
    """Let rows of the index point anywhere."""
    rows = np.load(path)
    for _ in range(min(len(rows), draw.randrange(1, 4))):
        places = rows[draw.randrange(len(rows))]["members"]
        bound = draw.choice((300, 20_000, 2**31, 2**62))
        places[draw.randrange(3), draw.randrange(2)] = draw.randrange(-bound, bound)
    np.save(path, rows)


def _read(index: DataIndex, data: bytes) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    with ShardReader(index) as reader:
        for shard, count in enumerate(index.counts):
            for number in range(count):
                raw = reader.read(shard, number)
                outcomes[_outcome(index, shard, number, raw, data)] += 1
    return outcomes


def _outcome(index: DataIndex, shard: int, number: int, raw: object, data: bytes) -> str:
    if not isinstance(raw, RawSample):
        return "unread"
    members = index.members(shard, number)
    for found, (offset, size) in zip(
        (raw.image, raw.annotation, raw.priors), members[1:], strict=True
    ):
        assert found is None or (len(found) == size and found == data[offset : offset + size])
    try:
        decode_sample(raw, 0, CONFIG, FRAME, {}, training=True)
    except BadSampleError:
        return "undecoded"
    return "good"


def main() -> None:
    """Try inputs and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="Number of the first input.")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    whole = whole_tar()
    with TemporaryDirectory() as folder:
        for number in range(options.first, options.first + options.inputs):
            try:
                outcomes += try_input(number, Path(folder), whole)
            except BaseException as error:
                error.add_note(f"input {number}")
                raise
    print(json.dumps({"inputs": options.inputs, **outcomes}))


if __name__ == "__main__":
    main()
