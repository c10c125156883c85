import io
import pickle
import tarfile

import numpy as np
import orjson
import pytest
import webdataset
from data_samples import jpeg, png, sample
from PIL import Image

from datamodules.shards.index import DataIndex
from datamodules.shards.indexing import index_shards
from datamodules.shards.reader import ShardReader, StoreError, read_samples
from datamodules.shards.records import BadSample, RawSample, encode_annotation
from datamodules.shards.writer import ShardWriter


def some(count):
    return [sample(f"key{number}", seed=number) for number in range(count)]


def write(folder, samples=None, per_shard=2):
    samples = some(5) if samples is None else samples
    with ShardWriter(folder, per_shard) as writer:
        for each in samples:
            writer.write(each)
    return samples


def test_what_is_written_is_read(tmp_path):
    samples = write(tmp_path / "train")
    index = DataIndex.load(tmp_path / "train")
    assert index.counts.tolist() == [2, 2, 1]
    assert len(index) == 5
    read = [raw for shard in range(3) for raw in read_samples(index, shard, range(2 - shard // 2))]
    assert [raw.key for raw in read] == [each.key for each in samples]
    for raw, made in zip(read, samples, strict=True):
        assert isinstance(raw, RawSample)
        assert raw.image == made.image
        assert raw.annotation == encode_annotation(made)
        priors = np.load(io.BytesIO(raw.priors), allow_pickle=False)
        np.testing.assert_array_equal(priors, made.priors)


def test_webdataset_reads_our_shards(tmp_path):
    samples = write(tmp_path / "train", some(2))
    pipeline = webdataset.WebDataset(
        str(tmp_path / "train/shard-000000.tar"), shardshuffle=False, empty_check=False
    )
    for row, made in zip(pipeline, samples, strict=True):
        assert row["__key__"] == made.key
        assert row["jpg"] == made.image
        assert row["json"] == encode_annotation(made)
        assert "priors.npy" in row


def test_samples_are_read_in_the_order_asked_for(tmp_path):
    write(tmp_path / "train", per_shard=5)
    read = read_samples(DataIndex.load(tmp_path / "train"), 0, [3, 0, 4, 0])
    assert [raw.key for raw in read] == ["key3", "key0", "key4", "key0"]


def test_a_png_keeps_its_bytes_and_extension(tmp_path):
    made = sample()
    made.image = png(Image.new("RGB", (64, 48)))
    with ShardWriter(tmp_path / "train", 2) as writer:
        writer.write(made)
    with tarfile.open(tmp_path / "train/shard-000000.tar") as tar:
        assert tar.getnames() == ["a.png", "a.json", "a.priors.npy"]
    assert next(read_samples(DataIndex.load(tmp_path / "train"), 0, [0])).image == made.image


def test_equal_samples_give_equal_bytes(tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "other")
    assert DataIndex.load(tmp_path / "one").sha256 == DataIndex.load(tmp_path / "other").sha256


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    def interrupted():
        for number in range(3):
            yield sample(f"key{number}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "train", interrupted())
    assert list(tmp_path.iterdir()) == []


def test_a_writer_takes_no_folder_that_holds_something(tmp_path):
    write(tmp_path / "train")
    with pytest.raises(ValueError, match="not empty"):
        write(tmp_path / "train")
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ValueError, match="cannot write"):
        write(tmp_path / "file" / "train")


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "../a"])
def test_keys_that_break_tars_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match="key"):
        write(tmp_path / "train", [sample(key)])


def test_a_repeated_key_and_missing_priors_are_refused(tmp_path):
    with pytest.raises(ValueError, match="already"):
        write(tmp_path / "train", [sample(), sample()])
    made = sample()
    made.priors = made.priors[:1]
    with pytest.raises(ValueError, match="2 regions but 1 priors"):
        write(tmp_path / "train", [made])


def test_a_shard_cut_in_half_gives_bad_samples(tmp_path):
    write(tmp_path / "train", some(4), per_shard=4)
    path = tmp_path / "train/shard-000000.tar"
    index = DataIndex.load(tmp_path / "train")
    path.write_bytes(path.read_bytes()[: index.members(0, 2).annotation[0] + 5])
    first, again = (list(read_samples(index, 0, range(4))) for _ in range(2))
    assert first == again
    assert [type(each) for each in first] == [RawSample, RawSample, BadSample, BadSample]
    assert first[3].shard == "shard-000000.tar"
    assert first[3].key == "key3"
    assert "the shard was cut" in first[3].reason


