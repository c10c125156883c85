import os
import pickle
import subprocess

import numpy as np
import orjson
import pytest
from importer_fixtures import (
    HEIGHT,
    SQUARE,
    TRIANGLE,
    WIDTH,
    decode_split,
    read_faults,
    read_regions,
    reference,
    write_json,
    write_refcoco,
)
from pycocotools import mask as coco_mask

from datamodules.importers.plain_pickle import load_plain
from datamodules.importers.registry import import_source
from datamodules.vocabulary import Vocabulary
from tap_platform.config.sources import RefCocoSource


def run(root, out, **options):
    return import_source(RefCocoSource(path=str(root), shards=str(out), **options), dim=8)


def drawn(polygon):
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)))


def test_references_become_phrases_of_masks(tmp_path):
    report = run(write_refcoco(tmp_path / "refcoco"), tmp_path / "out")
    assert report.images == {"train": 1, "val": 1}
    assert report.regions == {"train": 2, "val": 1}
    assert report.left_out == {"references of split testA": 1, "references of split testB": 1}
    assert read_faults(tmp_path / "out") == []
    (dog, cat) = read_regions(tmp_path / "out", "train")["000000000001"]
    # Two references of one annotation are joined, and what both say stands once.
    assert dog.phrases == ["the left dog", "brown dog", "dog that looks at us"]
    assert (dog.category, cat.category, cat.phrases) == ("dog", "cat", ["cat"])
    np.testing.assert_array_equal(coco_mask.decode(dog.segmentation), drawn(TRIANGLE))
    np.testing.assert_array_equal(coco_mask.decode(cat.segmentation), drawn(SQUARE))
    (held_out,) = read_regions(tmp_path / "out", "val")["000000000002"]
    assert held_out.phrases == ["dog in front"]
    names = Vocabulary.load(tmp_path / "out/vocabulary.safetensors").names
    assert len(names) == 80


def test_what_was_imported_is_decoded(tmp_path):
    run(write_refcoco(tmp_path / "refcoco"), tmp_path / "out")
    decoded = decode_split(tmp_path / "out", "train")["000000000001"]
    names = Vocabulary.load(tmp_path / "out/vocabulary.safetensors").names
    slots = [names[concept] for concept in decoded.concepts]
    assert sorted(slots) == ["cat", "dog"]
    np.testing.assert_allclose(decoded.boxes[slots.index("cat")], [4, 4, 24, 24])
    assert decoded.has_mask.all()


def test_another_split_may_be_held_out(tmp_path):
    root = write_refcoco(tmp_path / "refcoco")
    report = run(root, tmp_path / "out", held_out="testA")
    assert list(read_regions(tmp_path / "out", "val")) == ["000000000003"]
    assert report.left_out["references of split val"] == 1
    with pytest.raises(ValueError, match="held_out is testA there and val here"):
        run(root, tmp_path / "out")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_protocol_gives_the_same_shards(tmp_path, protocol):
    root = write_refcoco(tmp_path / "refcoco", dump=lambda refs: pickle.dumps(refs, protocol))
    run(root, tmp_path / "out")
    assert len(read_regions(tmp_path / "out", "train")["000000000001"]) == 2


def test_json_does_as_well_and_a_choice_of_files_is_asked_for(tmp_path):
    root = write_refcoco(tmp_path / "refcoco", name="refs.json", dump=orjson.dumps)
    first = run(root, tmp_path / "out")
    assert first.regions == {"train": 2, "val": 1}
    (root / "refs(google).p").write_bytes(pickle.dumps([reference(1, 10, 1, "train", "dog")], 2))
    with pytest.raises(ValueError, match=r"refs\(google\)\.p, refs\.json\).*split_by"):
        run(root, tmp_path / "other")
    report = run(root, tmp_path / "other", split_by="google")
    assert report.images == {"train": 1, "val": 0}


def test_an_image_may_be_in_two_splits(tmp_path):
    def divide(refs, instances):
        refs[1]["split"] = "val"

    report = run(write_refcoco(tmp_path / "refcoco", divide), tmp_path / "out")
    assert report.images == {"train": 1, "val": 2}
    (dog,) = read_regions(tmp_path / "out", "train")["000000000001"]
    (cat,) = read_regions(tmp_path / "out", "val")["000000000001"]
    assert (dog.category, cat.category) == ("dog", "cat")


def test_masks_may_be_run_lengths_and_crowds_may_be_referred_to(tmp_path):
    def encode(refs, instances):
        # Columns 5 to 29, rows 10 to 19.
        counts = [5 * HEIGHT + 10, *[10, HEIGHT - 10] * 24, 10]
        counts.append(HEIGHT * WIDTH - sum(counts))
        rle = {"size": [HEIGHT, WIDTH], "counts": counts}
        instances["annotations"][0] |= {"segmentation": rle, "iscrowd": 1, "bbox": [5, 10, 25, 10]}

    run(write_refcoco(tmp_path / "refcoco", encode), tmp_path / "out")
    dog = read_regions(tmp_path / "out", "train")["000000000001"][0]
    assert dog.area == 250
    assert coco_mask.decode(dog.segmentation)[10:20, 5:30].all()


