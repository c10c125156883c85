import pickle

import numpy as np
import orjson
import pytest
from importer_fixtures import (
    HEIGHT,
    WIDTH,
    decode_split,
    genome_region,
    read_faults,
    read_raw,
    read_regions,
    write_grit,
    write_image,
    write_json,
    write_lvis,
    write_refcoco,
    write_visual_genome,
)

from datamodules.importers.registry import import_source, plan_import
from datamodules.vocabulary import Vocabulary, concept_list
from tap_platform.config.sources import GritSource, LvisSource, RefCocoSource, VisualGenomeSource


def run(root, out, **options):
    return import_source(VisualGenomeSource(path=str(root), shards=str(out), **options), dim=8)


def run_grit(root, out, **options):
    return import_source(GritSource(path=str(root), shards=str(out), **options), dim=8)


def keys(out, split):
    return [int(key) for key in read_regions(out, split)]


def listed(out):
    return [(each["image"], each["annotation"], each["reason"]) for each in read_faults(out)]


def fits(found, wanted):
    assert [each[:2] for each in found] == [each[:2] for each in wanted]
    assert all(ours[2] in theirs[2] for ours, theirs in zip(wanted, found, strict=True))


def test_regions_have_a_box_and_phrases_and_no_mask(tmp_path):
    report = run(write_visual_genome(tmp_path / "vg"), tmp_path / "out")
    assert report.images == {"train": 2, "val": 1}
    assert report.regions == {"train": 4, "val": 2}
    assert report.left_out["images of other splits"] == 1
    assert report.left_out["images in no split"] == 1
    assert read_faults(tmp_path / "out") == []
    clock, pavement = read_regions(tmp_path / "out", "train")["000000000001"]
    # Identical boxes are one region; blanks around a phrase go, the image's border cuts a box.
    assert clock.phrases == ["the clock is green", "a wall clock"]
    assert clock.box == (4.0, 6.0, 30.0, 20.0)
    assert pavement.box == (0.0, 40.0, 17.0, 8.0)
    assert (clock.area, pavement.area) == (600.0, 136.0)
    for region in (clock, pavement):
        assert region.segmentation is None
        assert region.category is None
    assert all(raw.priors is None for raw in read_raw(tmp_path / "out", "train").values())
    vocabulary = Vocabulary.load(tmp_path / "out/vocabulary.safetensors")
    assert vocabulary.names == concept_list("visual_genome_1600")


def test_the_mask_of_a_decoded_region_is_its_box(tmp_path):
    run(write_visual_genome(tmp_path / "vg"), tmp_path / "out")
    decoded = decode_split(tmp_path / "out", "train")["000000000002"]
    order = np.argsort(decoded.boxes[:, 1])
    np.testing.assert_allclose(decoded.boxes[order], [[4, 6, 34, 26], [0, 40, 17, 48]])
    pavement = np.zeros((16, 16), bool)
    pavement[10:12, :4] = True
    np.testing.assert_array_equal(decoded.masks[order[1]], pavement)
    assert not decoded.has_mask.any()
    assert not decoded.has_prior.any()
    assert (decoded.concepts == -1).all()


def test_plans_travel_to_other_processes(tmp_path):
    sources = [
        LvisSource(path=str(write_lvis(tmp_path / "lvis"))),
        VisualGenomeSource(path=str(write_visual_genome(tmp_path / "vg"))),
        GritSource(path=str(write_grit(tmp_path / "grit"))),
        RefCocoSource(path=str(write_refcoco(tmp_path / "refcoco"))),
    ]
    for source in sources:
        plan = plan_import(source, dim=8)
        records, region_of = pickle.loads(pickle.dumps((plan.records, plan.region_of)))
        assert records == plan.records
        for annotation in records[0].annotations:
            assert region_of(annotation, WIDTH, HEIGHT) == plan.region_of(annotation, WIDTH, HEIGHT)


