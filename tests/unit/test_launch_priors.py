import io
import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner
from data_samples import box_mask, raw, region, sample
from PIL import Image
from rich.console import Console
from tiny_clip import TINY_CLIP, write_clip

from datamodules.decoding.decode import Frame, decode_sample
from datamodules.priors.crops import CropRule, crop_regions
from datamodules.scenes import make_scenes
from datamodules.shards.index import DataIndex
from datamodules.shards.provenance import begin
from datamodules.shards.reader import read_samples
from datamodules.shards.records import RawSample, decode_annotation, decode_priors
from datamodules.shards.writer import ShardWriter
from datamodules.vocabulary import Vocabulary
from tap_platform.cli import tap
from tap_platform.concepts import build_vocabulary, find_concepts
from tap_platform.concepts.image_teacher import ImageTeacher
from tap_platform.config.data import ScenesSource
from tap_platform.config.priors import PriorsConfig
from tap_platform.launch import prior_tasks
from tap_platform.launch.priors import default_folder, make_priors

WIDTH = 16


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("teacher") / "tiny", TINY_CLIP)


@pytest.fixture(scope="module")
def config(teacher):
    return PriorsConfig(teacher=teacher, batch=8, context=0.1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes in shards of three, so that there is something to be interrupted between."""
    folder = tmp_path_factory.mktemp("data")
    source = ScenesSource(path=str(folder / "whole"), train_scenes=7, val_scenes=2, scene_size=64)
    make_scenes(source, WIDTH)
    shutil.copytree(folder / "whole", folder / "scenes")
    shutil.rmtree(folder / "scenes" / "train")
    index = DataIndex.load(folder / "whole" / "train")
    with ShardWriter(folder / "scenes" / "train", samples_per_shard=3) as writer:
        for raw in read_samples(index, 0, range(7)):
            writer.write(sample_of(raw))
    return folder / "scenes"


def sample_of(found):
    annotation = decode_annotation(found.annotation)
    made = sample(found.key, annotation.regions)
    made.image, made.width, made.height = found.image, annotation.width, annotation.height
    made.priors = decode_priors(found.priors, len(annotation.regions), WIDTH)
    return made


@pytest.fixture(scope="module")
def whole(scenes, config, tmp_path_factory):
    """Priors that nothing interrupted."""
    folder = tmp_path_factory.mktemp("priors") / "whole"
    made(scenes, config, folder)
    return folder


def made(data, config, out, **options):
    """Make priors; returns the report and what was said."""
    said = io.StringIO()
    console = Console(file=said, width=200)
    result = make_priors(str(data), config, str(out), console=console, **options)
    return result.report, said.getvalue()


def bytes_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def samples_of(data, split="train", priors=None):
    index = DataIndex.load(data / split, priors=priors and priors / split)
    return [
        each
        for shard, count in enumerate(index.counts.tolist())
        for each in read_samples(index, shard, range(count))
    ]


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_region_has_the_embedding_of_its_crop(scenes, whole, teacher, split):
    model = open_clip.create_model(teacher).eval()
    mean, deviation = (
        torch.tensor(x)[:, None, None]
        for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    rule = CropRule(16, (123, 117, 104), 0.1, False, "aspect", "bicubic")
    raws = samples_of(scenes, split, whole)
    assert {each.key for each in raws} == {each.key for each in samples_of(scenes, split)}
    for each in raws:
        crops = np.stack(crop_regions(each, rule))
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            rows = model.encode_image((pixels - mean) / deviation, normalize=True).numpy()
        found = decode_priors(each.priors, len(rows), WIDTH)
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, rows, atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(found.astype(float), axis=1), 1, atol=1e-3)


def test_the_text_tower_gives_the_concepts_of_the_data_set(scenes, whole, config):
    found = Vocabulary.load(whole / "vocabulary.safetensors")
    names = Vocabulary.load(scenes / "vocabulary.safetensors").names
    assert found.names == names
    assert found.embeddings.shape == (len(names), WIDTH)
    assert found.kind == f"open_clip {config.teacher}"
    assert json.loads(found.provenance["templates"]) == ["a {}"]


def test_a_list_that_is_known_is_read_as_it_is_said(scenes, teacher, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(scenes / "val", data / "val")
    coco = find_concepts("lvis_1203")
    Vocabulary.from_names(coco.names, 4, "any").save(data / "vocabulary.safetensors")
    made(data, PriorsConfig(teacher=teacher), tmp_path / "priors")
    found = Vocabulary.load(tmp_path / "priors" / "vocabulary.safetensors")
    expected = build_vocabulary(coco, teacher, None, ("a {}",))
    assert found.names == expected.names
    np.testing.assert_array_equal(found.embeddings, expected.embeddings)


def test_training_reads_the_priors_in_the_order_of_the_drawn_regions(scenes, whole):
    names = Vocabulary.load(whole / "vocabulary.safetensors").indexes
    source = ScenesSource(regions_per_image=3, min_region_pixels=1)
    for sample_read in samples_of(scenes, "train", whole):
        annotation = decode_annotation(sample_read.annotation)
        stored = decode_priors(sample_read.priors, len(annotation.regions), WIDTH)
        decoded = decode_sample(sample_read, 5, source, Frame(64, 16, WIDTH), names, training=False)
        assert decoded.has_prior.all()
        assert len(decoded.priors)
        corners = decoded.boxes[:, :2] * max(annotation.width, annotation.height) / 64
        for corner, row in zip(corners, decoded.priors, strict=True):
            boxes = np.array([each.box[:2] for each in annotation.regions])
            nearest = np.abs(boxes - corner).sum(1).argmin()
            np.testing.assert_array_equal(row, stored[nearest])


def test_interrupted_work_goes_on_and_ends_with_the_same_bytes(
    scenes, config, whole, tmp_path, monkeypatch
):
    keep, kept = prior_tasks.keep, []

    def keep_two(*arguments):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(arguments[3])
        keep(*arguments)

    monkeypatch.setattr(prior_tasks, "keep", keep_two)
    with pytest.raises(KeyboardInterrupt):
        made(scenes, config, tmp_path / "priors")
    assert not (tmp_path / "priors" / "dataset.json").exists()
    left = []
    monkeypatch.setattr(prior_tasks, "keep", lambda *a: left.append(a[3]) or keep(*a))
    _, said = made(scenes, config, tmp_path / "priors")
    assert (kept, left) == ([0, 1], [2, 0])
    assert "going on after 6 of 9 images" in said
    assert bytes_of(tmp_path / "priors") == bytes_of(whole)


def test_a_second_call_does_nothing(scenes, config, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    report, said = made(scenes, config, whole)
    assert "is complete" in said
    assert report.images == 9
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_other_settings_are_refused_by_name(scenes, config, whole, tmp_path):
    other = config.replaced(canvas="black", batch=16)
    with pytest.raises(ValueError, match="canvas is mean there and black here; batch is 8 there"):
        made(scenes, other, whole)
    (tmp_path / "something").touch()
    with pytest.raises(ValueError, match="not empty"):
        made(scenes, config, tmp_path)


def test_other_settings_are_refused_in_a_folder_that_is_not_complete(
    scenes, config, tmp_path, monkeypatch
):
    monkeypatch.setattr(prior_tasks, "keep", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(scenes, config, tmp_path / "priors")
    with pytest.raises(ValueError, match=r"fit is aspect there and stretch here"):
        made(scenes, config.replaced(fit="stretch"), tmp_path / "priors")


def test_what_cannot_be_shown_has_a_zero_row_and_what_cannot_be_read_none(
    config, tmp_path, monkeypatch
):
    nothing = np.zeros((48, 64), bool)
    something = box_mask(48, 64, 4, 6, 30, 40)
    torn = sample("torn")
    torn.image = torn.image[:-400]
    with ShardWriter(tmp_path / "data" / "train", 8) as writer:
        writer.write(sample("empty", [region(something), region(nothing)]))
        writer.write(sample("bare", []))
        writer.write(torn)
    report, said = made(tmp_path / "data", config.replaced(concepts="coco_80"), tmp_path / "out")
    assert (report.images, report.regions, report.without, report.bad) == (3, 2, 1, 1)
    assert "1 with nothing to show have zero rows; 1 bad samples" in said
    line = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert line["key"] == "torn"
    assert line["split"] == "train"
    assert "JPEG" in line["reason"] or "image" in line["reason"]
    index = DataIndex.load(tmp_path / "data" / "train", priors=tmp_path / "out" / "train")
    by_key = {raw.key: raw for raw in read_samples(index, 0, range(3))}
    rows = decode_priors(by_key["empty"].priors, 2, WIDTH)
    assert rows.any(axis=1).tolist() == [True, False]
    assert decode_priors(by_key["bare"].priors, 0, WIDTH).shape == (0, WIDTH)
    assert isinstance(by_key["torn"], RawSample)
    assert by_key["torn"].priors is None


def test_a_batch_holds_the_same_regions_whatever_the_samples(scenes, config, monkeypatch, tmp_path):
    sizes = []
    embed = ImageTeacher.embed
    monkeypatch.setattr(
        ImageTeacher, "embed", lambda self, crops: sizes.append(len(crops)) or embed(self, crops)
    )
    report, _ = made(scenes, config, tmp_path / "priors")
    assert sum(sizes) == report.regions
    counts = [
        sum(
            len(decode_annotation(raw.annotation).regions)
            for raw in read_samples(index, shard, range(count))
        )
        for index in (DataIndex.load(scenes / split) for split in ("train", "val"))
        for shard, count in enumerate(index.counts.tolist())
    ]
    expected = [size for n in counts for size in [8] * (n // 8) + ([n % 8] if n % 8 else [])]
    assert sizes == expected


def test_a_teacher_that_overflows_asks_for_another_precision(teacher):
    loaded = ImageTeacher.load(teacher, None, "cpu", "fp32")
    with torch.no_grad():
        loaded.model.visual.proj.fill_(float("inf"))
    with pytest.raises(ValueError, match="another precision"):
        loaded.embed(np.zeros((1, 16, 16, 3), np.uint8))


def test_the_verb_makes_priors_beside_the_data_set(scenes, teacher):
    arguments = ["data", "priors", str(scenes), "--teacher", teacher, "--canvas", "white"]
    done = CliRunner().invoke(tap, [*arguments, "--template", "photo"], catch_exceptions=False)
    out = scenes.with_name("scenes-priors-tiny")
    assert f"{out.name}:" in done.output.replace("\n", "")
    assert "teachers wait" in done.output
    card = json.loads((out / "dataset.json").read_text())
    assert card["settings"]["canvas"] == "white"
    assert card["settings"]["templates"] == ["photo"]
    weights = card["settings"]["weights"]
    assert len(weights) == 64
    assert card["settings"]["train_index"] == DataIndex.load(scenes / "train").sha256


@pytest.mark.parametrize(
    ("data", "teacher", "folder"),
    [
        ("data/sa1b/", "EVA02-E-14-plus", "data/sa1b-priors-EVA02-E-14-plus"),
        ("s3://b/sa1b", "hf-hub:owner/name", "s3://b/sa1b-priors-name"),
        ("a", "local-dir:/x/y/", "a-priors-y"),
    ],
)
def test_the_default_folder_is_named_by_the_teacher(data, teacher, folder):
    assert default_folder(data, teacher) == folder


def test_a_folder_without_a_data_set_is_refused(tmp_path, config):
    with pytest.raises(ValueError, match="holds no data set"):
        made(tmp_path, config, tmp_path / "out")


def test_a_data_set_whose_making_has_not_ended_is_refused(tmp_path, config):
    begin(tmp_path, "sa1b", {})
    with pytest.raises(ValueError, match=r"its making .* has not ended"):
        made(tmp_path, config, tmp_path / "out")


def test_a_model_that_cannot_be_had_is_named_before_anything_is_written(scenes, tmp_path):
    unknown = PriorsConfig(teacher="EVA02-E-14-plus")
    with pytest.raises(ValueError, match=r"no weights by itself.*laion2b_s9b_b144k"):
        made(scenes, unknown, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_red_square_is_told_from_a_blue_one(teacher):
    loaded = ImageTeacher.load(teacher, None, "cpu", "fp32")
    rule = CropRule(16, (123, 117, 104), 0.0, False, "aspect", "bicubic")
    regions = [region(box_mask(40, 60, left, 8, left + 12, 20)) for left in (4, 22, 44)]
    picture = np.full((40, 60, 3), 128, np.uint8)
    picture[8:20, 4:16] = picture[8:20, 44:56] = (255, 0, 0)
    picture[8:20, 22:34] = (0, 0, 255)
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG")
    made_sample = sample(regions=regions, height=40, width=60)
    made_sample.image = encoded.getvalue()
    rows = loaded.embed(np.stack(crop_regions(raw(made_sample), rule))).astype(float)
    cosines = rows @ rows.T
    assert cosines[0, 2] == pytest.approx(1, abs=1e-3)
    assert cosines[0, 1] < 0.99
