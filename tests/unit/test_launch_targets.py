"""Data that do not hold what a job learns are refused, with what to do about it."""

import dataclasses
import io

import pytest
import torch
from importer_fixtures import write_visual_genome
from rich.console import Console
from small_runs import DIM, NAMES, batches_of, events_of, make_run, make_sample, small_job

from datamodules.shards.writer import ShardWriter
from datamodules.vocabulary import Vocabulary
from tap_platform.launch.prepare import check_data, prepare_data

PARTIAL = {"type": "tap_caption", "train": "text_decoder"}
FULL = {"type": "tap_caption", "train": "all"}


def write(folder, *, phrases=(), named=True, masks=True, priors=True, held_out=None):
    """A data set whose regions have some of what can be learned."""

    def changed(number, said):
        made = make_sample(number)
        regions = [
            dataclasses.replace(
                each,
                phrases=list(said),
                category=each.category if named else None,
                segmentation=each.segmentation if masks else None,
            )
            for each in made.regions
        ]
        return dataclasses.replace(made, regions=regions, priors=made.priors if priors else None)

    for split, said in (("train", phrases), ("val", phrases if held_out is None else held_out)):
        with ShardWriter(folder / split, 8) as writer:
            for number in range(8):
                writer.write(changed(number, said))
    Vocabulary.from_names(NAMES, DIM, kind="test").save(folder / "vocabulary.safetensors")
    return folder


def job_of(folder, recipe, **data):
    return small_job(folder, recipe=recipe, init_from="weights.safetensors", data=data)


def mixture_of(recipe, *folders, **data):
    mixed = small_job("", recipe=recipe, init_from="weights.safetensors").model_dump(mode="json")
    shared = ("partitions", "regions_per_image", "min_region_pixels", "reader_tasks")
    mixed["data"] = {
        "source": "mixture",
        "mixture": [{"path": str(folder)} for folder in folders],
        **{name: mixed["data"][name] for name in shared},
        **data,
    }
    return type(small_job("")).model_validate(mixed)


def told(job):
    text = io.StringIO()
    check_data(job, Console(file=text, width=500))
    return text.getvalue().strip()


@pytest.mark.parametrize("recipe", [PARTIAL, FULL])
@pytest.mark.parametrize("phrases", [[], ["  ", "a" * 1001]])
def test_captions_without_a_usable_phrase_are_refused(tmp_path, recipe, phrases):
    folder = write(tmp_path / "set", phrases=phrases)
    with pytest.raises(ValueError, match="to learn") as refusal:
        check_data(job_of(folder, recipe))
    assert str(refusal.value).startswith(
        f"{folder}: the regions of the 8 samples that were looked at have no phrases,"
    )
    assert "(data.phrases=category), or take a data set with phrases" in str(refusal.value)
    assert told(job_of(folder, recipe, phrases="category")) == ""
    check_data(small_job(folder))


def test_category_names_help_only_where_there_are_categories(tmp_path):
    folder = write(tmp_path / "set", named=False)
    for phrases, words in (("own", "no phrases,"), ("category", "no phrases or categories,")):
        with pytest.raises(ValueError, match=words) as refusal:
            check_data(job_of(folder, PARTIAL, phrases=phrases))
        assert "data.phrases" not in str(refusal.value)
        assert "tap data import visual_genome" in str(refusal.value)


def test_boxes_with_phrases_are_enough_for_captions_alone(tmp_path):
    folder = write(tmp_path / "set", phrases=["a cat"], masks=False, priors=False)
    assert told(job_of(folder, PARTIAL)) == told(job_of(folder, FULL)) == ""
    with pytest.raises(ValueError, match=r"neither masks nor concept priors.*tap data priors"):
        check_data(small_job(folder))
    bare = write(tmp_path / "bare", masks=False, priors=False)
    with pytest.raises(ValueError, match=r"bare: .*neither masks, concept priors nor phrases"):
        check_data(mixture_of(FULL, folder, bare))
    assert told(mixture_of(FULL, folder, bare, phrases="category")) == ""


def test_one_set_of_a_mixture_with_phrases_is_enough(tmp_path):
    silent, other = write(tmp_path / "silent"), write(tmp_path / "other")
    phrased = write(tmp_path / "phrased", phrases=["a cat"])
    for recipe in (PARTIAL, FULL):
        assert told(mixture_of(recipe, silent, phrased)) == ""
        with pytest.raises(ValueError, match=r"silent, .*other: .* of the 16 samples .* no phr"):
            check_data(mixture_of(recipe, silent, other))


def test_phrases_that_are_not_held_out_are_no_fault_but_told(tmp_path):
    folder = write(tmp_path / "set", phrases=["a cat"], held_out=[])
    assert told(job_of(folder, PARTIAL)) == (
        f"{folder / 'val'}: no phrase is held out, so captions get no score"
    )
    assert told(small_job(folder)) == ""


def test_visual_genome_becomes_batches_of_boxes_and_phrases(tmp_path):
    source = {
        "source": "visual_genome",
        "path": str(write_visual_genome(tmp_path / "vg")),
        "shards": str(tmp_path / "set"),
        "partitions": 2,
        "reader_tasks": 0,
    }
    job = small_job(
        "",
        recipe=PARTIAL,
        init_from="weights.safetensors",
        data=source,
        training={"max_steps": 2, "global_batch": 2},
    )
    prepare_data(job.data, job.model.concept_dim, Console(file=io.StringIO()))
    assert told(job) == ""
    batches = batches_of(job, events_of(make_run(tmp_path)))
    said = {phrases for batch in batches for phrases in batch.phrases}
    assert said == {("the clock is green", "a wall clock"), ("the pavement",)}
    for batch in batches:
        assert batch.step_phrased == batch.step_regions == len(batch.phrases)
        for targets in (batch.has_prior, batch.has_mask, batch.priors):
            assert not targets.any()
        assert torch.equal(batch.concepts, torch.full_like(batch.concepts, -1))
        assert batch.priors.shape[1] == DIM
