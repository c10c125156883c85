from pathlib import Path

import numpy as np
import orjson
import pytest
from importer_fixtures import (
    HEIGHT,
    SQUARE,
    TRIANGLE,
    WIDTH,
    decode_split,
    lvis_annotation,
    lvis_image,
    read_faults,
    read_priors,
    read_regions,
    write_lvis,
)
from pycocotools import mask as coco_mask

from datamodules.importers.registry import import_source
from datamodules.vocabulary import Vocabulary, concept_list
from tap_platform.config.sources import LvisSource

COCO_OPEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco_open"


def run(root, out, **options):
    return import_source(LvisSource(path=str(root), shards=str(out), **options), dim=8)


def drawn(polygon, height=HEIGHT, width=WIDTH):
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], height, width)))


def test_masks_categories_and_lvis_own_split_are_kept(tmp_path):
    report = run(write_lvis(tmp_path / "lvis"), tmp_path / "out")
    assert report.images == {"train": 2, "val": 2}
    assert report.regions == {"train": 4, "val": 4}
    assert read_faults(tmp_path / "out") == []
    train, val = read_regions(tmp_path / "out", "train"), read_regions(tmp_path / "out", "val")
    assert sorted(train) == ["000000000001", "000000000002"]
    triangle, square = train["000000000001"]
    np.testing.assert_array_equal(coco_mask.decode(triangle.segmentation), drawn(TRIANGLE))
    np.testing.assert_array_equal(coco_mask.decode(square.segmentation), drawn(SQUARE))
    assert square.box == (4.0, 4.0, 20.0, 20.0)
    assert triangle.area == drawn(TRIANGLE).sum()
    assert triangle.phrases == []
    names = [[region.category for region in regions] for regions in (train | val).values()]
    # LVIS's own spelling of a name is not that of the concept list.
    speaker = "speaker_(stereo_equipment)"
    assert names == [
        [speaker, speaker],
        ["Band_Aid", speaker],
        ["aerosol_can", speaker],
        [speaker, speaker],
    ]


def test_a_held_out_image_of_train2017_is_found_where_its_url_says(tmp_path):
    root = write_lvis(tmp_path / "lvis")
    assert not (root / "val2017/000000000004.jpg").exists()
    run(root, tmp_path / "out")
    assert sorted(read_regions(tmp_path / "out", "val")) == ["000000000003", "000000000004"]


def test_priors_are_the_names_of_the_list(tmp_path):
    run(write_lvis(tmp_path / "lvis"), tmp_path / "out")
    vocabulary = Vocabulary.load(tmp_path / "out/vocabulary.safetensors")
    assert vocabulary.names == concept_list("lvis_1203")
    rows = [vocabulary.indexes[name] for name in ("Band_Aid", "speaker_(stereo_equipment)")]
    np.testing.assert_array_equal(
        read_priors(tmp_path / "out", "train", dim=8)["000000000002"],
        vocabulary.embeddings[rows].astype(np.float16),
    )


def test_what_was_imported_is_decoded(tmp_path):
    run(write_lvis(tmp_path / "lvis"), tmp_path / "out")
    decoded = decode_split(tmp_path / "out", "train")["000000000002"]
    names = concept_list("lvis_1203")
    slots = {names[concept]: slot for slot, concept in enumerate(decoded.concepts)}
    assert slots.keys() == {"Band_Aid", "speaker_(stereo_equipment)"}
    square = slots["speaker_(stereo_equipment)"]
    np.testing.assert_allclose(decoded.boxes[square], [4, 4, 24, 24])
    mask = np.zeros((16, 16), bool)
    mask[1:6, 1:6] = True
    np.testing.assert_array_equal(decoded.masks[square], mask)
    assert decoded.has_prior.all()
    assert decoded.has_mask.all()


def test_images_may_lie_elsewhere_and_the_files_below(tmp_path):
    root = write_lvis(tmp_path / "lvis")
    (tmp_path / "coco").mkdir()
    for folder in ("train2017", "val2017"):
        (root / folder).rename(tmp_path / "coco" / folder)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / f"lvis_v1_{split}.json").rename(root / f"annotations/lvis_v1_{split}.json")
    report = run(root, tmp_path / "out", images=str(tmp_path / "coco"))
    assert report.images == {"train": 2, "val": 2}


def test_one_file_alone_is_split_by_a_share(tmp_path):
    root = write_lvis(tmp_path / "lvis")
    (root / "lvis_v1_train.json").unlink()
    report = run(root, tmp_path / "out", val_fraction=0.001)
    assert report.images == {"train": 1, "val": 1}
    card = orjson.loads((tmp_path / "out/dataset.json").read_bytes())
    assert card["settings"]["val_fraction"] == 0.001


def test_an_import_that_is_there_is_kept_and_another_gives_the_same_bytes(tmp_path):
    root = write_lvis(tmp_path / "lvis")
    first = run(root, tmp_path / "out")
    stamp = (tmp_path / "out/dataset.json").stat().st_mtime_ns
    assert run(root, tmp_path / "out") == first
    assert (tmp_path / "out/dataset.json").stat().st_mtime_ns == stamp
    run(root, tmp_path / "again")
    for shard in ("train/shard-000000.tar", "val/shard-000000.tar", "dataset.json"):
        assert (tmp_path / "out" / shard).read_bytes() == (tmp_path / "again" / shard).read_bytes()


