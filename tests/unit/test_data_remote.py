import pickle
import threading

import pytest
from data_samples import read_all, sample
from flaky_server import flaky_server

from datamodules import remote
from datamodules.decoding.decode import Frame
from datamodules.order.plan import GlobalPlan
from datamodules.shards.index import DataIndex
from datamodules.shards.indexing import index_shards
from datamodules.shards.reader import ShardReader, StoreError, read_samples
from datamodules.shards.records import BadSample, RawSample
from datamodules.shards.writer import ShardWriter
from datamodules.storage import (
    exists,
    list_files,
    location,
    read_blocks,
    read_bytes,
    read_range,
    size_of,
)
from datamodules.stream.decoder import Decoder
from datamodules.stream.quarantine import Quarantine
from datamodules.stream.sample_stream import TrainingStream
from tap_platform.config.data import ShardSource

KEYS = [f"key{number}" for number in range(5)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(remote, "TIMEOUT_SECONDS", 20.0)
    monkeypatch.setattr(remote, "SLOWEST_BYTES_PER_SECOND", 1e9)
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(remote, "LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))


def write(folder, keys=KEYS, per_shard=3):
    with ShardWriter(folder, per_shard) as writer:
        for number, key in enumerate(keys):
            writer.write(sample(key, seed=number))
    return DataIndex.load(folder)


@pytest.fixture
def served(tmp_path):
    """A data set on an HTTP server: the server, its index there and its index on disk."""
    local = write(tmp_path / "set")
    with flaky_server() as server:
        for path in (tmp_path / "set").iterdir():
            server.files[f"/set/{path.name}"] = path.read_bytes()
        yield server, DataIndex.load(f"{server.url}/set"), local


def test_http_gives_the_same_samples_as_the_disk(served):
    server, index, local = served
    assert index.sha256 == local.sha256
    server.gets.clear()
    assert read_all(index) == read_all(local)
    assert len(server.gets) == 5
    assert all(asked.startswith("bytes=") for _, asked in server.gets)


def test_an_index_of_http_travels_and_its_samples_are_copied_once(served):
    server, index, _ = served
    server.gets.clear()
    other = pickle.loads(pickle.dumps(index))
    assert [path for path, _ in server.gets] == ["/set/index.json"]
    assert read_all(other) == read_all(index)


@pytest.mark.parametrize(
    "faults",
    [[503, 503, 503], [429], [500, 502, 504], ["hang"], ["cut", "cut"], ["drop", 503], [408]],
)
def test_faults_that_pass_cost_only_time(served, monkeypatch, faults):
    server, index, local = served
    if "hang" in faults:
        monkeypatch.setattr(remote, "TIMEOUT_SECONDS", 0.1)
    server.faults["/set/shard-000000.tar"] = list(faults)
    assert read_all(index) == read_all(local)
    assert server.faults["/set/shard-000000.tar"] == []


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (503, "the store answers 503, for 0.3 s"),
        ("hang", "no answer within 0.2 s, for 0.3 s"),
        ("cut", "the connection fails or breaks, for 0.3 s"),
        ("drop", "the connection fails or breaks, for 0.3 s"),
        (403, "Permission denied"),
        (400, "the store answers 400"),
        ("whole", "the server does not serve byte ranges"),
    ],
)
def test_a_store_that_gives_nothing_condemns_no_sample(served, monkeypatch, fault, told):
    server, index, local = served
    if fault == "hang":
        monkeypatch.setattr(remote, "TIMEOUT_SECONDS", 0.2)
    server.faults["/set/shard-000001.tar"] = fault
    with ShardReader(index) as reader:
        with pytest.raises(StoreError, match=f"shard-000001.tar cannot be read: {told}. Its sam"):
            reader.read(1, 1)
        assert isinstance(reader.read(0, 0), RawSample)
        asked = [path for path, _ in server.gets if path == "/set/shard-000001.tar"]
        assert len(asked) == 1 or fault not in (403, 400, "whole")
        server.faults.clear()
        assert reader.read(1, 1) == next(read_samples(local, 1, [1]))


def test_whoever_waits_is_told(served, caplog):
    server, index, _ = served
    server.faults["/set/shard-000000.tar"] = [503]
    next(read_samples(index, 0, [0]))
    (told,) = caplog.messages
    assert "shard-000000.tar: the store answers 503; the next try is in" in told