def test_an_import_that_is_there_is_kept(tmp_path):
    root, images = write_refcoco(tmp_path / "refcoco"), tmp_path / "train2014"
    (root / "train2014").rename(images)
    first = run(root, tmp_path / "out", images=str(images))
    stamp = (tmp_path / "out/dataset.json").stat().st_mtime_ns
    assert run(root, tmp_path / "out", images=str(images)) == first
    assert (tmp_path / "out/dataset.json").stat().st_mtime_ns == stamp


def test_faults_are_listed_and_the_rest_imported(tmp_path):
    def spoil(refs, instances):
        refs += [
            reference(11, 999, 1, "train", "a dog"),
            reference(12, 20, 1, "train", "a dog"),
            reference(13, 70, 7, "train", "a dog"),
            reference(14, 21, 2, "train", "a dog", "  "),
            reference(15, 31, 3, "train"),
            reference(16, 41, 4, "train", "a dog") | {"split": 4},
            "nothing",
        ]
        instances["annotations"][5] |= {"segmentation": [[1.0, 2.0]]}
        refs += [reference(17, 31, 3, "train", "a dog")]

    report = run(write_refcoco(tmp_path / "refcoco", spoil), tmp_path / "out")
    found = [
        (each["image"], each["annotation"], each["reason"])
        for each in read_faults(tmp_path / "out")
    ]
    wanted = [
        (2, 21, "the phrase is empty"),
        (3, 31, "no sentence"),
        (4, 41, "no proper split"),
        (None, "without id", "not an object"),
        (1, 999, "the image has none such"),
        (1, 20, "the image has none such"),
        (7, None, "it is not there"),
        (3, 31, "a polygon of 1 points"),
    ]
    assert [each[:2] for each in found] == [each[:2] for each in wanted]
    assert all(ours[2] in theirs[2] for ours, theirs in zip(wanted, found, strict=True))
    assert report.regions == {"train": 3, "val": 1}


def nothing_is_written(tmp_path, root, message, **options):
    with pytest.raises(ValueError, match=message):
        run(root, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_is_missing_or_broken_is_named_with_the_layout(tmp_path):
    nothing_is_written(tmp_path, tmp_path, r"missing: .*instances\.json.*Expected:\n.*refs\(")
    root = write_refcoco(tmp_path / "refcoco")
    nothing_is_written(tmp_path, root, r"missing: .*refs\(umd\)\.p", split_by="umd")
    (root / "refs(unc).p").write_bytes(pickle.dumps({"refs": []}, 2))
    nothing_is_written(tmp_path, root, "not a list of references")
    write_json(root / "instances.json", {"images": []})
    nothing_is_written(tmp_path, root, "not a list of references")
    (root / "refs(unc).p").write_bytes(pickle.dumps([], 2))
    nothing_is_written(tmp_path, root, "needs the lists images, annotations, categories")


class Asks:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments):
        self.made_by = (function, arguments)

    def __reduce__(self):
        return self.made_by


PAYLOADS = {
    "call": Asks(os.system, "touch evil"),
    "process": Asks(subprocess.Popen, ["touch", "evil"]),
    "eval": Asks(eval, "open('evil', 'w')"),
    "array": np.zeros(3),
    "class": Asks,
    "set": {1, 2},
    "bytes": bytearray(b"abc"),
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_asks_for_more_than_plain_data_is_refused(
    tmp_path, monkeypatch, payload, protocol
):
    monkeypatch.chdir(tmp_path)

    def dump(refs):
        return pickle.dumps([*refs, {"sentences": [payload]}], protocol)

    root = write_refcoco(tmp_path / "refcoco", dump=dump)
    nothing_is_written(
        tmp_path,
        root,
        r"refs\(unc\)\.p: the pickle cannot be read: it asks for more than plain data",
    )
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'touch evil'\ntR.",
        b"(S'touch evil'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch evil\x85R.",
        b"\x82\x01.",
        b"Poutside\n.",
        b"\x8e" + b"\xff" * 8 + b".",
        b"]r\xff\xff\xff\xff.",
        b"]p4294967295\n.",
        b"\x95" + b"\xff" * 8 + b"N.",
        b"T\xff\xff\xff\x7fabc.",
        b"L" + b"9" * 9000 + b"L\n.",
        b"\x80\x09N.",
        b"h\x05.",
        b"}]Ns.",
        b"a.",
        b"(l",
        b"",
        b"\xff",
    ],
)
def test_hostile_and_broken_pickles_are_refused(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^the pickle cannot be read: "):
        load_plain(data)
    assert not (tmp_path / "evil").exists()


def test_texts_of_python_2_are_read():
    assert load_plain(b"(lp0\nS'caf\\xc3\\xa9'\np1\naVna\\u00efve\np2\na.") == ["café", "naïve"]
    assert load_plain(b"\x80\x02]U\x05caf\xc3\xa9a.") == ["café"]
    assert load_plain(b"\x80\x02]U\x04caf\xe9a.") == ["café"]
