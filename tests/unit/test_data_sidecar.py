import hashlib
import pickle

import numpy as np
import orjson
import pytest
from data_samples import sample

from datamodules.shards.entries import write_index
from datamodules.shards.index import DataIndex
from datamodules.shards.indexing import index_shards
from datamodules.shards.reader import ShardReader, read_samples
from datamodules.shards.records import BadSample, RawSample, decode_priors
from datamodules.shards.sidecar import write_sidecar, write_sidecar_index
from datamodules.shards.writer import ShardWriter

PRIORS = {f"key{number}": np.full((2, 6), number, np.float16) for number in range(5)}


def make_set(folder, keys=tuple(PRIORS), per_shard=2):
    with ShardWriter(folder, per_shard) as writer:
        for number, key in enumerate(keys):
            writer.write(sample(key, seed=number))
    return DataIndex.load(folder)


def keys_of(index, shard):
    return [key.decode() for key in index.keys(shard)]


def make_sidecar(folder, index, without=()):
    folder.mkdir()
    entries = []
    for shard, name in enumerate(index.names):
        keys = keys_of(index, shard)
        rows = [None if key in without else PRIORS[key] for key in keys]
        entries.append(write_sidecar(folder, name, keys, rows))
    write_sidecar_index(folder, index, entries)
    return entries


@pytest.fixture
def made(tmp_path):
    index = make_set(tmp_path / "train")
    make_sidecar(tmp_path / "priors", index, without=["key3"])
    return tmp_path, index


def test_priors_come_from_the_sidecar_and_the_rest_from_the_shards(made):
    folder, index = made
    joined = DataIndex.load(folder / "train", priors=folder / "priors")
    assert joined.priors_path(1) == folder / "priors/shard-000001.tar"
    with ShardReader(joined) as reader, ShardReader(index) as plain:
        for shard, number in [(0, 0), (0, 1), (1, 0), (2, 0)]:
            raw, alone = reader.read(shard, number), plain.read(shard, number)
            assert (raw.key, raw.image, raw.annotation) == (
                alone.key,
                alone.image,
                alone.annotation,
            )
            np.testing.assert_array_equal(decode_priors(raw.priors, 2, 6), PRIORS[raw.key])
        assert reader.read(1, 1).priors is None
        assert plain.read(1, 1).priors is not None


def test_an_index_with_a_sidecar_travels_and_has_a_hash_of_its_own(made):
    folder, index = made
    joined = DataIndex.load(folder / "train", priors=folder / "priors")
    other = pickle.loads(pickle.dumps(joined))
    assert other.sha256 == joined.sha256 != index.sha256
    assert other.members(0, 1) == joined.members(0, 1)


def test_equal_priors_give_equal_bytes(made):
    folder, index = made
    again = make_sidecar(folder / "again", index, without=["key3"])
    joined = DataIndex.load(folder / "train", priors=folder / "priors")
    assert tuple(entry.sha256 for entry in again) == joined.sidecar.checksums
    assert DataIndex.load(folder / "train", priors=folder / "again").sha256 == joined.sha256
    tar = (folder / "again" / again[0].name).read_bytes()
    assert (len(tar), hashlib.sha256(tar).hexdigest()) == again[0][1:3]


def test_a_sidecar_outlives_a_new_index_of_the_same_samples(made):
    folder, index = made
    old = index.sha256
    assert index_shards(folder / "train", folder / "elsewhere", checksums=False).sha256 != old
    joined = DataIndex.load(folder / "elsewhere", priors=folder / "priors")
    raw = next(read_samples(joined, 0, [1]))
    np.testing.assert_array_equal(decode_priors(raw.priors, 2, 6), PRIORS["key1"])


@pytest.mark.parametrize(
    ("keys", "per_shard", "told"),
    [
        (["key0", "key1"], 2, "3 shards there, 1 here"),
        (["key0", "key1", "key2"], 1, r"shard-000000\.tar has 2 samples there, 1 here"),
        (
            ["key0", "key1", "key3", "key2", "key4"],
            2,
            r"sample 0 of shard-000001\.tar is key2 there and key3 here",
        ),
    ],
)
def test_priors_of_other_samples_are_refused(made, keys, per_shard, told):
    folder, _ = made
    make_set(folder / "other", keys, per_shard)
    with pytest.raises(ValueError, match=told):
        DataIndex.load(folder / "other", priors=folder / "priors")


def test_a_sidecar_of_other_shards_gets_no_index(made):
    folder, index = made
    (folder / "wrong").mkdir()
    entries = [write_sidecar(folder / "wrong", name, [], []) for name in reversed(index.names)]
    with pytest.raises(ValueError, match=r"shard 0 is shard-000002\.tar there and shard-000000"):
        write_sidecar_index(folder / "wrong", index, entries)
    assert not (folder / "wrong/index.json").exists()
    with pytest.raises(ValueError, match=r"index\.json is missing"):
        DataIndex.load(folder / "train", priors=folder / "wrong")


def test_a_sidecar_whose_index_lies_about_its_samples_is_refused(made):
    folder, index = made
    entry = write_sidecar(folder / "priors", index.names[0], ["key0"], [PRIORS["key0"]])
    write_index(folder / "priors", [entry], index.sha256)
    with pytest.raises(ValueError, match="1 shards there, 3 here"):
        DataIndex.load(folder / "train", priors=folder / "priors")


def test_a_sidecar_that_is_lost_or_cut_condemns_its_samples_with_a_reason(made):
    folder, _ = made
    joined = DataIndex.load(folder / "train", priors=folder / "priors")
    joined.priors_path(0).unlink()
    cut = joined.priors_path(1)
    cut.write_bytes(cut.read_bytes()[:520])
    with ShardReader(joined) as reader:
        assert reader.read(0, 0) == BadSample(
            "shard-000000.tar",
            "key0",
            "the shard of the priors cannot be read: No such file or directory",
        )
        assert "the shard of the priors was cut: the priors would end" in reader.read(1, 0).reason
        assert isinstance(reader.read(1, 1), RawSample)


def test_the_index_of_a_sidecar_names_its_main_index(made):
    folder, index = made
    record = orjson.loads((folder / "priors/index.json").read_bytes())
    assert record["main"] == index.sha256