def stream_of(index, quarantine):
    config = ShardSource(path="", reader_tasks=0, min_region_pixels=1)
    frame = Frame(size=64, mask_size=16, concept_dim=4)
    decoder = Decoder(config, frame, {"cat": 0, "dog": 1}, quarantine, training=True)
    plan = GlobalPlan(index.counts, seed=0, partitions=1, shuffle_window=5, global_batch=5)
    return TrainingStream(
        index, plan, decoder, rank=0, world_size=1, accumulation=1, steps=range(1)
    )


def test_a_stream_goes_on_without_a_shard_that_is_not_there_and_counts_it(served):
    server, index, _ = served
    server.faults["/set/shard-000000.tar"] = [503]
    server.faults["/set/shard-000001.tar"] = 404
    quarantine = Quarantine(0.5, grace=10)
    (batch,) = stream_of(index, quarantine)
    assert set(batch.keys) == {"key0", "key1", "key2"}
    assert quarantine.seen == 5
    reason = "the shard cannot be read: No such file or directory"
    assert {(bad.shard, bad.key, bad.reason) for bad in quarantine.samples} == {
        ("shard-000001.tar", key, reason) for key in ("key3", "key4")
    }


def test_a_stream_ends_when_the_store_is_gone_and_quarantines_nothing(tmp_path):
    write(tmp_path / "set")
    with flaky_server() as server:
        for path in (tmp_path / "set").iterdir():
            server.files[f"/{path.name}"] = path.read_bytes()
        index = DataIndex.load(server.url)
    quarantine = Quarantine(1.0, grace=10)
    with pytest.raises(StoreError, match="the connection fails or breaks"):
        list(stream_of(index, quarantine))
    assert not quarantine.samples


def test_a_shard_that_was_cut_on_the_server_says_what_a_local_one_says(served):
    server, index, local = served
    name = "shard-000000.tar"
    data = server.files[f"/set/{name}"][: local.members(0, 1).annotation[0] + 7]
    server.files[f"/set/{name}"] = data
    local.path(0).write_bytes(data)
    read = read_all(index)
    assert read == read_all(local)
    assert [type(each) for each in read[:3]] == [RawSample, BadSample, BadSample]
    assert "the shard was cut" in read[2].reason


def test_tars_on_a_server_are_indexed_where_they_lie(served, tmp_path):
    server, _, local = served
    server.faults["/set/shard-000001.tar"] = [503, "cut"]
    index = index_shards(f"{server.url}/set", tmp_path / "index")
    assert index.names[0] == f"{server.url}/set/shard-000000.tar"
    assert index.checksums == local.checksums
    read = read_all(DataIndex.load(tmp_path / "index"))
    assert [each.image for each in read] == [each.image for each in read_all(local)]


def test_a_broken_copy_of_the_samples_is_refused(served, monkeypatch, tmp_path):
    server, _, _ = served
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "other"))
    server.files["/set/samples.npy"] = server.files["/set/samples.npy"][:-1]
    with pytest.raises(ValueError, match=r"is broken .*samples\.npy is not the file"):
        DataIndex.load(f"{server.url}/set")
    assert not [path for path in (tmp_path / "other").rglob("*") if path.is_file()]
    del server.files["/set/index.json"]
    with pytest.raises(ValueError, match="tap data index http"):
        DataIndex.load(f"{server.url}/set")
    server.faults["/set/index.json"] = 503
    with pytest.raises(ValueError, match="cannot be read: the store answers 503"):
        DataIndex.load(f"{server.url}/set")


def test_http_is_looked_at_with_the_words_of_storage(served):
    server, _, local = served
    folder = location(f"{server.url}/set/")
    assert [tar.name for tar in list_files(folder, "*.tar")] == list(local.names)
    shard = folder / "shard-000000.tar"
    data = local.path(0).read_bytes()
    assert size_of(shard) == len(data)
    assert exists(shard)
    assert not exists(folder / "shard-000009.tar")
    assert b"".join(read_blocks(shard)) == data
    assert read_range(shard, len(data) - 2, len(data) + 9) == data[-2:]
    assert read_range(shard, len(data) + 1, len(data) + 9) == b""
    with pytest.raises(FileNotFoundError):
        read_bytes(folder / "nothing")


def test_many_threads_share_a_reader(served):
    _, index, local = served
    expected, read = read_all(local), {}
    with ShardReader(index) as reader:

        def work(thread):
            read[thread] = [
                reader.read(*place) for place in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
            ]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(read[thread] == expected for thread in range(4))
