import io
import json
import tarfile

import numpy as np
import orjson
import pytest
from data_samples import box_mask, jpeg, rle, sample
from rich.console import Console

from datamodules.decoding.decode import Frame
from datamodules.inspection.findings import EXAMPLES, Finding, Kind, Tally
from datamodules.inspection.findings_report import (
    print_findings,
    write_findings,
    write_repair_list,
)
from datamodules.inspection.verification import verify
from datamodules.order.plan import GlobalPlan
from datamodules.shards.entries import write_index
from datamodules.shards.index import DataIndex
from datamodules.shards.indexing import index_shards
from datamodules.shards.provenance import begin, write_card
from datamodules.shards.reader import StoreError
from datamodules.shards.records import encode_annotation, encode_priors
from datamodules.shards.sidecar import write_sidecar, write_sidecar_index
from datamodules.shards.writer import ShardWriter
from datamodules.storage import location, remove_tree
from datamodules.stream.decoder import Decoder
from datamodules.stream.quarantine import Quarantine
from datamodules.stream.sample_stream import TrainingStream
from datamodules.vocabulary import Vocabulary
from tap_platform.config.data import ShardSource

SHARD = "shard-000000.tar"
CONCEPTS = ("cat", "dog")


def unit_priors(rows=2, seed=0):
    drawn = np.random.default_rng(seed).standard_normal((rows, 4))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)


def good(key):
    made = sample(key)
    made.priors = unit_priors()
    return made


def members(made):
    """A sample as the files of a tar."""
    return {
        f"{made.key}.jpg": made.image,
        f"{made.key}.json": encode_annotation(made),
        f"{made.key}.priors.npy": encode_priors(made.priors),
    }


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def tarred(folder, files):
    """One shard of these files, indexed."""
    write_tar(folder / SHARD, files)
    index_shards(folder)
    return folder


@pytest.fixture
def data(tmp_path):
    """Two shards of two samples to learn from, one sample held out, a vocabulary and a card."""
    root = tmp_path / "data"
    for split, count in (("train", 4), ("val", 1)):
        with ShardWriter(root / split, 2) as writer:
            for number in range(count):
                writer.write(good(f"{split}-{number}"))
    Vocabulary.from_names(CONCEPTS, 4, "test").save(root / "vocabulary.safetensors")
    write_card(root, "test", {}, "test", ["train", "val"])
    return root


def found(verification):
    """Kind, shard, key and region of every finding."""
    return {
        (kind.value, each.shard, each.key, each.region)
        for kind, findings in verification.tally.examples.items()
        for each in findings
    }


def bad(verification):
    return {(each.shard, each.key) for each in verification.tally.bad}


def test_a_whole_data_set_has_no_finding(data):
    seen = []
    verification = verify(str(data), show=lambda done, of: seen.append((done, of)))
    assert found(verification) == set()
    assert (verification.shards, verification.tally.samples) == (3, 5)
    assert seen[-1] == (5, 5)
    assert verify(str(data / "train")).tally.findings == 0
    assert verify(str(data), fast=True).tally.findings == 0


# Damage to the bytes of a shard, after it was indexed.


def shard_path(data):
    return data / "train" / SHARD


def test_a_changed_byte_is_told_by_the_checksum_alone(data):
    path = shard_path(data)
    content = bytearray(path.read_bytes())
    content[-1] = 1
    path.write_bytes(content)
    verification = verify(str(data))
    assert found(verification) == {("checksum", SHARD, None, None)}
    assert verification.tally.damaged == [str(path)]
    assert not verification.tally.bad


def test_a_shard_that_grew_is_told_and_read_as_it_was(data):
    path = shard_path(data)
    path.write_bytes(path.read_bytes() + bytes(512))
    assert found(verify(str(data))) == {("checksum", SHARD, None, None)}


def test_a_cut_shard_loses_what_is_behind_the_cut(data):
    cut = DataIndex.load(data / "train").members(0, 1).annotation[0] + 20
    path = shard_path(data)
    path.write_bytes(path.read_bytes()[:cut])
    verification = verify(str(data))
    assert {
        ("checksum", SHARD, None, None),
        ("unreadable", SHARD, "train-1", None),
        ("index", SHARD, None, None),
    } == found(verification)
    assert bad(verification) == {(SHARD, "train-1")}


