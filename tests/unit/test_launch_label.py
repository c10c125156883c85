import dataclasses
import io
import json
from collections import Counter

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from data_samples import box_mask, region, rle, sample
from pycocotools import mask as coco_mask
from rich.console import Console
from small_runs import batches_of, events_of, make_run, small_job, train_here
from tiny_clip import TINY_CLIP, write_clip
from tiny_model import MODEL

from datamodules.decoding.pictures import decode_picture
from datamodules.labels.masks import (
    DOUBTFUL,
    EMPTY,
    HAD,
    MADE,
    OUTSIDE,
    MaskRule,
    PredictedMask,
)
from datamodules.scenes.annotation import make_sample
from datamodules.shards.index import DataIndex
from datamodules.shards.provenance import CARD_NAME
from datamodules.shards.reader import read_samples
from datamodules.shards.records import Annotation, decode_annotation, decode_priors
from datamodules.shards.writer import ShardWriter
from datamodules.vocabulary import Vocabulary
from tap_platform.cli import tap
from tap_platform.config.priors import PriorsConfig
from tap_platform.launch import label_tasks
from tap_platform.launch.label import label_data
from tap_platform.launch.label_tasks import MaskModel, ModelSpec
from tap_platform.launch.priors import make_priors
from tap_platform.launch.weights_source import load_weights
from tap_platform.models import Tap, TapConfig
from tap_platform.models.released import save_released_weights
from tap_platform.prediction import TapPredictor

NAMES = ("cat", "dog")
QUIET = Console(quiet=True)


def boxed(each):
    """A region as Visual Genome has it: a box and phrases."""
    return dataclasses.replace(each, segmentation=None, area=each.box[2] * each.box[3])


def stripped(split, number):
    """A scene without priors whose regions, but for the first of every third scene, are boxes."""
    made = make_sample(0, split, number, 96, 64, 0.1)
    keep = 1 if number % 3 == 0 else 0
    regions = made.regions[:keep] + [boxed(each) for each in made.regions[keep:]]
    return dataclasses.replace(made, regions=regions, priors=None)


def write_set(folder, samples, val=(), vocabulary=True):
    for split, own in (("train", samples), ("val", val)):
        with ShardWriter(folder / split, 3) as writer:
            for each in own:
                writer.write(each)
    if vocabulary:
        Vocabulary.from_names(NAMES, 64, "test").save(folder / "vocabulary.safetensors")
    return folder


