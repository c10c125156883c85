"""Images with masks as PNG files, in both layouts."""

import numpy as np
import orjson
import pytest
from data_samples import box_mask, jpeg, png
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.importers.building import build_data_set
from datamodules.importers.mask_folder import plan_mask_folder
from datamodules.shards.index import DataIndex
from datamodules.shards.reader import read_samples
from datamodules.shards.records import decode_annotation
from datamodules.vocabulary import Vocabulary
from tap_platform.config.load import validate_job
from tap_platform.config.sources import MaskFolderSource
from tap_platform.launch.prepare import check_data, prepare_data

VOCABULARY = Vocabulary.from_names(("cat", "traffic light"), 4, "category_names")
CAT = box_mask(48, 64, 4, 6, 30, 40)
LIGHT = box_mask(48, 64, 35, 0, 64, 20)


def labels(mode="L", cat=1, light=2):
    values = CAT * cat + LIGHT * light
    if mode == "P":
        image = Image.fromarray(values.astype(np.uint8), "P")
        image.putpalette([7, 7, 7, 200, 0, 0, 200, 0, 0])
        return png(image)
    return png(Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.uint8)))


def binary(mask, value=255):
    return png(Image.fromarray((mask * value).astype(np.uint8)))


def folder(root, masks, images=None):
    for name, data in {"images/a.jpg": jpeg(), **(images or {}), **masks}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def run(root, out, vocabulary=VOCABULARY, mend=False, **options):
    source = MaskFolderSource(path=str(root), **{"val_fraction": 0, **options})
    return build_data_set(plan_mask_folder(source, vocabulary), out, mend=mend)


def regions(out, split="train"):
    """By key: category and mask of every region."""
    index = DataIndex.load(out / split)
    return {
        raw.key: [
            (region.category, coco_mask.decode(region.segmentation).astype(bool), region)
            for region in decode_annotation(raw.annotation).regions
        ]
        for shard, count in enumerate(index.counts)
        for raw in read_samples(index, shard, range(count))
    }


def faults(out):
    return [orjson.loads(line) for line in (out / "quarantine.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize(("mode", "cat", "light"), [("L", 1, 2), ("P", 1, 2), ("I;16", 3, 40000)])
def test_every_value_of_a_map_of_labels_is_a_region(tmp_path, mode, cat, light):
    root = folder(tmp_path / "in", {"masks/a.png": labels(mode, cat, light)})
    report = run(root, tmp_path / "out")
    assert report.regions == {"train": 2, "val": 0}
    (one, first, region), (two, second, _) = regions(tmp_path / "out")["a"]
    assert (one, two) == (None, None)
    np.testing.assert_array_equal(first, CAT)
    np.testing.assert_array_equal(second, LIGHT)
    assert (region.box, region.area) == ((4.0, 6.0, 26.0, 34.0), float(CAT.sum()))


def test_classes_name_the_labels_and_what_they_do_not_name_is_left_out(tmp_path):
    masks = {"masks/a.png": labels(light=2), "masks/b.png": labels(cat=3, light=255)}
    root = folder(tmp_path / "in", masks, {"images/b.png": png(Image.new("RGB", (64, 48)))})
    (root / "classes.txt").write_text("cat\nTraffic_Light\nzebra\n")
    report = run(root, tmp_path / "out")
    assert report.left_out == {"labels without a line in classes.txt": 1}
    found = {key: [each[0] for each in own] for key, own in regions(tmp_path / "out").items()}
    assert found == {"a": ["cat", "traffic light"], "b": ["zebra"]}
    (root / "classes.txt").write_text("dog\n")
    with pytest.raises(ValueError, match="classes is"):
        run(root, tmp_path / "out")


def test_names_of_a_vocabulary_give_priors(tmp_path):
    root = folder(tmp_path / "in", {"masks/a.png": labels(light=3)})
    (root / "classes.txt").write_text("cat\ntraffic light\nzebra\n")
    report = run(root, tmp_path / "out", priors="category_names")
    assert report.faulty_annotations == 1
    assert "does not know the category 'zebra'" in faults(tmp_path / "out")[0]["reason"]
    index = DataIndex.load(tmp_path / "out/train")
    (raw,) = read_samples(index, 0, [0])
    expected = VOCABULARY.embeddings[:1].astype(np.float16)
    assert raw.priors.endswith(expected.tobytes())


def test_masks_in_files_of_their_own_are_named_by_them(tmp_path):
    names = ("traffic_light_2", "traffic-light", "cat-12", "7", "dog")
    masks = {f"masks/a/{name}.png": binary(CAT) for name in names}
    masks["masks/a/grey.png"] = png(
        Image.fromarray(np.repeat(LIGHT[..., None] * np.uint8(9), 3, 2))
    )
    run(folder(tmp_path / "in", masks), tmp_path / "out")
    found = regions(tmp_path / "out")["a"]
    categories = [None, "cat", "dog", "grey", "traffic light", "traffic light"]
    assert [category for category, _, _ in found] == categories
    np.testing.assert_array_equal(found[1][1], CAT)
    np.testing.assert_array_equal(found[3][1], LIGHT)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a/x.png", binary(CAT[:40]), "x.png has 64 x 40 pixels, the image has 64 x 48"),
        ("a/x.png", binary(~CAT & False), "the mask covers no pixel"),
        ("a/x.png", labels(), r"3 values (0, 1, 2), but a file in a folder of masks is one region"),
        ("a/x.png", png(Image.new("RGB", (64, 48), (1, 2, 3))), "the mask x.png has colours"),
        ("a/x.png", jpeg(), "the mask x.png cannot be decoded"),
        ("a/x.png", binary(CAT)[:60], "cannot be decoded"),
        ("c.png", binary(CAT), "there is no image of that name in images/"),
    ],
)
def test_faulty_masks_are_listed(tmp_path, name, data, reason):
    root = folder(tmp_path / "in", {"masks/a/cat.png": binary(CAT), f"masks/{name}": data})
    report = run(root, tmp_path / "out")
    assert (report.faulty_images, report.faulty_annotations) == (0, 1)
    assert reason in faults(tmp_path / "out")[0]["reason"]
    assert [category for category, _, _ in regions(tmp_path / "out")["a"]] == ["cat"]