def test_densecaps_split_is_kept_and_either_part_is_held_out(tmp_path):
    root = write_visual_genome(tmp_path / "vg")
    run(root, tmp_path / "out")
    run(root, tmp_path / "test", held_out="test")
    assert keys(tmp_path / "out", "train") == keys(tmp_path / "test", "train") == [1, 2]
    assert keys(tmp_path / "out", "val") == [3]
    assert keys(tmp_path / "test", "val") == [4]


def test_an_import_that_is_there_is_kept(tmp_path):
    root = write_visual_genome(tmp_path / "vg")
    first = run(root, tmp_path / "out")
    stamp = (tmp_path / "out/dataset.json").stat().st_mtime_ns
    assert run(root, tmp_path / "out") == first
    assert (tmp_path / "out/dataset.json").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="held_out is val there and test here"):
        run(root, tmp_path / "out", held_out="test")


def spoil_genome(regions, images, splits):
    regions[0]["regions"] += [
        genome_region(100, 1, (64, 0, 9, 9), "outside"),
        genome_region(101, 1, (5, 5, 0, 9), "empty"),
        genome_region(102, 1, (5, 5, 9, 9), "  "),
        genome_region(103, 2, (5, 5, 9, 9), "another's"),
        genome_region(104, 1, (5, 5, None, 9), "no width"),
        {"region_id": 105, "x": 1},
        "nothing",
    ]
    regions += [{"id": 77, "regions": []}, {"id": 2, "regions": None}, 5]
    regions[1]["regions"].append(genome_region(25, 2, (4, 6, 30, 20), "later"))
    images += [
        images[1],
        {"image_id": 8, "url": "https://x.org/VG_100K/8.jpg", "width": WIDTH, "height": HEIGHT},
        {"image_id": 9, "url": "https://x.org/other/9.jpg", "width": WIDTH, "height": HEIGHT},
        {"image_id": 10, "url": None, "width": WIDTH},
    ]
    images[2]["width"] = WIDTH + 1
    regions.append({"id": 8, "regions": [genome_region(81, 8, (1, 1, 9, 9), "x")]})
    splits["train"] += [8, 9, 11]
    splits["val"] += [4]
    splits["test"] = []


def test_faults_are_listed_and_the_rest_imported(tmp_path):
    report = run(write_visual_genome(tmp_path / "vg", spoil_genome), tmp_path / "out")
    assert keys(tmp_path / "out", "train") == [1, 2]
    assert keys(tmp_path / "out", "val") == [4]
    wanted = [
        (2, None, "appears twice"),
        (9, None, "does not tell the folder"),
        (10, None, "no proper height"),
        (11, None, "the image is not in image_data.json"),
        (1, 102, "the phrase is empty"),
        (1, 103, "belongs to image 2"),
        (1, 104, "not four finite numbers"),
        (1, 105, "no proper phrase"),
        (1, "without id", "not an object"),
        (77, None, "the image is not in image_data.json"),
        (2, None, "no proper regions"),
        (None, None, "not an object"),
        (1, 100, "covers nothing of the image of 48 x 64 pixels"),
        (1, 101, "covers nothing"),
        (8, None, "8.jpg cannot be read: No such file"),
        (3, None, "64 x 48 pixels, its record says 65 x 48"),
    ]
    fits(listed(tmp_path / "out"), wanted)
    assert report.faulty_images + report.faulty_annotations == len(wanted)
    clock = read_regions(tmp_path / "out", "train")["000000000002"][0]
    assert clock.phrases[-1] == "later"