def save_weights(folder, seed=0, **changes):
    """The weights of a tiny model that never learned, with the concepts that it would name."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    save_released_weights(Tap(TapConfig(**{**MODEL, **changes})), folder / "tap.safetensors", {})
    Vocabulary.from_names(("sun", "moon", "star"), 64, "of the weights").save(
        folder / "vocabulary.safetensors"
    )
    return folder / "tap.safetensors"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_weights(tmp_path_factory.mktemp("weights") / "tap")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    samples = [stripped("train", number) for number in range(7)]
    return write_set(tmp_path_factory.mktemp("data") / "boxes", samples, [stripped("val", 1)])


@pytest.fixture(scope="module")
def whole(scenes, weights, tmp_path_factory):
    """Labels that nothing interrupted."""
    out = tmp_path_factory.mktemp("labels") / "whole"
    label_data(str(scenes), str(weights), str(out), console=QUIET)
    return out


def bytes_of(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def raws_of(folder, split="train"):
    index = DataIndex.load(folder / split)
    return [
        raw
        for shard, count in enumerate(index.counts.tolist())
        for raw in read_samples(index, shard, range(count))
    ]


def regions_of(raw):
    return decode_annotation(raw.annotation).regions


def corners(regions):
    return [[b[0], b[1], b[0] + b[2], b[1] + b[3]] for b in (each.box for each in regions)]


def decoded(each):
    return coco_mask.decode(each.segmentation).astype(bool)


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_are_those_that_the_predictor_draws_for_the_same_boxes(scenes, weights, whole, split):
    predictor = TapPredictor(load_weights(weights).model)
    drawn = 0
    for before, after in zip(raws_of(scenes, split), raws_of(whole, split), strict=True):
        assert (after.key, after.image) == (before.key, before.image)
        record = decode_annotation(before.annotation)
        size = (record.height, record.width)
        old = [each for each in record.regions if each.segmentation is None]
        new = [
            after_region
            for before_region, after_region in zip(record.regions, regions_of(after), strict=True)
            if before_region.segmentation is None
        ]
        predictor.set_image(decode_picture(before.image, size, size))
        found = predictor.predict(boxes=corners(old), captions=False)
        for number, (was, now) in enumerate(zip(old, new, strict=True)):
            mask = found.masks[number]
            if not mask.any():
                assert now == was
                continue
            drawn += 1
            np.testing.assert_array_equal(decoded(now), mask)
            assert now.area == mask.sum()
            assert now.predicted_iou == pytest.approx(float(found.iou[number].clip(0, 1)), abs=1e-4)
            assert now.stability_score == pytest.approx(float(found.stability[number]), abs=1e-4)
            kept = (now.box, now.phrases, now.category)
            assert kept == (was.box, was.phrases, was.category)
    assert drawn


def test_regions_that_have_a_mask_are_untouched_unless_they_are_to_be_overwritten(
    scenes, weights, whole, tmp_path
):
    rule = MaskRule(overwrite=True)
    report = label_data(str(scenes), str(weights), str(tmp_path / "out"), rule, console=QUIET)
    assert HAD not in report.figures
    had = changed = 0
    for before, kept, new in zip(*map(raws_of, (scenes, whole, tmp_path / "out")), strict=True):
        for was, same, other in zip(*map(regions_of, (before, kept, new)), strict=True):
            if was.segmentation is not None:
                had += 1
                assert same == was
                changed += other.segmentation != was.segmentation
    assert had == 3
    assert changed


def test_the_card_tells_where_the_masks_come_from(scenes, weights, whole):
    card = json.loads((whole / CARD_NAME).read_text())
    assert card["source"] == "label"
    settings = card["settings"]
    assert settings["weights"] == "file tap.safetensors"
    assert settings["weights_sha256"] == label_tasks.weights_sha256(load_weights(weights).model)
    assert settings["indexes"]["train"] == DataIndex.load(scenes / "train").sha256
    figures = card["report"]["figures"]
    regions = sum(
        len(regions_of(raw)) for split in ("train", "val") for raw in raws_of(whole, split)
    )
    assert figures[MADE] + figures.get(EMPTY, 0) + figures[HAD] == regions
    assert card["report"]["images"] == {"train": 7, "val": 1}
    same = "vocabulary.safetensors"
    assert (whole / same).read_bytes() == (scenes / same).read_bytes()


def test_an_image_of_many_boxes_is_asked_in_chunks(weights, monkeypatch):
    model = load_weights(weights).model
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    starts = np.random.default_rng(1).uniform(0, 40, (70, 2)).astype(np.float32)
    boxes = np.concatenate([starts, starts + 8], 1)
    found = TapPredictor(model).set_image(pixels).predict(boxes=boxes, captions=False)
    monkeypatch.setattr(label_tasks, "PIXELS_AT_ONCE", 5 * 48 * 64)
    masks = MaskModel(model).segment(pixels, boxes)
    assert len(masks) == 70
    for mask, expected, iou in zip(masks, found.masks, found.iou.tolist(), strict=True):
        assert mask.segmentation == rle(expected)
        assert mask.iou == pytest.approx(iou, abs=1e-6)


def test_what_becomes_of_a_region_is_counted():
    good = box_mask(48, 64, 4, 6, 30, 40)
    had = region(good)
    boxes = [(4, 6, 26, 34), (-9, 6, 20, 90), (70, 6, 9, 9), (4, 6, 0, 9), (1, 1, 9, 9)]
    regions = [had, *(dataclasses.replace(boxed(had), box=box) for box in boxes)]
    counts = Counter()
    rule = MaskRule(min_iou=0.5)
    asked = rule.asked(Annotation(64, 48, regions), counts)
    assert asked.numbers == [1, 2, 5]
    np.testing.assert_array_equal(asked.boxes, [[4, 6, 30, 40], [0, 6, 11, 48], [1, 1, 10, 10]])
    masks = [
        PredictedMask(rle(good), 1.25, 0.123456),
        PredictedMask(rle(good), 0.49, 1.0),
        PredictedMask(rle(np.zeros((48, 64), bool)), 0.9, 0.0),
    ]
    labelled = rule.labelled(regions, asked, masks, counts)
    assert counts == {HAD: 1, OUTSIDE: 2, MADE: 1, DOUBTFUL: 1, EMPTY: 1}
    assert [a is b for a, b in zip(labelled, regions, strict=True)] == [True, False] + 4 * [True]
    new = labelled[1]
    assert (new.predicted_iou, new.stability_score, new.area) == (1.0, 0.1235, good.sum())
    assert new.box == regions[1].box
    below_zero = PredictedMask(rle(good), -0.2, 1.0)
    (taken,) = MaskRule().labelled([regions[1]], asked._replace(numbers=[0]), [below_zero], counts)
    assert taken.predicted_iou == 0.0


def test_masks_that_score_too_low_leave_the_box(scenes, weights, tmp_path):
    said = io.StringIO()
    console = Console(file=said, width=300)
    report = label_data(
        str(scenes), str(weights), str(tmp_path / "out"), MaskRule(min_iou=1.0), console=console
    )
    assert report.figures[DOUBTFUL]
    assert f"0 masks made, 3 {HAD}" in said.getvalue()
    assert DOUBTFUL in said.getvalue()
    for before, after in zip(raws_of(scenes), raws_of(tmp_path / "out"), strict=True):
        assert after.annotation == before.annotation


def test_a_cut_labelling_goes_on_and_ends_with_the_same_bytes(
    scenes, weights, whole, tmp_path, monkeypatch
):
    segment, asked = MaskModel.segment, []

    def cut(self, pixels, boxes):
        asked.append(len(boxes))
        if len(asked) == 5:
            raise KeyboardInterrupt
        return segment(self, pixels, boxes)

    monkeypatch.setattr(MaskModel, "segment", cut)
    with pytest.raises(KeyboardInterrupt):
        label_data(str(scenes), str(weights), str(tmp_path / "out"), console=QUIET)
    assert not (tmp_path / "out" / CARD_NAME).exists()
    stamp = (tmp_path / "out/train/shard-000000.tar").stat().st_mtime_ns
    label_data(str(scenes), str(weights), str(tmp_path / "out"), console=QUIET)
    assert len(asked) == 5 + 5
    assert (tmp_path / "out/train/shard-000000.tar").stat().st_mtime_ns == stamp
    assert bytes_of(tmp_path / "out") == bytes_of(whole)


def test_a_second_call_does_nothing(scenes, weights, whole, monkeypatch):
    monkeypatch.setattr(MaskModel, "load", lambda spec: pytest.fail("loaded again"))
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    label_data(str(scenes), str(weights), str(whole), console=QUIET)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_urls_will_do(scenes, weights, whole):
    url = "memory://labels/out"
    label_data(str(scenes), str(weights), url, console=QUIET)
    from upath import UPath

    for name, data in bytes_of(whole).items():
        assert (UPath(url) / name).read_bytes() == data


def test_what_cannot_be_read_is_listed_and_the_rest_labelled(weights, tmp_path):
    torn, lies, good = stripped("train", 1), stripped("train", 2), stripped("train", 4)
    torn.image = torn.image[:-400]
    lies.width += 1
    root = write_set(tmp_path / "in", [torn, lies, good])
    report = label_data(str(root), str(weights), str(tmp_path / "out"), console=QUIET)
    assert report.images["train"] == 1
    assert report.faulty_images == 2
    lines = (tmp_path / "out/quarantine.jsonl").read_text()
    assert "the image cannot be decoded" in lines
    assert f"its annotation says {lies.height} x {lies.width}" in lines
    assert lines.count('"file":"train/shard-000000.tar"') == 2


def test_priors_in_the_shards_stay(weights, tmp_path):
    made = sample("a")
    made.regions[1] = boxed(made.regions[1])
    root = write_set(tmp_path / "in", [made])
    label_data(str(root), str(weights), str(tmp_path / "out"), console=QUIET)
    (raw,) = raws_of(tmp_path / "out")
    np.testing.assert_array_equal(decode_priors(raw.priors, 2, 4), made.priors)
    assert decode_annotation(raw.annotation).regions[0] == made.regions[0]


def test_without_concepts_those_of_the_weights_are_taken(weights, tmp_path):
    root = write_set(tmp_path / "in", [stripped("train", 1)], vocabulary=False)
    label_data(str(root), str(weights), str(tmp_path / "out"), console=QUIET)
    found = Vocabulary.load(tmp_path / "out/vocabulary.safetensors")
    assert found.names == ("sun", "moon", "star")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"weights": "runs/nowhere"}, r"there is no run 'runs/nowhere'"),
        ({"weights": "nowhere.safetensors"}, "there is no file nowhere.safetensors"),
        ({"data": "{tmp}/nowhere"}, "no such folder of shards"),
        ({"data": "{tmp}/bare"}, "holds no region"),
        ({"data": "{tmp}/masks"}, r"nothing to do: every one of the 2 regions .* has a mask"),
        ({"out": "{tmp}/new/../boxes"}, "--out is the data set itself"),
        ({"teacher": "EVA02-E-14-plus"}, "no weights by itself"),
        ({"teacher": "local-dir:/no/such/folder"}, "open_clip cannot load local-dir:/no/such"),
        ({"teacher": "EVA", "teacher_weights": __file__}, "open_clip cannot load EVA"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(weights, tmp_path, arguments, told):
    write_set(tmp_path / "boxes", [stripped("train", 1)])
    write_set(tmp_path / "bare", [sample("a", [])])
    write_set(tmp_path / "masks", [sample("a")])
    (tmp_path / "new").mkdir()
    values = {"data": "{tmp}/boxes", "weights": str(weights), "out": "{tmp}/out", **arguments}
    data, source, out = (values[name].format(tmp=tmp_path) for name in ("data", "weights", "out"))
    teacher = None
    if "teacher" in values:
        given = values.get("teacher_weights")
        teacher = PriorsConfig(teacher=values["teacher"], weights=given)
    before = bytes_of(tmp_path)
    with pytest.raises(ValueError, match=told):
        label_data(data, source, out, teacher=teacher, console=QUIET, storage=str(tmp_path))
    assert bytes_of(tmp_path) == before


def test_the_folder_of_another_labelling_is_refused(scenes, weights, whole, tmp_path):
    before = bytes_of(whole)
    other = save_weights(tmp_path / "other", seed=1, image_size=32)
    with pytest.raises(ValueError, match=r"weights_sha256: not the same.*image_size is 64 there"):
        label_data(str(scenes), str(other), str(whole), console=QUIET)
    with pytest.raises(ValueError, match=r"min_iou is 0.0 there and 0.5 here"):
        label_data(str(scenes), str(weights), str(whole), MaskRule(0.5), console=QUIET)
    fresh = write_set(tmp_path / "set", [stripped("train", 1)])
    with pytest.raises(ValueError, match=r"is not empty: choose a new folder"):
        label_data(str(scenes), str(weights), str(fresh), console=QUIET)
    assert bytes_of(whole) == before


def test_weights_that_have_changed_since_are_refused(weights):
    spec = ModelSpec(str(weights), "runs", "0" * 64, "cpu")
    with pytest.raises(ValueError, match="no longer those that the labelling began with"):
        MaskModel.load(spec)


def test_the_verb_labels_and_has_the_teacher_look(scenes, weights, whole, tmp_path):
    teacher = write_clip(tmp_path / "tiny", TINY_CLIP)
    out = tmp_path / "out"
    arguments = ["data", "label", scenes, "--weights", weights, "--out", out, "--teacher", teacher]
    done = CliRunner().invoke(tap, list(map(str, arguments)), catch_exceptions=False)
    assert "labelled 7 train images" in done.output
    assert bytes_of(out) == bytes_of(whole)
    alone = tmp_path / "alone"
    make_priors(str(out), PriorsConfig(teacher=teacher), str(alone), console=QUIET)
    assert bytes_of(tmp_path / "out-priors") == bytes_of(alone)
    joined = DataIndex.load(out / "train", tmp_path / "out-priors" / "train")
    for raw in read_samples(joined, 0, range(3)):
        rows = decode_priors(raw.priors, len(regions_of(raw)), 16)
        assert rows.any(axis=1).all()


def test_a_teachers_options_need_a_teacher(scenes, weights, tmp_path):
    arguments = ["data", "label", scenes, "--weights", weights, "--out", tmp_path / "out"]
    arguments += ["--teacher-weights", "x"]
    with pytest.raises(ValueError, match="give --teacher MODEL"):
        CliRunner().invoke(tap, list(map(str, arguments)), catch_exceptions=False)


def test_the_labelled_set_trains_on_its_masks(scenes, weights, tmp_path, monkeypatch):
    out = tmp_path / "labelled"
    report = label_data(str(scenes), str(weights), str(out), console=QUIET)
    assert EMPTY not in report.figures
    job = small_job(out, data={"partitions": 1}, training={"max_steps": 2})
    run = make_run(tmp_path)
    for number, batch in enumerate(batches_of(job, events_of(run))):
        assert batch.has_mask.all()
        assert len(batch.has_mask)
        if number == 1:
            break
    losses = train_here(job, run, monkeypatch)
    assert all(np.isfinite(step["loss"]) for step in losses.values())
