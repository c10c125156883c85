"""A data set in an S3 bucket, made, indexed and read over the network by the real client."""

import numpy as np
import pytest
from data_samples import sample
from s3_server import s3_server

from datamodules.shards.index import DataIndex
from datamodules.shards.indexing import index_shards
from datamodules.shards.reader import read_samples
from datamodules.shards.records import BadSample
from datamodules.shards.sidecar import write_sidecar, write_sidecar_index
from datamodules.shards.writer import ShardWriter
from datamodules.storage import (
    exists,
    list_files,
    location,
    make_folder,
    read_bytes,
    read_range,
    remove_tree,
    size_of,
    version_of,
    write_bytes,
)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with s3_server("data", TAP_CACHE=str(tmp_path_factory.mktemp("cache"))):
        yield location("s3://data")


def write(folder):
    with ShardWriter(folder, 3) as writer:
        for number in range(5):
            made = sample(f"key{number}", seed=number)
            made.priors = None
            writer.write(made)
    return DataIndex.load(folder)


def read_all(index):
    return [
        raw
        for shard, count in enumerate(index.counts)
        for raw in read_samples(index, shard, range(count))
    ]


def test_a_data_set_in_a_bucket_is_that_on_the_disk(bucket, tmp_path):
    local, remote = write(tmp_path / "train"), write(bucket / "set/train")
    assert remote.sha256 == local.sha256
    assert read_all(remote) == read_all(local)
    with pytest.raises(ValueError, match="s3://data/set/train is not empty"):
        write("s3://data/set/train")


def test_a_sidecar_in_a_bucket_joins_its_samples(bucket):
    index = write(bucket / "joined/train")
    folder = bucket / "joined-priors/train"
    make_folder(folder)
    priors = {f"key{number}": np.full((2, 4), number, np.float16) for number in range(5)}
    entries = []
    for shard, name in enumerate(index.names):
        keys = [key.decode() for key in index.keys(shard)]
        entries.append(write_sidecar(folder, name, keys, [priors[key] for key in keys]))
    write_sidecar_index(folder, index, entries)
    joined = DataIndex.load("s3://data/joined/train", priors="s3://data/joined-priors/train")
    for raw, plain in zip(read_all(joined), read_all(index), strict=True):
        assert raw.image == plain.image
        assert plain.priors is None
        assert raw.priors.endswith(priors[raw.key].tobytes())


def test_tars_in_a_bucket_are_indexed_there(bucket):
    written = write(bucket / "foreign")
    for name in ("index.json", "samples.npy"):
        remove_tree(bucket / "foreign" / name)
    with pytest.raises(ValueError, match="tap data index s3://data/foreign"):
        DataIndex.load("s3://data/foreign")
    assert index_shards("s3://data/foreign").sha256 == written.sha256


def test_a_writer_that_fails_leaves_nothing_in_the_bucket(bucket):
    def interrupted():
        with ShardWriter(bucket / "failed", 1) as writer:
            writer.write(sample("a"))
            writer.write(sample("b"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not exists(bucket / "failed")


def test_a_shard_missing_from_a_bucket_gives_bad_samples(bucket):
    index = write(bucket / "holes")
    remove_tree(bucket / "holes" / index.names[1])
    good = [type(each) is not BadSample for each in read_all(index)]
    assert good == [True] * 3 + [False] * 2
    bad = read_all(index)[4]
    reason = "the shard cannot be read: No such file or directory"
    assert bad == BadSample("shard-000001.tar", "key4", reason)


def test_a_bucket_is_looked_at_with_the_words_of_storage(bucket):
    place = bucket / "words/a.bin"
    assert list_files(place.parent) == []
    write_bytes(place, b"0123456789")
    first = version_of(place)
    assert [each.name for each in list_files(place.parent, "*.bin")] == ["a.bin"]
    assert (size_of(place), exists(place), exists(place.parent)) == (10, True, True)
    assert (read_range(place, 8, 20), read_range(place, 10, 20)) == (b"89", b"")
    write_bytes(place, b"9876543210")
    assert read_bytes(place) == b"9876543210"
    assert version_of(place) != first
    remove_tree(place.parent)
    assert not exists(place)
    with pytest.raises(FileNotFoundError):
        read_bytes(place)


def test_a_bucket_that_is_not_there_is_named(bucket):
    with pytest.raises(ValueError, match=r"No such file|missing"):
        DataIndex.load("s3://nowhere/train")