def test_a_faulty_map_of_labels_is_a_faulty_image_and_may_be_mended(tmp_path):
    masks = {"masks/a.png": labels(), "masks/b.png": binary(CAT[:, :40])}
    root = folder(tmp_path / "in", masks, {"images/b.jpg": jpeg(seed=1), "images/c.jpg": jpeg()})
    report = run(root, tmp_path / "out")
    assert report.faulty_images == 1
    assert report.left_out["images without regions"] == 1
    (root / "masks/b.png").write_bytes(labels())
    assert run(root, tmp_path / "out", mend=True).images["train"] == 2
    assert sorted(regions(tmp_path / "out")) == ["a", "b"]


def test_names_that_make_one_key_are_a_fault(tmp_path):
    masks = {"masks/a.png": labels(), "masks/x.1.png": labels(), "masks/x-1.png": labels()}
    images = {"images/x.1.jpg": jpeg(), "images/x-1.jpg": jpeg()}
    report = run(folder(tmp_path / "in", masks, images), tmp_path / "out")
    assert report.images["train"] == 2
    assert faults(tmp_path / "out")[0]["reason"] == "x-1.jpg has the key x-1 already"


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, "no image in images/ has a mask"),
        ({"masks/b.png": labels()}, "no image in images/ has a mask"),
        ({"masks/a.png": labels(), "masks/a/x.png": labels()}, "are both there"),
    ],
)
def test_folders_that_are_laid_out_otherwise_are_refused(tmp_path, masks, message):
    with pytest.raises(ValueError, match=message):
        run(folder(tmp_path / "in", masks), tmp_path / "out")
    with pytest.raises(ValueError, match=r"there is no \.jpg or \.png in"):
        run(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_set_of_files_is_another_data_set(tmp_path):
    root = folder(tmp_path / "in", {"masks/a.png": labels()})
    run(root, tmp_path / "out")
    folder(root, {"masks/b.png": labels()}, {"images/b.jpg": jpeg()})
    with pytest.raises(ValueError, match=r"holds another data set \(files: not the same"):
        run(root, tmp_path / "out")


def test_a_job_imports_its_source_on_first_use(tmp_path, capsys):
    masks = {f"masks/{name}.png": labels() for name in "abcd"}
    images = {f"images/{name}.jpg": jpeg(seed=ord(name)) for name in "abcd"}
    root = folder(tmp_path / "in", masks, images)
    (root / "classes.txt").write_text("cat\ndog\n")
    tree = {
        "name": "masks",
        "storage": str(tmp_path / "runs"),
        "model": {"preset": "tiny", "concept_dim": 4},
        "data": {
            "source": "mask_folder",
            "path": str(root),
            "shards": str(tmp_path / "set"),
            "vocabulary": str(root / "classes.txt"),
            "priors": "category_names",
            "partitions": 1,
        },
        "training": {"max_steps": 1, "global_batch": 2},
    }
    job = validate_job(tree, "job.yaml")
    prepare_data(job.data, job.model.concept_dim)
    assert "imported 2 train images" in capsys.readouterr().out
    check_data(job)
    prepare_data(job.data, job.model.concept_dim)
    assert capsys.readouterr().out == ""
    (tmp_path / "set/dataset.json").unlink()
    with pytest.raises(ValueError, match=r"set is no data set yet: its making \(mask_folder\)"):
        check_data(job)