def test_a_missing_shard_gives_bad_samples(tmp_path):
    write(tmp_path / "train")
    (tmp_path / "train/shard-000001.tar").unlink()
    with ShardReader(DataIndex.load(tmp_path / "train")) as reader:
        assert isinstance(reader.read(0, 0), RawSample)
        bad = reader.read(1, 1)
        assert bad == reader.read(1, 1)
    assert (bad.shard, bad.key) == ("shard-000001.tar", "key3")
    assert "No such file" in bad.reason


def test_a_shard_that_cannot_be_read_though_it_is_there_is_not_bad(tmp_path):
    write(tmp_path / "train")
    index, path = DataIndex.load(tmp_path / "train"), tmp_path / "train/shard-000001.tar"
    path.unlink()
    path.symlink_to(path)
    with ShardReader(index) as reader, pytest.raises(StoreError, match="may be sound") as told:
        reader.read(1, 1)
    assert str(path) in str(told.value)
    assert str(pickle.loads(pickle.dumps(told.value))) == str(told.value)


def test_a_folder_that_is_gone_with_all_its_shards_condemns_none(tmp_path):
    write(tmp_path / "train")
    index = DataIndex.load(tmp_path / "train")
    (tmp_path / "train").rename(tmp_path / "unmounted")
    with ShardReader(index) as reader, pytest.raises(StoreError, match="No such file"):
        reader.read(1, 1)


def sa1b_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_official_tars_are_shards_unchanged(tmp_path):
    # SA-1B's tars name their members ./sa_N, in no order, without priors.
    made = sample()
    files = [
        ("./sa_2.json", encode_annotation(made)),
        ("./sa_1.jpg", jpeg(seed=1)),
        ("./LICENSE.txt", b"text"),
        ("./sa_1.json", encode_annotation(made)),
        ("./sa_2.jpg", jpeg(seed=2)),
    ]
    sa1b_tar(tmp_path / "sa_000000.tar", files)
    index = index_shards(tmp_path)
    assert index.names == ("sa_000000.tar",)
    read = {raw.key: raw for raw in read_samples(index, 0, range(2))}
    assert read["sa_1"].image == jpeg(seed=1)
    assert read["sa_2"].image == jpeg(seed=2)
    assert read["sa_2"].priors is None


def test_foreign_tars_with_holes_are_indexed_and_their_holes_found(tmp_path):
    sa1b_tar(tmp_path / "a.tar", [("x.jpg", jpeg()), ("y.json", b"{}"), ("y.jpg", jpeg())])
    long = [(f"z{number}.jpg", jpeg()) for number in range(3)]
    sa1b_tar(tmp_path / "b.tar", long)
    (tmp_path / "b.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:2000])
    index = index_shards(tmp_path)
    x, y = read_samples(index, 0, range(2))
    assert isinstance(y, RawSample)
    assert x == BadSample("a.tar", "x", "the shard holds no annotation of that key")
    (z,) = read_samples(index, 1, range(1))
    assert isinstance(z, BadSample)


def test_an_index_of_foreign_tars_is_that_of_the_writer(tmp_path):
    write(tmp_path / "train")
    written = DataIndex.load(tmp_path / "train")
    indexed = index_shards(tmp_path / "train")
    assert indexed.sha256 == written.sha256


def test_what_is_no_tar_is_named(tmp_path):
    with pytest.raises(ValueError, match="no tars"):
        index_shards(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"not a tar" * 200)
    with pytest.raises(ValueError, match=r"a\.tar is not an uncompressed tar"):
        index_shards(tmp_path)


def test_broken_indexes_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        DataIndex.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"index\.json is missing"):
        DataIndex.load(tmp_path)
    write(tmp_path / "train")
    path = tmp_path / "train/index.json"
    record = orjson.loads(path.read_bytes())
    record["shards"]["samples"][0] = 7
    path.write_bytes(orjson.dumps(record))
    with pytest.raises(ValueError, match="5 rows for 10 samples"):
        DataIndex.load(tmp_path / "train")
    path.write_bytes(b"{")
    with pytest.raises(ValueError, match="is broken"):
        DataIndex.load(tmp_path / "train")


def test_an_index_travels_by_its_path(tmp_path):
    write(tmp_path / "train")
    index = DataIndex.load(tmp_path / "train")
    data = pickle.dumps(index)
    assert len(data) < 300
    assert pickle.loads(data).members(1, 0) == index.members(1, 0)


def test_an_index_may_be_empty(tmp_path):
    with ShardWriter(tmp_path / "val", 2):
        pass
    assert len(DataIndex.load(tmp_path / "val")) == 0