def test_faults_are_listed_and_the_rest_imported(tmp_path):
    def spoil(content):
        content["images"] += [
            lvis_image(2, "train2017"),
            lvis_image(8, "train2017"),
            lvis_image(9, "train2017") | {"coco_url": "http://elsewhere.org/9.jpg"},
            lvis_image(10, "train2017/.."),
            lvis_image(11, "train2017") | {"width": None},
        ]
        content["annotations"] += [
            lvis_annotation(100, 2, 1, TRIANGLE) | {"segmentation": [[1.0, 2.0]]},
            lvis_annotation(101, 2, 77, TRIANGLE),
            lvis_annotation(102, 3, 1, TRIANGLE),
            lvis_annotation(103, 8, 1, TRIANGLE),
        ]

    report = run(write_lvis(tmp_path / "lvis", train=spoil), tmp_path / "out")
    assert report.images == {"train": 2, "val": 2}
    assert report.regions["train"] == 4
    found = {
        (each["image"], each["annotation"]): each["reason"]
        for each in read_faults(tmp_path / "out")
    }
    wanted = {
        (2, None): "appears twice",
        (8, None): "000000000008.jpg cannot be read: No such file",
        (9, None): "does not end in train2017/NAME",
        (10, None): "does not end in train2017/NAME",
        (11, None): "no proper width",
        (2, 100): "a polygon of 1 points",
        (2, 101): "category_id 77 is not among the categories",
        (3, 102): "image_id is not among the images",
    }
    assert found.keys() == wanted.keys()
    assert all(reason in found[key] for key, reason in wanted.items())
    assert (report.faulty_images, report.faulty_annotations) == (5, 3)


def nothing_is_written(tmp_path, root, message, **options):
    with pytest.raises(ValueError, match=message):
        run(root, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_named_with_the_layout(tmp_path):
    root = write_lvis(tmp_path / "lvis")
    nothing_is_written(tmp_path, tmp_path, r"missing: .*lvis_v1_train\.json.*Expected:\n.*FOLDER/")
    (root / "val2017").rename(root / "elsewhere")
    nothing_is_written(tmp_path, root, r"missing: \S+val2017\. Expected:")


def test_an_unknown_category_is_named(tmp_path):
    def rename(content):
        content["categories"][0]["name"] = "airosol can"

    root = write_lvis(tmp_path / "lvis", train=rename, val=rename)
    nothing_is_written(tmp_path, root, r"category 'airosol can' \(nearest: 'aerosol_can'\)")
    report = run(root, tmp_path / "none", priors="none")
    assert report.regions == {"train": 4, "val": 4}
    names = {
        region.category
        for regions in read_regions(tmp_path / "none", "val").values()
        for region in regions
    }
    assert names == {"airosol can", "speaker_(stereo_equipment)"}


def test_files_that_do_not_fit_together_or_are_broken_are_named(tmp_path):
    def renumber(content):
        content["categories"].reverse()
        for number, category in enumerate(content["categories"], start=1):
            category["id"] = number

    root = write_lvis(tmp_path / "lvis", val=renumber)
    nothing_is_written(tmp_path, root, "numbers its categories otherwise than lvis_v1_train.json")
    (root / "lvis_v1_val.json").write_bytes(b'{"images": [], "annotations": []}')
    nothing_is_written(tmp_path, root, "it needs the lists images, annotations, categories")
    (root / "lvis_v1_val.json").write_bytes(b"[")
    nothing_is_written(tmp_path, root, r"lvis_v1_val\.json is not JSON")


def lvis_of_coco(root):
    """LVIS files on the real images: COCO's polygons, under LVIS's names of the same things."""
    coco = orjson.loads((COCO_OPEN / "annotations.json").read_bytes())
    categories = [
        {"id": number, "name": name, "synonyms": [name], "frequency": "f"}
        for number, name in enumerate(concept_list("lvis_1203"), start=1)
    ]
    ids = {each["name"]: each["id"] for each in categories}
    ours = {each["id"]: ids.get(each["name"].replace(" ", "_")) for each in coco["categories"]}
    kept = [
        {**each, "category_id": ours[each["category_id"]]}
        for each in coco["annotations"]
        if not each["iscrowd"] and ours[each["category_id"]]
    ]
    for split in ("train", "val"):
        (root / f"{split}2017").mkdir(parents=True)
        images = [each for each in coco["images"] if f"/{split}2017/" in each["coco_url"]]
        for image in images:
            (root / f"{split}2017" / image["file_name"]).symlink_to(
                COCO_OPEN / "images" / image["file_name"]
            )
        numbers = {image["id"] for image in images}
        content = {
            "images": [
                {name: image[name] for name in ("id", "width", "height", "coco_url")}
                | {"neg_category_ids": [], "not_exhaustive_category_ids": []}
                for image in images
            ],
            "annotations": [each for each in kept if each["image_id"] in numbers],
            "categories": categories,
        }
        (root / f"lvis_v1_{split}.json").write_bytes(orjson.dumps(content))
    return {each["image_id"] for each in kept}, len(kept)


@pytest.mark.skipif(not COCO_OPEN.is_dir(), reason="the shared COCO images are not here")
def test_real_images_are_imported_whole(tmp_path):
    images, regions = lvis_of_coco(tmp_path / "lvis")
    report = run(tmp_path / "lvis", tmp_path / "out")
    assert sum(report.images.values()) == len(images) > 100
    assert sum(report.regions.values()) == regions > 700
    assert min(report.images.values()) > 0
    assert read_faults(tmp_path / "out") == []