def test_a_missing_shard_makes_all_its_samples_bad(data):
    shard_path(data).unlink()
    verification = verify(str(data))
    keys = (None, "train-0", "train-1")
    assert found(verification) == {("unreadable", SHARD, key, None) for key in keys}
    assert bad(verification) == {(SHARD, "train-0"), (SHARD, "train-1")}
    assert verification.tally.damaged == [str(shard_path(data))]


def test_a_shard_that_is_no_tar_any_more_is_told(data):
    size = shard_path(data).stat().st_size
    shard_path(data).write_bytes(b"garbage" * (size // 7) + b"g" * (size % 7))
    kinds = {kind for kind, *_ in found(verify(str(data)))}
    assert {"checksum", "index"} < kinds


# Tars that others made.


def test_members_that_are_missing_are_told_by_their_sample(tmp_path):
    one, two = members(good("a")), members(good("b"))
    del one["a.jpg"], two["b.json"]
    folder = tarred(tmp_path / "tars", [*one.items(), *two.items()])
    verification = verify(str(folder))
    assert found(verification) == {("unreadable", SHARD, key, None) for key in "ab"}
    assert [each.reason for each in verification.tally.bad] == [
        "the shard holds no image of that key",
        "the shard holds no annotation of that key",
    ]


def test_members_apart_or_out_of_order_are_told(tmp_path):
    one, two, three = (list(members(good(key)).items()) for key in "abc")
    files = [one[0], two[0], one[1], one[2], *two[1:], three[1], three[0], three[2]]
    folder = tarred(tmp_path / "tars", files)
    verification = verify(str(folder))
    assert found(verification) == {("member order", SHARD, key, None) for key in "abc"}
    assert not verification.tally.bad


def test_keys_in_another_order_than_the_index_has_are_told(tmp_path):
    one, two = (list(members(good(key)).items()) for key in "ab")
    folder = tarred(tmp_path / "tars", [*one, *two])
    index = DataIndex.load(folder)
    swapped = tarred(tmp_path / "swapped", [*two, *one])
    (folder / SHARD).write_bytes((swapped / SHARD).read_bytes())
    verification = verify(str(folder))
    assert ("key order", SHARD, "b", None) in found(verification)
    assert ("index", SHARD, "a", None) in found(verification)
    assert ("index", SHARD, "b", None) in found(verification)
    assert index.members(0, 0).key == "a"


def test_keys_that_are_there_twice_are_told(tmp_path):
    one, two = (list(members(good(key)).items()) for key in "ab")
    folder = tarred(tmp_path / "tars", [*one, *two, one[1]])
    assert ("duplicate key", SHARD, "a", None) in found(verify(str(folder)))
    for split in ("train", "val"):
        tarred(tmp_path / "leak" / split, one)
    verification = verify(str(tmp_path / "leak"))
    assert found(verification) == {("duplicate key", SHARD, "a", None)}
    [finding] = verification.tally.examples[Kind.DUPLICATE_KEY]
    assert (finding.part, finding.detail) == ("val", f"also in train {SHARD}")


def test_members_that_the_index_does_not_know_are_told(tmp_path):
    one, two = (list(members(good(key)).items()) for key in "ab")
    folder = tarred(tmp_path / "tars", one)
    write_tar(folder / SHARD, [*one, *two])
    verification = verify(str(folder))
    assert found(verification) == {
        ("index", SHARD, "b", None),
        ("checksum", SHARD, None, None),
    }
    assert verification.tally.counts[Kind.INDEX] == 3


# Damage inside a sample: what the second of three samples holds instead.


def region_change(**changes):
    """The annotation with other fields in its second region."""

    def change(files):
        record = orjson.loads(files["b.json"])
        record["annotations"][1].update(changes)
        files["b.json"] = json.dumps(record).encode()

    return change


def file_change(name, data):
    return lambda files: files.update({f"b.{name}": data})


def mask_change(mask):
    encoding = rle(mask)
    area = float(mask.sum())
    return region_change(segmentation=encoding, area=area)


def image_field(**changes):
    def change(files):
        record = orjson.loads(files["b.json"])
        record["image"].update(changes)
        files["b.json"] = orjson.dumps(record)

    return change


def wide_priors():
    buffer = io.BytesIO()
    np.save(buffer, unit_priors().astype(np.float32))
    return buffer.getvalue()


BAD = {
    "annotation: no json": (file_change("json", b"{"), "annotation", None),
    "annotation: no box": (region_change(bbox=None), "annotation", 1),
    "annotation: three numbers": (region_change(bbox=[20, 10, 40]), "annotation", 1),
    "annotation: width is text": (image_field(width="64"), "annotation", None),
    "annotation: a phrase is no text": (region_change(phrases=["a dog", 7]), "annotation", 1),
    "annotation: phrases are no list": (region_change(phrases="a dog"), "annotation", 1),
    "image: no picture": (file_change("jpg", b"GIF89a"), "image", None),
    "image: header cut": (file_change("jpg", jpeg()[:40]), "image", None),
    "image: cut": (file_change("jpg", jpeg()[:-300]), "image", None),
    "size: annotation lies": (image_field(width=48, height=64), "size", None),
    "mask: broken text": (
        region_change(segmentation={"size": [48, 64], "counts": "garbage"}),
        "mask",
        1,
    ),
    "mask: other size": (mask_change(box_mask(40, 64, 20, 10, 60, 30)), "mask", 1),
    "mask: no encoding": (region_change(segmentation=[[1, 2, 3, 4, 5, 6]]), "mask", 1),
    "priors: no array": (file_change("priors.npy", b"garbage"), "priors", None),
    "priors: rows": (file_change("priors.npy", encode_priors(unit_priors(3))), "priors", None),
    "priors: width": (
        file_change("priors.npy", encode_priors(np.full((2, 5), 0.5))),
        "priors",
        None,
    ),
    "priors: not finite": (
        file_change("priors.npy", encode_priors(np.full((2, 4), np.nan))),
        "priors",
        0,
    ),
    "priors: integers": (
        file_change("priors.npy", encode_priors(unit_priors()).replace(b"<f2", b"<i2")),
        "priors",
        None,
    ),
}
SUSPICIOUS = {
    "schema": (image_field(file_name=" "), "schema", None),
    "area is text": (region_change(area="large"), "schema", 1),
    "schema of a region": (region_change(stability_score=2.0), "schema", 1),
    "blank phrase": (region_change(phrases=["a dog", "  "]), "phrase", 1),
    "long phrase": (region_change(phrases=["a dog", 1001 * "a"]), "phrase", 1),
    "empty mask": (mask_change(np.zeros((48, 64), bool)), "empty region", 1),
    "box without area": (region_change(bbox=[20, 10, 0, 20]), "empty region", 1),
    "box outside": (region_change(bbox=[70, 10, 40, 20]), "empty region", 1),
    "area": (region_change(area=900.0), "area", 1),
    "box": (region_change(bbox=[20, 10, 40, 26]), "box", 1),
    "category": (region_change(category="unicorn"), "category", 1),
    "prior type": (file_change("priors.npy", wide_priors()), "prior type", None),
    "prior norm": (
        file_change("priors.npy", encode_priors(unit_priors() * np.array([[1.0], [3.0]]))),
        "prior norm",
        1,
    ),
}


def with_one_changed(folder, change):
    folder.parent.mkdir(exist_ok=True)
    Vocabulary.from_names(CONCEPTS, 4, "test").save(folder.parent / "vocabulary.safetensors")
    files = {}
    for key in "abc":
        mine = members(good(key))
        if key == "b":
            change(mine)
        files.update(mine)
    return tarred(folder, files.items())


@pytest.mark.parametrize("damage", BAD)
@pytest.mark.filterwarnings("ignore:matching against an empty string")
def test_what_training_refuses_is_bad(tmp_path, damage):
    change, kind, region = BAD[damage]
    verification = verify(str(with_one_changed(tmp_path / "tars", change)))
    assert (kind, SHARD, "b", region) in found(verification)
    assert {name for name, *_ in found(verification)} <= {kind, "schema"}
    assert bad(verification) == {(SHARD, "b")}
    assert verification.tally.damaged == [str(tmp_path / "tars" / SHARD)]


@pytest.mark.parametrize("damage", SUSPICIOUS)
def test_what_training_reads_all_the_same_is_suspicious(tmp_path, damage):
    change, kind, region = SUSPICIOUS[damage]
    verification = verify(str(with_one_changed(tmp_path / "tars", change)))
    assert found(verification) == {(kind, SHARD, "b", region)}
    assert not verification.tally.bad


def test_small_differences_are_tolerated(tmp_path):
    for number, change in enumerate(
        (
            region_change(area=802.0),
            region_change(bbox=[20.0, 10.0, 39.0, 19.0]),
            region_change(bbox=[19.4, 9.3, 41.2, 21.0]),
            region_change(predicted_iou=1.02),
            region_change(segmentation=None),
            file_change("priors.npy", encode_priors(unit_priors() * np.array([[1.0], [0.0]]))),
        )
    ):
        folder = with_one_changed(tmp_path / str(number) / "tars", change)
        assert found(verify(str(folder))) == set()


def test_fast_leaves_out_the_pixels_only(tmp_path):
    folder = with_one_changed(tmp_path / "cut" / "tars", BAD["image: cut"][0])
    assert found(verify(str(folder), fast=True)) == set()
    for name in ("image: header cut", "size: annotation lies", "mask: broken text"):
        change, kind, region = BAD[name]
        folder = with_one_changed(tmp_path / kind / "tars", change)
        assert (kind, SHARD, "b", region) in found(verify(str(folder), fast=True))


# The data set as a whole.


def test_an_index_that_the_card_does_not_know_is_told(data):
    with ShardWriter(data / "other", 2) as writer:
        writer.write(good("another"))
    (data / "val").rename(data / "was")
    (data / "other").rename(data / "val")
    verification = verify(str(data))
    assert found(verification) == {("provenance", None, None, None)}
    [finding] = verification.tally.examples[Kind.PROVENANCE]
    assert (finding.part, "dataset.json" in finding.detail) == ("val", True)
    assert found(verify(str(data / "val"))) == {("provenance", None, None, None)}


def test_samples_that_the_index_does_not_know_are_told(data):
    path = data / "val" / "samples.npy"
    samples = np.load(path)
    samples["key"] = b"val-9"
    np.save(path, samples)
    verification = verify(str(data))
    assert found(verification) == {
        ("provenance", None, None, None),
        ("index", SHARD, "val-0", None),
        ("index", SHARD, "val-9", None),
    }


def sidecar_of(data, folder, change=None):
    """Priors beside the shards; `change` tells those of one key otherwise."""
    for split in ("train", "val"):
        index = DataIndex.load(data / split)
        (folder / split).mkdir(parents=True)
        entries = []
        for shard, name in enumerate(index.names):
            keys = [index.members(shard, n).key for n in range(int(index.counts[shard]))]
            rows = [unit_priors(2, 1) if change is None else change(key) for key in keys]
            entries.append(write_sidecar(folder / split, name, keys, rows))
        write_sidecar_index(folder / split, index, entries)
    return folder


def test_a_sidecar_is_checked_with_its_data_set(data, tmp_path):
    priors = sidecar_of(data, tmp_path / "priors")
    assert found(verify(str(data), priors=str(priors))) == set()

    path = priors / "train" / SHARD
    content = bytearray(path.read_bytes())
    content[-1] = 1
    path.write_bytes(content)
    verification = verify(str(data), priors=str(priors))
    assert found(verification) == {("checksum", SHARD, None, None)}
    assert verification.tally.damaged == [str(path)]
    path.unlink()
    assert bad(verify(str(data), priors=str(priors))) == {(SHARD, "train-0"), (SHARD, "train-1")}


def test_rows_of_a_sidecar_that_do_not_align_are_bad(data, tmp_path):
    priors = sidecar_of(
        data, tmp_path / "priors", lambda key: unit_priors(3 if key == "train-1" else 2)
    )
    verification = verify(str(data), priors=str(priors))
    assert found(verification) == {("priors", SHARD, "train-1", None)}
    assert found(verify(str(data))) == set()


def test_a_sidecar_of_other_samples_is_told_and_the_rest_is_checked(data, tmp_path):
    priors = sidecar_of(data, tmp_path / "priors")
    index = DataIndex.load(priors / "val")
    entry = write_sidecar(priors / "val", index.names[0], ["stranger"], [unit_priors()])
    write_index(priors / "val", [entry], "another index")
    verification = verify(str(data), priors=str(priors))
    assert found(verification) == {("sidecar", None, None, None)}
    [finding] = verification.tally.examples[Kind.SIDECAR]
    assert (finding.part, "stranger" in finding.detail) == ("val", True)
    assert verification.tally.samples == 5


def test_a_data_set_may_lie_behind_a_url(tmp_path, monkeypatch):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path))
    root = location("memory://inspected")
    with ShardWriter(root / "train", 2) as writer:
        writer.write(good("a"))
        writer.write(good("b"))
    assert verify(str(root)).tally.findings == 0
    remove_tree(root / "train" / SHARD)
    verification = verify(str(root))
    assert bad(verification) == {(SHARD, "a"), (SHARD, "b")}
    assert verification.tally.damaged == [f"memory://inspected/train/{SHARD}"]