def nothing_is_written(tmp_path, root, message, act=run, **options):
    with pytest.raises(ValueError, match=message):
        act(root, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_is_missing_or_laid_out_otherwise_is_named(tmp_path):
    nothing_is_written(tmp_path, tmp_path, r"missing: .*VG_100K_2\. Expected:\n.*FOLDER/")
    root = write_visual_genome(tmp_path / "vg")
    splits = (root / "densecap_splits.json").read_bytes()
    (root / "densecap_splits.json").unlink()
    nothing_is_written(
        tmp_path, root, r"missing: \S+densecap_splits\.json\. (?s:.*)jcjohnson/densecap"
    )
    write_json(root / "densecap_splits.json", {"train": [1], "test": []})
    nothing_is_written(tmp_path, root, r"densecap_splits\.json .* needs the lists train, val")
    write_json(root / "densecap_splits.json", {"train": ["1.jpg"], "val": []})
    nothing_is_written(tmp_path, root, "more than image ids")
    (root / "densecap_splits.json").write_bytes(splits)
    write_json(root / "image_data.json", {"1": {}})
    nothing_is_written(tmp_path, root, r"image_data\.json .* not a list")


def test_grits_captions_are_phrases_of_boxes(tmp_path):
    report = run_grit(write_grit(tmp_path / "grit"), tmp_path / "out", held_out="test")
    assert report.images == {"train": 4, "val": 1}
    assert report.regions == {"train": 8, "val": 2}
    assert keys(tmp_path / "out", "val") == [5]
    first, second = read_regions(tmp_path / "out", "train")["000000000003"]
    assert (first.phrases, first.box) == (["caption 0 of 3"], (2.0, 3.0, 20.0, 20.0))
    assert (second.phrases, second.area) == (["caption 1 of 3"], 1200.0)
    assert first.segmentation is None


def test_without_its_test_file_a_share_of_grits_images_is_held_out(tmp_path):
    root = write_grit(tmp_path / "grit")
    (root / "annotations/test.json").unlink()
    (root / "annotations/train.json").rename(root / "train.json")
    (root / "images").rename(root / "VG_100K")
    report = run_grit(root, tmp_path / "out", val_fraction=0.01)
    assert report.images == {"train": 3, "val": 1}
    assert run_grit(root, tmp_path / "out", val_fraction=0.01) == report
    nothing_is_written(
        tmp_path / "x", root, r"missing: \S+test\.json\. Expected", act=run_grit, held_out="test"
    )


def test_grits_faults_are_listed_and_crowds_counted(tmp_path):
    def spoil(train, test):
        def more(number, **changes):
            return train["annotations"][0] | {"id": number} | changes

        train["images"] += [
            {"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT},
            {"id": 8, "file_name": "../8.jpg", "width": WIDTH, "height": HEIGHT},
        ]
        train["annotations"] += [
            more(100, image_id=77),
            more(101, caption=""),
            more(102, caption=None),
            more(103, bbox=[1, 2, 3]),
            more(104, bbox=[100, 2, 3, 4]),
            more(105, caption="another caption"),
            more(106, iscrowd=1),
            7,
        ]

    report = run_grit(write_grit(tmp_path / "grit", spoil), tmp_path / "out", held_out="test")
    wanted = [
        (1, None, "appears twice"),
        (8, None, "points to no file in the folder"),
        (77, 100, "image_id is not among the images"),
        (1, 101, "the phrase is empty"),
        (1, 102, "no proper caption"),
        (1, 103, "not four finite numbers"),
        (None, "without id", "image_id is not among the images"),
        (1, 104, "covers nothing"),
    ]
    fits(listed(tmp_path / "out"), wanted)
    assert report.left_out["crowds"] == 1
    first = read_regions(tmp_path / "out", "train")["000000000001"][0]
    assert first.phrases == ["caption 0 of 1", "another caption"]


def test_a_broken_grit_file_is_named(tmp_path):
    root = write_grit(tmp_path / "grit")
    (root / "annotations/train.json").write_bytes(orjson.dumps([1]))
    nothing_is_written(tmp_path, root, "needs the lists images, annotations", act=run_grit)
    write_image(root / "images/9.jpg", 9)
    (root / "annotations/train.json").write_bytes(b"{")
    nothing_is_written(tmp_path, root, r"train\.json is not JSON", act=run_grit)
