"""The prepared tier: smaller pictures, and everything else with them."""

import numpy as np
import pytest
import simplejpeg
from data_samples import box_mask, jpeg, png, region, sample, smooth_image
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.decoding.pictures import picture_size
from datamodules.importers.convert import KEPT, VANISHED, plan_convert
from datamodules.importers.making import make_data_set
from datamodules.importers.shrink import shrink_picture, shrink_regions, smaller_size
from datamodules.shards.index import DataIndex
from datamodules.shards.provenance import begin
from datamodules.shards.reader import read_samples
from datamodules.shards.records import Sample, decode_annotation, decode_priors
from datamodules.shards.writer import ShardWriter
from datamodules.vocabulary import Vocabulary


def area_rule(mask, height, width):
    """Each new pixel's covered share, at least half: by a matrix along each axis."""

    def shares(size, new_size):
        edges = np.arange(new_size + 1) * size / new_size
        start, stop = edges[:-1, None], edges[1:, None]
        cells = np.arange(size)
        overlap = np.minimum(stop, cells + 1) - np.maximum(start, cells)
        return np.maximum(overlap, 0) * new_size / size

    return shares(mask.shape[0], height) @ mask @ shares(mask.shape[1], width).T >= 0.5 - 1e-4


def decoded(region):
    return coco_mask.decode(region.segmentation).astype(bool)


def write_set(folder, samples, val=()):
    for split, own in (("train", samples), ("val", val)):
        with ShardWriter(folder / split, 2) as writer:
            for each in own:
                writer.write(each)
    Vocabulary.from_names(("cat", "dog"), 4, "category_names").save(
        folder / "vocabulary.safetensors"
    )
    return folder


def samples_of(out, split="train"):
    index = DataIndex.load(out / split)
    return [
        raw for shard, n in enumerate(index.counts) for raw in read_samples(index, shard, range(n))
    ]


def run(root, out, max_side=32, quality=90, **options):
    return make_data_set(plan_convert(root, max_side, quality, **options), out)


def test_sizes_keep_their_shape_and_never_grow():
    assert smaller_size((1500, 2250), 1536) == (1024, 1536)
    assert smaller_size((2250, 1500), 1536) == (1536, 1024)
    assert smaller_size((1500, 2250), 2250) == (1500, 2250)
    assert smaller_size((48, 64), 1536) == (48, 64)
    assert smaller_size((2, 5000), 100) == (2, 100)


@pytest.mark.parametrize("new_size", [(31, 41), (24, 32), (47, 63), (10, 50)])
def test_masks_follow_the_area_rule(new_size):
    rng = np.random.default_rng(0)
    noise = rng.random((48, 64)) < 0.5
    masks = [
        noise,
        box_mask(48, 64, 0, 0, 64, 48),
        box_mask(48, 64, 10, 0, 30, 48),
        box_mask(48, 64, 40, 20, 64, 48),
        np.asarray(Image.fromarray(smooth_image()))[..., 0] > 128,
    ]
    for mask, small in zip(
        masks, shrink_regions([region(m) for m in masks], (48, 64), new_size), strict=True
    ):
        expected = area_rule(mask, *new_size)
        np.testing.assert_array_equal(decoded(small), expected)
        assert small.area == expected.sum()
        rows, columns = np.flatnonzero(expected.any(1)), np.flatnonzero(expected.any(0))
        left, top = columns[0], rows[0]
        assert small.box == (left, top, columns[-1] + 1 - left, rows[-1] + 1 - top)
        canonical = coco_mask.encode(np.asfortranarray(expected.astype(np.uint8)))
        assert small.segmentation["counts"] == canonical["counts"].decode()


def test_boxes_are_scaled_and_what_vanishes_is_told():
    regions = [
        region(box_mask(48, 64, 4, 6, 30, 40), phrases=["a cat"], predicted_iou=0.5),
        region(box_mask(48, 64, 60, 46, 61, 47)),
        region(np.zeros((48, 64), bool)),
    ]
    loose = region(box_mask(48, 64, 4, 6, 30, 40), box=(2.5, 4.0, 30.0, 40.0))
    (scaled,) = shrink_regions([loose], (48, 64), (24, 32))
    assert scaled.box == (1.25, 2.0, 15.0, 20.0)
    kept, *gone = shrink_regions(regions, (48, 64), (24, 32))
    assert gone == [None, None]
    assert kept.box == (2.0, 3.0, 13.0, 17.0)
    assert kept.area == 13 * 17
    assert (kept.category, kept.phrases, kept.predicted_iou) == ("cat", ["a cat"], 0.5)
    with pytest.raises(ValueError, match="mask"):
        shrink_regions([region(box_mask(9, 9, 0, 0, 4, 4))], (48, 64), (24, 32))


