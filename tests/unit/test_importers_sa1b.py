"""SA-1B's tars in their true layout, used where they lie."""

import io
import os
import tarfile

import numpy as np
import orjson
import pytest
from data_samples import box_mask, jpeg, rle

from datamodules.importers.registry import import_source
from datamodules.importers.sa1b import index_sa1b
from datamodules.shards.index import DataIndex
from datamodules.shards.reader import read_samples
from datamodules.shards.records import decode_annotation
from datamodules.vocabulary import Vocabulary
from tap_platform.config.sources import Sa1bSource

VOCABULARY = Vocabulary.from_names(("cat", "dog"), 4, "category_names")
HEIGHT, WIDTH = 48, 64


def annotation(number, mask):
    """An annotation with every field that the official files have."""
    left, top = (int(np.flatnonzero(mask.any(axis))[0]) for axis in (0, 1))
    across, down = (int(mask.any(axis).sum()) for axis in (0, 1))
    return {
        "id": 400 + number,
        "segmentation": rle(mask),
        "bbox": [left, top, across, down],
        "area": int(mask.sum()),
        "predicted_iou": 0.9123,
        "stability_score": 0.9661,
        "crop_box": [0, 0, WIDTH, HEIGHT],
        "point_coords": [[left + 1.5, top + 2.0]],
    }


def tar_of(path, numbers):
    """A tar as SA-1B publishes them: `./sa_1.jpg` before `./sa_1.json`, owned by somebody."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number in numbers:
            masks = [box_mask(HEIGHT, WIDTH, 4, 6, 30, 40), box_mask(HEIGHT, WIDTH, 20, 10, 60, 30)]
            image = {
                "image_id": number,
                "width": WIDTH,
                "height": HEIGHT,
                "file_name": f"sa_{number}.jpg",
            }
            record = {
                "image": image,
                "annotations": [annotation(n, mask) for n, mask in enumerate(masks)],
            }
            for name, data in (
                (f"./sa_{number}.jpg", jpeg(HEIGHT, WIDTH, number)),
                (f"./sa_{number}.json", orjson.dumps(record)),
            ):
                info = tarfile.TarInfo(name)
                info.size, info.uname, info.mode = len(data), "somebody", 0o644
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def tars(tmp_path):
    for number in range(4):
        tar_of(tmp_path / f"sa1b/sa_00000{number}.tar", range(number * 10, number * 10 + 3))
    return tmp_path / "sa1b"


def source_of(tars, out, **changes):
    return Sa1bSource(path=str(tars), shards=str(out), **{"val_fraction": 0.01, **changes})


def test_the_tars_stay_as_they_are_and_are_read_where_they_lie(tmp_path, tars):
    before = {path: path.stat().st_mtime_ns for path in tars.iterdir()}
    seen = []
    report = index_sa1b(
        source_of(tars, tmp_path / "out"), VOCABULARY, lambda *state: seen.append(state)
    )
    assert {path: path.stat().st_mtime_ns for path in tars.iterdir()} == before
    assert not list((tmp_path / "out").rglob("*.tar"))
    assert report.images == {"train": 9, "val": 3}
    assert report.sentence() == "imported 9 train images and 3 val images"
    assert seen == [(done, 4) for done in (1, 2, 3, 4)]
    index = DataIndex.load(tmp_path / "out/train")
    (shard,) = [n for n, name in enumerate(index.names) if name == f"{tars}/sa_000002.tar"]
    raw = next(iter(read_samples(index, shard, [1])))
    assert (raw.key, raw.image) == ("sa_21", jpeg(HEIGHT, WIDTH, 21))
    first, _ = decode_annotation(raw.annotation).regions
    assert (first.box, first.area, first.predicted_iou) == ((4, 6, 26, 34), 26 * 34, 0.9123)


def test_whole_tars_are_held_out_by_a_hash_of_their_names(tmp_path, tars):
    index_sa1b(source_of(tars, tmp_path / "a"), VOCABULARY)
    held_out = DataIndex.load(tmp_path / "a/val").names
    tar_of(tars / "sa_000009.tar", [90])
    index_sa1b(source_of(tars, tmp_path / "b", val_fraction=0.9), VOCABULARY)
    assert set(held_out) <= set(DataIndex.load(tmp_path / "b/val").names)
    index_sa1b(source_of(tars, tmp_path / "c", val_fraction=0), VOCABULARY)
    assert len(DataIndex.load(tmp_path / "c/val")) == 0


def test_an_index_is_kept_and_other_tars_are_named(tmp_path, tars):
    source = source_of(tars, tmp_path / "out", vocabulary="coco_80")
    first = import_source(source, 8)
    card = orjson.loads((tmp_path / "out/dataset.json").read_bytes())
    assert (card["source"], card["priors"]) == ("sa1b", "none")
    assert len(Vocabulary.load(tmp_path / "out/vocabulary.safetensors").names) == 80
    stamp = (tmp_path / "out/dataset.json").stat().st_mtime_ns
    assert import_source(source, 8) == first
    assert (tmp_path / "out/dataset.json").stat().st_mtime_ns == stamp
    tar_of(tars / "sa_000009.tar", [90])
    with pytest.raises(ValueError, match=r"holds another data set \(tars: not the same"):
        import_source(source, 8)


def test_an_index_that_was_stopped_goes_on_with_the_tars_that_are_left(tmp_path, tars):
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_sa1b(source_of(tars, tmp_path / "out"), VOCABULARY, stop)
    read = [path.stem for path in (tmp_path / "out").rglob(".parts/*.tar.json")]
    assert len(read) >= 3
    for name in read:
        status = (tars / name).stat()
        (tars / name).write_bytes(b"\0" * status.st_size)
        os.utime(tars / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = index_sa1b(source_of(tars, tmp_path / "out"), VOCABULARY)
    assert report.images == {"train": 9, "val": 3}


def test_checksums_are_taken_when_asked_for(tmp_path, tars):
    index_sa1b(source_of(tars, tmp_path / "a"), VOCABULARY)
    index_sa1b(source_of(tars, tmp_path / "b", checksums=True), VOCABULARY)
    assert set(DataIndex.load(tmp_path / "a/train").checksums) == {""}
    assert {len(each) for each in DataIndex.load(tmp_path / "b/train").checksums} == {64}


def test_a_folder_without_tars_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"give the folder that holds SA-1B's \*\.tar files"):
        index_sa1b(source_of(tmp_path, tmp_path / "out"), VOCABULARY)
