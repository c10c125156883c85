"""Tars that others made: in any order, cut, grown, hostile; read once and never unpacked."""

import io
import os
import random
import tarfile
import threading
from collections import Counter
from pathlib import Path
from uuid import uuid4

import numpy as np
import orjson
import pytest
from data_samples import jpeg, read_all, sample

from datamodules.shards import indexing
from datamodules.shards.entries import Members, ShardEntry, write_index
from datamodules.shards.index import DataIndex
from datamodules.shards.indexing import index_shards
from datamodules.shards.reader import ShardReader, read_samples
from datamodules.shards.records import BadSample, RawSample, encode_annotation
from datamodules.shards.writer import ShardWriter
from datamodules.storage import location, write_bytes


def member(name, data=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def tar_of(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def samples_of(keys, seed=0):
    annotation = encode_annotation(sample())
    return [
        each
        for number, key in enumerate(keys)
        for each in (
            member(f"./{key}.jpg", jpeg(seed=seed + number)),
            member(f"./{key}.json", annotation),
        )
    ]


@pytest.fixture
def opened(monkeypatch):
    """Names of the tars whose bytes are read."""
    names, read = [], indexing._scan

    def scan(name, tar, checksums):
        names.append(name)
        return read(name, tar, checksums)

    monkeypatch.setattr(indexing, "_scan", scan)
    return names


@pytest.mark.parametrize("checksums", [True, False])
def test_keys_may_lie_anywhere_in_a_tar(tmp_path, checksums):
    members = samples_of([f"sa_{number}" for number in range(40)])
    random.Random(0).shuffle(members)
    (tmp_path / "a.tar").write_bytes(tar_of(*members))
    index = index_shards(tmp_path, checksums=checksums)
    read = {raw.key: raw.image for raw in read_all(index)}
    assert read == {f"sa_{number}": jpeg(seed=number) for number in range(40)}
    assert (index.checksums[0] != "") == checksums
    assert index.sizes.tolist() == [(tmp_path / "a.tar").stat().st_size]


def test_long_and_foreign_names_are_keys(tmp_path):
    names = ["x" * 200, "é" * 90, "folder/deep/name"]
    members = samples_of(names)
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / f"{kind}.tar", "w", format=kind) as tar:
            for info, data in members:
                tar.addfile(info, io.BytesIO(data))
    for raw, name in zip(read_all(index_shards(tmp_path)), names * 2, strict=True):
        assert (raw.key, raw.image) == (name, jpeg(seed=names.index(name)))


def test_a_tar_that_has_grown_is_read_as_it_was_indexed(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of(*samples_of(["x", "y"])))
    before = read_all(index_shards(tmp_path))
    (tmp_path / "a.tar").write_bytes(tar_of(*samples_of(["x", "y", "z"])))
    assert read_all(DataIndex.load(tmp_path)) == before
    assert [raw.key for raw in read_all(index_shards(tmp_path))] == ["x", "y", "z"]


def test_a_tar_that_grows_under_an_open_reader_is_read(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_of(*samples_of(["x", "y"])))
    index = index_shards(tmp_path)
    with ShardReader(index) as reader:
        whole = [reader.read(0, number) for number in range(2)]
        data = (tmp_path / "a.tar").read_bytes()
        with (tmp_path / "a.tar").open("r+b") as file:
            file.truncate(index.members(0, 1).image[0])
            assert isinstance(reader.read(0, 1), BadSample)
            file.seek(0)
            file.write(data)
        assert [reader.read(0, number) for number in range(2)] == whole


def test_only_tars_that_are_new_or_have_changed_are_read_again(tmp_path, opened):
    for name in ("a", "b"):
        (tmp_path / f"{name}.tar").write_bytes(tar_of(*samples_of([name])))
    first = index_shards(tmp_path).sha256
    assert sorted(opened) == ["a.tar", "b.tar"]
    assert index_shards(tmp_path).sha256 == first
    assert index_shards(tmp_path, checksums=False).sha256 == first
    assert len(opened) == 2
    (tmp_path / "c.tar").write_bytes(tar_of(*samples_of(["c"])))
    (tmp_path / "a.tar").write_bytes(tar_of(*samples_of(["d"])))
    os.utime(tmp_path / "a.tar", ns=(0, 0))
    (tmp_path / ".parts/b.tar.json").write_bytes(b'{"name":')
    index = index_shards(tmp_path)
    assert sorted(opened[2:]) == ["a.tar", "b.tar", "c.tar"]
    assert [raw.key for raw in read_all(index)] == ["d", "b", "c"]


def test_an_index_that_was_killed_goes_on(tmp_path, opened, monkeypatch):
    for name in "abc":
        (tmp_path / f"{name}.tar").write_bytes(tar_of(*samples_of([name])))

    def killed(done, of):
        if (done, of) == (2, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_shards(tmp_path, show=killed, threads=1)
    assert not (tmp_path / "index.json").exists()
    told = []
    index = index_shards(tmp_path, show=lambda *numbers: told.append(numbers))
    assert sorted(opened) == ["a.tar", "b.tar", "c.tar"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert len(index) == 3


def test_checksums_are_taken_where_an_index_has_none(tmp_path, opened):
    (tmp_path / "a.tar").write_bytes(tar_of(*samples_of(["a"])))
    assert index_shards(tmp_path, checksums=False).checksums == ("",)
    assert index_shards(tmp_path).checksums != ("",)
    assert len(opened) == 2


def test_an_index_may_lie_apart_from_its_tars(tmp_path):
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/a.tar").write_bytes(tar_of(*samples_of(["a", "b"])))
    before = sorted(tmp_path.rglob("*"))
    index = index_shards(tmp_path / "tars", tmp_path / "index")
    assert index.names == (str(tmp_path / "tars/a.tar"),)
    assert [raw.key for raw in read_all(index)] == ["a", "b"]
    assert [path for path in sorted((tmp_path / "tars").rglob("*")) if path not in before] == []


def test_tars_of_any_file_system_are_indexed_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datamodules.storage.BLOCK_BYTES", 1000)
    url = f"memory://{uuid4().hex}/tars"
    data = tar_of(*samples_of(["a", "b"]))
    write_bytes(location(url) / "x.tar", data)
    (tmp_path / "x.tar").write_bytes(data)
    remote, local = index_shards(url), index_shards(tmp_path)
    assert remote.sha256 == local.sha256
    assert read_all(remote) == read_all(local)


HOSTILE = [
    member("../../x.jpg", b"above"),
    member("/etc/x.json", b"absolute"),
    member("link.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    member("hard.jpg", kind=tarfile.LNKTYPE, link="../../x.jpg"),
    member("fifo.jpg", kind=tarfile.FIFOTYPE),
    member("device.jpg", kind=tarfile.CHRTYPE),
    member("folder.jpg", kind=tarfile.DIRTYPE),
]


@pytest.mark.parametrize("checksums", [True, False])
def test_members_never_touch_the_file_system(tmp_path, checksums):
    folder = tmp_path / "deep/er/set"
    folder.mkdir(parents=True)
    (folder / "a.tar").write_bytes(tar_of(*HOSTILE, *samples_of(["good"])))
    index = index_shards(folder, checksums=checksums)
    read = read_all(index)
    assert [each.key for each in read] == ["../../x", "/etc/x", "good"]
    assert [type(each) for each in read] == [BadSample, BadSample, RawSample]
    made = {path.relative_to(folder).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert made == {"a.tar", ".parts/a.tar.json", "index.json", "samples.npy"}


def forged(size):
    """A tar of one good sample, then a member whose header tells any size."""
    data = bytearray(tar_of(*samples_of(["good"]), member("bad.jpg", b"xx")))
    start = data.rindex(b"bad.jpg")
    data[start + 124 : start + 136] = size
    data[start + 148 : start + 156] = b" " * 8
    checksum = sum(data[start : start + 512])
    data[start + 148 : start + 156] = f"{checksum:06o}\0 ".encode()
    return bytes(data)


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize(
    "size", [b"\xff" * 11 + b"\x00", b"\x80" + b"\x7f" * 11, b"77777777777\0", b"\xff" * 12]
)
def test_sizes_that_lie_end_a_tar_and_are_never_believed(tmp_path, size, checksums):
    (tmp_path / "a.tar").write_bytes(forged(size))
    index = index_shards(tmp_path, checksums=checksums)
    good, *bad = read_all(index)
    assert isinstance(good, RawSample)
    assert all(isinstance(each, BadSample) for each in bad)


@pytest.mark.parametrize(
    "places",
    [(2**62, 10), (0, 2**62), (5, -3), (-7, 5), (2**63 - 1, 2**63 - 1), (600, 10**13)],
)
def test_an_index_that_lies_reads_nothing_outside_its_shard(tmp_path, places):
    data = tar_of(*samples_of(["a"]))
    (tmp_path / "a.tar").write_bytes(data)
    entry = ShardEntry("a.tar", len(data), "", [Members("a", places, (512, 4), (512, 4))])
    write_index(tmp_path, [entry])
    (bad,) = read_all(DataIndex.load(tmp_path))
    assert isinstance(bad, BadSample)


def test_a_pipe_in_place_of_a_shard_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    write_index(tmp_path, [ShardEntry("a.tar", 0, "", [Members("a", (0, 1), (0, 1))])])
    (bad,) = read_all(DataIndex.load(tmp_path))
    assert "was cut" in bad.reason


def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path):
    write_index(tmp_path, [ShardEntry("../a.tar", 0, "", [Members("a")])])
    with pytest.raises(ValueError, match=r"\.\./a\.tar leads out of the folder"):
        DataIndex.load(tmp_path)


@pytest.mark.parametrize("name", ["pipe:touch touched", "pipe://touch touched", "a\0b", "foo://a"])
def test_an_index_that_names_what_is_no_shard_gives_bad_samples(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_index(tmp_path, [ShardEntry(name, 0, "", [Members("a", (0, 1), (0, 1))])])
    (bad,) = read_all(DataIndex.load(tmp_path))
    assert "the shard cannot be read: " in bad.reason
    assert {path.name for path in tmp_path.iterdir()} == {"index.json", "samples.npy"}


class Trap:
    def __reduce__(self):
        return os.mkdir, ("touched",)


def test_pickles_in_an_index_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_index(tmp_path, [ShardEntry("a.tar", 0, "", [Members("a")])])
    np.save(tmp_path / "samples.npy", np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(ValueError, match="is broken"):
        DataIndex.load(tmp_path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"samples": [-1, 2]},
        {"samples": [1]},
        {"samples": [2**62] * 4, "name": ["a"] * 4, "sha256": [""] * 4, "bytes": [0] * 4},
        {"samples": [[1], [0]]},
        {"sha256": []},
        {"name": None},
        {"bytes": ["many", "few"]},
    ],
)
def test_columns_that_do_not_fit_together_are_refused(tmp_path, change):
    write_index(tmp_path, [ShardEntry(f"{n}.tar", 0, "", [Members("a")] * n) for n in (1, 0)])
    path = tmp_path / "index.json"
    record = orjson.loads(path.read_bytes())
    record["shards"] |= change
    path.write_bytes(orjson.dumps(record))
    with pytest.raises(ValueError, match="is broken"):
        DataIndex.load(tmp_path)


def test_rows_of_other_columns_are_refused(tmp_path):
    write_index(tmp_path, [ShardEntry("a.tar", 0, "", [Members("a")])])
    for rows in (np.zeros(1), np.zeros(1, [("key", "S3"), ("members", "<i8", (2, 2))])):
        np.save(tmp_path / "samples.npy", rows)
        with pytest.raises(ValueError, match="is broken"):
            DataIndex.load(tmp_path)
    with (tmp_path / "samples.npy").open("wb") as file:
        np.savez(file, rows)
    with pytest.raises(ValueError, match="is broken"):
        DataIndex.load(tmp_path)


def test_damaged_shards_and_indexes_give_bad_samples_and_no_crash(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "perf"))
    from fuzz_shards import try_input, whole_tar

    whole, outcomes = whole_tar(), Counter()
    for number in range(250):
        outcomes += try_input(number, tmp_path, whole)
    assert min(outcomes[name] for name in ("refused", "good", "unread", "undecoded")) > 20


def open_descriptors(path):
    links = []
    for link in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            links.append(os.readlink(f"/proc/self/fd/{link}"))  # noqa: PTH115
        except OSError:
            continue
    return sum(link.startswith(str(path)) for link in links)


def test_a_reader_keeps_few_files_open_however_many_threads_read(tmp_path):
    with ShardWriter(tmp_path / "set", 1) as writer:
        for number in range(12):
            writer.write(sample(f"key{number}", seed=number))
    index = DataIndex.load(tmp_path / "set")
    expected = [next(read_samples(index, shard, [0])) for shard in range(12)]
    wrong, mapped = [], open_descriptors(tmp_path)
    with ShardReader(index, open_shards=3) as reader:

        def work(seed):
            draw = random.Random(seed)
            for _ in range(200):
                shard = draw.randrange(12)
                if reader.read(shard, 0) != expected[shard]:
                    wrong.append(shard)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert open_descriptors(tmp_path) - mapped == 3
    assert wrong == []
    assert open_descriptors(tmp_path) == mapped
