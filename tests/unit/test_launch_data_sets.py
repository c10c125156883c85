"""What a data source is: indexes, concepts, order and identity of one set and of a mixture."""

from __future__ import annotations

import io
import json
import pickle
import shutil

import fsspec
import numpy as np
import pytest
from data_samples import sample
from rich.console import Console
from test_launch_prepare import write_set

from datamodules.order.mixture import MixturePlan
from datamodules.shards.index import DataIndex
from datamodules.shards.joined import JoinedIndex
from datamodules.shards.reader import ShardReader
from datamodules.shards.records import RawSample, decode_priors
from datamodules.shards.sidecar import write_sidecar, write_sidecar_index
from datamodules.shards.writer import ShardWriter
from datamodules.vocabulary import Vocabulary, name_embeddings
from tap_platform.config.load import load_job, validate_job
from tap_platform.launch.data_sets import (
    data_hashes,
    has_vocabulary,
    held_out_index,
    training_index,
    training_plan,
    vocabulary_of,
)
from tap_platform.launch.plan import make_plan, print_plan
from tap_platform.launch.prepare import check_data
from tap_platform.launch.train import create_run


def make_job(data, tmp_path, **training):
    return validate_job(
        {
            "name": "small",
            "storage": str(tmp_path / "runs"),
            "model": {"preset": "tiny", "concept_dim": 4},
            "data": {"partitions": 4, **data},
            "training": {"max_steps": 8, "global_batch": 4, **training},
        },
        where="small",
    )


def mixture(*parts, **data):
    parts = [part if isinstance(part, dict) else {"path": str(part)} for part in parts]
    return {"source": "mixture", "mixture": parts, **data}


@pytest.fixture
def cats(tmp_path):
    """8 samples in 2 shards, and 2 held out; cats and dogs."""
    write_set(tmp_path / "cats")
    return tmp_path / "cats/set"


@pytest.fixture
def birds(tmp_path):
    """5 samples in 2 shards, and 1 held out; dogs and birds."""
    write_set(tmp_path / "birds", train=5, val=1)
    save_vocabulary(tmp_path / "birds/set", ("dog", "bird"))
    return tmp_path / "birds/set"


def save_vocabulary(folder, names, dim=4, seed=None):
    vocabulary = Vocabulary.from_names(names, dim, "category_names")
    if seed is not None:
        rows = np.random.default_rng(seed).normal(size=(len(names), dim)).astype(np.float32)
        vocabulary = Vocabulary(tuple(names), rows, "category_names")
    folder.mkdir(exist_ok=True)
    vocabulary.save(folder / "vocabulary.safetensors")


def all_keys(index):
    with ShardReader(index) as reader:
        return [
            reader.read(shard, number).key
            for shard, count in enumerate(index.counts)
            for number in range(count)
        ]


def test_the_indexes_of_a_mixture_are_those_of_its_sets_in_a_row(cats, birds, tmp_path):
    source = make_job(mixture(cats, birds), tmp_path).data
    index = training_index(source)
    own = [DataIndex.load(folder / "train") for folder in (cats, birds)]
    assert (len(index), index.counts.tolist()) == (13, [4, 4, 4, 1])
    assert all_keys(index) == [*all_keys(own[0]), *all_keys(own[1])]
    assert [str(index.path(shard)) for shard in range(4)] == list(index.names)
    assert index.names[2] == str(birds / "train/shard-000000.tar")
    assert len(held_out_index(source)) == 3
    assert index.sha256 not in {each.sha256 for each in own}


def test_a_joined_index_travels_to_other_processes(cats, birds):
    index = JoinedIndex([DataIndex.load(folder / "train") for folder in (cats, birds)], ["a", "b"])
    again = pickle.loads(pickle.dumps(index))
    assert (
        again.names == index.names == tuple(f"{s}/shard-00000{n}.tar" for s in "ab" for n in (0, 1))
    )
    assert (again.sha256, all_keys(again)) == (index.sha256, all_keys(index))
    assert len(pickle.dumps(index)) < 1000


def test_sets_without_a_shard_are_passed_over(cats, tmp_path):
    with ShardWriter(tmp_path / "none", 4):
        pass
    none, some = DataIndex.load(tmp_path / "none"), DataIndex.load(cats / "train")
    index = JoinedIndex([none, some, none, some])
    assert (len(index), index.names) == (16, some.names * 2)
    assert all_keys(index) == all_keys(some) * 2