def test_pictures_are_those_that_pillow_makes():
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(smooth_image(96, 128)), quality=98)
    small = simplejpeg.decode_jpeg(shrink_picture(data, (96, 128), (72, 96), 95))
    full = Image.fromarray(simplejpeg.decode_jpeg(data))
    expected = np.asarray(full.resize((96, 72), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(small - expected).mean() < 2


def test_a_data_set_is_converted_shard_by_shard(tmp_path):
    tiny = region(box_mask(48, 64, 60, 46, 61, 47), "dog")
    large = sample("large")
    large.regions.insert(1, tiny)
    large.priors = np.arange(12, dtype=np.float16).reshape(3, 4)
    small = sample("small", [region(box_mask(20, 30, 2, 2, 9, 9))], height=20, width=30)
    alpha = Sample("alpha", png(Image.new("RGBA", (64, 48), (9, 9, 9, 0))), 64, 48, [tiny], None)
    root = write_set(tmp_path / "in", [large, small, alpha], [sample("held")])
    report = run(root, tmp_path / "out")
    assert report.images == {"train": 3, "val": 1}
    assert report.left_out == {VANISHED: 2}
    assert report.figures[KEPT] == 1
    for figure, folder in (("bytes before", root), ("bytes", tmp_path / "out")):
        tars = folder.rglob("*.tar")
        assert report.figures[figure] == sum(path.stat().st_size for path in tars)
    raws = {raw.key: raw for raw in samples_of(tmp_path / "out")}
    assert list(raws) == ["large", "small", "alpha"]
    assert DataIndex.load(tmp_path / "out/train").counts.tolist() == [2, 1]
    assert [picture_size(raw.image) for raw in raws.values()] == [(24, 32), (20, 30), (24, 32)]
    assert raws["small"].image == small.image
    found = decode_annotation(raws["large"].annotation)
    assert (found.width, found.height) == (32, 24)
    assert [each.category for each in found.regions] == ["cat", "dog"]
    np.testing.assert_array_equal(decode_priors(raws["large"].priors, 2, 4), large.priors[[0, 2]])
    assert raws["alpha"].priors is None
    assert Vocabulary.load(tmp_path / "out/vocabulary.safetensors").names == ("cat", "dog")


def test_a_converted_set_is_kept_and_other_settings_are_named(tmp_path):
    root = write_set(tmp_path / "in", [sample("a"), sample("b"), sample("c")])
    first = run(root, tmp_path / "out")
    assert run(root, tmp_path / "out") == first
    with pytest.raises(ValueError, match="quality is 90 there and 80 here"):
        run(root, tmp_path / "out", quality=80)


def test_a_conversion_that_was_stopped_goes_on(tmp_path):
    root = write_set(tmp_path / "in", [sample(str(n), seed=n) for n in range(5)])

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_data_set(plan_convert(root, 32, 90), tmp_path / "out", show=stop)
    tar = tmp_path / "out/train/shard-000000.tar"
    stamp = tar.stat().st_mtime_ns
    assert run(root, tmp_path / "out") == run(root, tmp_path / "whole")
    assert tar.stat().st_mtime_ns == stamp
    for path in (tmp_path / "whole").rglob("*.*"):
        if path.is_file():
            assert (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes() == (
                path.read_bytes()
            )


def test_broken_samples_are_listed(tmp_path):
    good, lies, cut = sample("good"), sample("lies"), sample("cut")
    lies.width = 60
    cut.image = jpeg()[:300]
    broken = sample("broken")
    broken.regions[0].segmentation = {"size": [48, 64], "counts": "garbage"}
    root = write_set(tmp_path / "in", [good, lies, cut, broken])
    report = run(root, tmp_path / "out")
    assert report.images["train"] == 1
    assert report.faulty_images == 3
    lines = (tmp_path / "out/quarantine.jsonl").read_text()
    for words in ("its annotation says 48 x 60", "compressed counts", "the header of the JPEG"):
        assert words in lines
    assert lines.count('"file":"train/shard-') == 3


def test_a_set_whose_making_has_not_ended_is_refused(tmp_path):
    begin(tmp_path / "in", "sa1b", {})
    write_set(tmp_path / "in", [sample("a")])
    with pytest.raises(ValueError, match=r"its making .* has not ended"):
        plan_convert(tmp_path / "in", 32, 90)


def test_a_missing_set_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such folder of shards"):
        plan_convert(tmp_path / "nowhere", 32, 90)


def test_ray_data_converts_to_the_same_bytes(tmp_path, ray_cluster):
    root = write_set(tmp_path / "in", [sample(str(n), seed=n) for n in range(5)], [sample("v")])
    here = run(root, tmp_path / "here")
    there = make_data_set(plan_convert(root, 32, 90), tmp_path / "there", workers=2)
    assert there == here
    for path in (tmp_path / "here").rglob("*.*"):
        if path.is_file():
            copy = tmp_path / "there" / path.relative_to(tmp_path / "here")
            assert copy.read_bytes() == path.read_bytes()