def test_a_data_set_whose_making_has_not_ended_is_told_from_one_without_index(tmp_path):
    begin(tmp_path, "coco", {})
    with ShardWriter(tmp_path / "train", 2) as writer:
        writer.write(good("a"))
    with pytest.raises(ValueError, match=r"its making \(coco\) has not ended"):
        verify(str(tmp_path))


def test_a_shard_that_lies_elsewhere_is_told_by_its_own_path(tmp_path):
    shards = tarred(tmp_path / "tars", [*members(good("a")).items()])
    index_shards(shards, tmp_path / "set" / "train")
    (shards / SHARD).unlink()
    console = Console(file=io.StringIO(), width=500)
    print_findings(verify(str(tmp_path / "set")), console)
    assert f"  {shards / SHARD}: the shard cannot be read" in console.file.getvalue()


def test_a_shard_that_cannot_be_read_now_is_not_called_bad(tmp_path):
    with ShardWriter(tmp_path / "train", 2) as writer:
        writer.write(good("a"))
    path = tmp_path / "train" / SHARD
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(StoreError, match="may be sound"):
        verify(str(tmp_path))


def test_a_data_set_without_index_is_refused_with_advice(tmp_path):
    with pytest.raises(ValueError, match="tap data index"):
        verify(str(tmp_path))