def test_weights_order_the_samples_of_a_mixture(cats, birds, tmp_path):
    parts = ({"path": str(cats), "weight": 3}, {"path": str(birds), "weight": 1})
    job = make_job(mixture(*parts, seed=7, shuffle_window=3), tmp_path)
    plan = training_plan(job, training_index(job.data))
    assert isinstance(plan, MixturePlan)
    assert plan.slots.tolist() == [768, 256]
    assert (plan.seed, plan.partitions, plan.shuffle_window, plan.global_batch) == (7, 4, 3, 4)
    assert [own.samples_per_partition for own in plan.plans] == [2, 1]


def test_concepts_are_united_in_the_order_of_the_sets(cats, birds, tmp_path):
    united = vocabulary_of(make_job(mixture(cats, birds), tmp_path).data)
    assert united.names == ("cat", "dog", "bird")
    np.testing.assert_array_equal(united.embeddings, name_embeddings(united.names, 4))
    assert united.kind == "category_names"
    assert vocabulary_of(make_job(mixture(birds, cats), tmp_path).data).names[0] == "dog"


def test_concepts_that_do_not_fit_together_are_refused(cats, birds, tmp_path):
    save_vocabulary(birds, ("bird", "dog"), seed=0)
    job = make_job(mixture(cats, birds), tmp_path)
    with pytest.raises(ValueError, match=r"cats/set and .*birds/set .* different embed.* of 'dog'"):
        check_data(job)
    save_vocabulary(birds, ("owl",), dim=6)
    with pytest.raises(ValueError, match=r"cats/set and .*birds/set .* widths 4 and 6"):
        check_data(job)
    shared = {"path": str(birds), "vocabulary": str(cats / "vocabulary.safetensors")}
    check_data(make_job(mixture(cats, shared), tmp_path))


def test_a_set_that_is_missing_or_too_small_is_named(cats, birds, tmp_path):
    with pytest.raises(ValueError, match=r"no such folder of shards: .*nowhere/train"):
        check_data(make_job(mixture(cats, tmp_path / "nowhere"), tmp_path))
    job = make_job(mixture(cats, birds, partitions=8), tmp_path, global_batch=8)
    with pytest.raises(ValueError, match=r"birds/set has 5 samples, too few for the 8 partitions"):
        check_data(job)
    light = {"path": str(birds), "weight": 0.0001}
    with pytest.raises(ValueError, match=r"birds/set has weight 0\.0001 of 1\.0001 in all"):
        check_data(make_job(mixture(cats, light), tmp_path))


def write_priors(folder, data, dim=4):
    """A sidecar whose priors are the numbers of the samples."""
    for split in ("train", "val"):
        index = DataIndex.load(data / split)
        entries = []
        (folder / split).mkdir(parents=True)
        for shard, (name, count) in enumerate(zip(index.names, index.counts, strict=True)):
            keys = [index.members(shard, number).key for number in range(count)]
            priors = [np.full((2, dim), 10 * shard + number, np.float16) for number in range(count)]
            entries.append(write_sidecar(folder / split, name, keys, priors))
        write_sidecar_index(folder / split, index, entries)


@pytest.mark.parametrize("source", ["shards", "mixture"])
def test_a_sidecar_brings_priors_and_concepts(cats, birds, tmp_path, source):
    write_priors(tmp_path / "clip", birds)
    part = {"path": str(birds), "priors": str(tmp_path / "clip")}
    data = {"source": "shards", **part} if source == "shards" else mixture(cats, part)
    job = make_job(data, tmp_path)
    check_data(job)
    index = training_index(job.data)
    with ShardReader(index) as reader:
        last = reader.read(len(index.counts) - 1, 0)
    assert isinstance(last, RawSample)
    assert decode_priors(last.priors, 2, 4).tolist() == [[10.0] * 4] * 2
    assert vocabulary_of(job.data).names[-1] == "bird"
    save_vocabulary(tmp_path / "clip", ("owl", "crow"))
    assert vocabulary_of(job.data).names[-2:] == ("owl", "crow")
    save_vocabulary(tmp_path / "named", ("rook",))
    named = {**part, "vocabulary": str(tmp_path / "named/vocabulary.safetensors")}
    data = {"source": "shards", **named} if source == "shards" else mixture(cats, named)
    assert vocabulary_of(make_job(data, tmp_path).data).names[-1:] == ("rook",)