# One truth: what is bad here is what a training stream quarantines.


@pytest.mark.filterwarnings("ignore:matching against an empty string")
def test_the_bad_samples_are_those_that_training_quarantines(tmp_path):
    root = tmp_path / "data"
    cases = BAD | SUSPICIOUS
    for number, (change, *_) in enumerate(cases.values()):
        files = members(good("b"))
        change(files)
        renamed = {name.replace("b.", f"sample{number}.", 1): data for name, data in files.items()}
        write_tar(root / f"shard-{number:03d}.tar", renamed.items())
    index_shards(root)
    (root / "shard-000.tar").unlink()
    path = root / "shard-001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    Vocabulary.from_names(CONCEPTS, 4, "test").save(root / "vocabulary.safetensors")

    verification = verify(str(root))
    index = DataIndex.load(root)
    quarantine = Quarantine(1.0, 0)
    config = ShardSource(path="", reader_tasks=0, min_region_pixels=1)
    stream = TrainingStream(
        index,
        GlobalPlan(index.counts, seed=0, partitions=1, shuffle_window=4, global_batch=1),
        Decoder(config, Frame(64, 16, 4), {"cat": 0, "dog": 1}, quarantine, training=True),
        rank=0,
        world_size=1,
        accumulation=1,
        steps=range(len(index)),
    )
    assert len(list(stream)) == len(cases)
    quarantined = {(each.shard, each.key, each.reason) for each in quarantine.samples}
    assert {(each.shard, each.key, each.reason) for each in verification.tally.bad} == quarantined
    assert len(quarantined) == len(BAD)


# What is written and shown.


def test_reports_tell_what_to_do(data, tmp_path, capsys):
    from rich.console import Console

    shard_path(data).unlink()
    verification = verify(str(data))
    write_findings(verification, tmp_path / "out")
    report = orjson.loads((tmp_path / "out" / "report.json").read_bytes())
    assert report["clean"] is False
    assert report["bad_samples"] == 2
    assert report["kinds"]["unreadable"]["count"] == 3
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert [orjson.loads(line)["key"] for line in lines] == ["train-0", "train-1"]
    write_repair_list(verification, tmp_path / "repair.txt")
    assert (tmp_path / "repair.txt").read_text() == f"{shard_path(data)}\n"
    print_findings(verification, Console(width=80))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 or str(data) in shown.splitlines()[0]
    assert "No such file" in " ".join(shown.split())
    assert "2 of 5 samples would be skipped" in shown


def test_a_tally_keeps_some_examples_and_counts_all():
    def of(number):
        tally = Tally(samples=1)
        tally.add([Finding(Kind.AREA, "train", SHARD, f"key{number}", 0, "too large")] * 3)
        return tally

    whole = Tally()
    for number in range(EXAMPLES):
        whole.merge(of(number))
    assert (whole.samples, whole.findings) == (EXAMPLES, 3 * EXAMPLES)
    assert len(whole.examples[Kind.AREA]) == EXAMPLES
    assert whole.examples[Kind.AREA][0].key == "key0"