def test_the_identity_of_the_data_covers_every_set_and_the_concepts(cats, birds, tmp_path):
    job = make_job(mixture(cats, birds), tmp_path)
    run = create_run(job)
    made_of = json.loads(run.provenance.read_text())
    assert made_of["data"] == data_hashes(job.data)
    assert set(made_of["data"]) == {str(cats), str(birds), "vocabulary"}
    assert made_of["data_hash"] == training_index(job.data).sha256
    before = data_hashes(job.data), training_index(job.data).sha256
    shutil.rmtree(birds / "train")
    with ShardWriter(birds / "train", 4) as writer:
        for number in range(5):
            writer.write(sample(f"other{number}", seed=number))
    after = data_hashes(job.data), training_index(job.data).sha256
    changed = {name for name in before[0] if before[0][name] != after[0][name]}
    assert changed == {str(birds)}
    assert before[1] != after[1]
    save_vocabulary(birds, ("dog", "owl"))
    assert data_hashes(job.data)["vocabulary"] != before[0]["vocabulary"]


def test_concepts_that_have_gone_are_told(cats, birds, tmp_path):
    source = make_job(mixture(cats, birds), tmp_path).data
    assert has_vocabulary(source)
    (birds / "vocabulary.safetensors").unlink()
    assert not has_vocabulary(source)


def test_the_plan_tells_shares_samples_and_epochs(cats, birds, tmp_path):
    parts = (
        {"path": str(cats), "weight": 3},
        {"path": str(birds), "weight": 1},
        tmp_path / "later",
    )
    plan = make_plan(make_job(mixture(*parts), tmp_path))
    shares = [(each.slots, each.samples) for each in plan.data]
    assert shares == [(614, 8), (205, 5), (205, None)]
    assert plan.data[0].epochs == pytest.approx(8 * 4 * 614 / 1024 / 8)
    assert plan.data[1].sha256 == DataIndex.load(birds / "train").sha256
    text = io.StringIO()
    print_plan(plan, Console(file=text, width=200))
    (line,) = (line for line in text.getvalue().splitlines() if "birds/set │" in line)
    assert [cell.strip() for cell in line.split("│")][2:5] == ["20.02%", "5", "1.28"]
    assert "not there yet" in text.getvalue()


def test_paths_of_a_mixture_are_made_absolute_and_urls_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(
        "name: small\nmodel: {preset: tiny}\ntraining: {max_steps: 200, global_batch: 8}\n"
        "data: {source: mixture, mixture: [{path: a, priors: b}, {path: 's3://c/d', weight: 2}]}\n"
    )
    one, other = load_job("job.yaml").data.mixture
    assert (one.path, one.priors) == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert (other.path, other.priors, other.weight) == ("s3://c/d", None, 2)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], r"data\.mixture: is empty: give at least one data set"),
        ([{"path": "a"}, {"path": "a"}], r"data\.mixture: names a more than once"),
        (
            [{"path": "a", "wieght": 2}],
            r"'data\.mixture\.0\.wieght'; did you mean 'data\.mixture\.0",
        ),
        (
            [{"path": "a"}, {"path": "b", "weight": 0}],
            r"data\.mixture\.1\.weight: .* greater than 0",
        ),
        ([{"weight": 1}], r"'data\.mixture\.0\.path' is missing"),
    ],
)
def test_mistakes_in_a_mixture_are_told_with_their_place(tmp_path, parts, message):
    with pytest.raises(ValueError, match=message):
        make_job({"source": "mixture", "mixture": parts}, tmp_path)


def test_data_of_other_kinds_have_no_mixture(tmp_path):
    with pytest.raises(ValueError, match=r"'data\.mixture'; it goes with data\.source=mixture"):
        make_job({"source": "shards", "path": "a", "mixture": []}, tmp_path)


def test_a_set_may_lie_behind_a_url(cats, birds, tmp_path):
    files = fsspec.filesystem("memory")
    files.put(str(birds), "/bucket/birds", recursive=True)
    try:
        job = make_job(mixture(cats, {"path": "memory://bucket/birds"}), tmp_path)
        check_data(job)
        index = training_index(job.data)
        assert index.names[2] == "memory://bucket/birds/train/shard-000000.tar"
        assert all_keys(index)[8:] == all_keys(DataIndex.load(birds / "train"))
        assert vocabulary_of(job.data).names == ("cat", "dog", "bird")
        assert make_plan(job).data[1].samples == 5
    finally:
        files.rm("/bucket", recursive=True)
