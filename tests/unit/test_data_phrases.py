"""What is said of regions, from the bytes of a shard to a batch: texts made to mislead as well."""

import dataclasses
from collections import Counter

import orjson
import pytest
from data_samples import box_mask, raw, region, sample
from flaky_server import flaky_server
from small_runs import (
    batches_of,
    events_of,
    make_run,
    make_sample,
    small_job,
    write_folder,
)

from datamodules.decoding.decode import BadSampleError, Frame, blank_sample, decode_sample
from datamodules.order.plan import Position
from datamodules.phrases import training_phrases
from datamodules.shards.index import DataIndex
from datamodules.shards.joined import JoinedIndex
from datamodules.shards.records import MAX_PHRASE_CHARACTERS
from datamodules.shards.writer import ShardWriter
from datamodules.storage import remove_tree
from datamodules.stream.batch import collate
from datamodules.stream.packing import PackedSample, pack, unpack
from datamodules.stream.quarantine import SampleCounts
from tap_platform.config.data import ShardSource
from tap_platform.launch.data_sets import training_index

FRAME = Frame(size=64, mask_size=16, concept_dim=4)
OWN = ShardSource(path="", min_region_pixels=1)
CATEGORY = OWN.replaced(phrases="category")

EMOJI = "a 👩‍👩‍👧 on a 🏖️"
ARABIC = "كلب بني على العشب"
HEBREW = "\u202bכלב\u202c sleeps"
LONGEST = "a" * MAX_PHRASE_CHARACTERS


def saying(*phrases, category="cat"):
    return region(box_mask(48, 64, 4, 6, 30, 40), category, phrases=list(phrases))


def decode(regions, config=OWN, **changes):
    made = raw(sample(regions=regions), **changes)
    return decode_sample(made, 0, config, FRAME, {}, training=False)


def changed(regions, **fields):
    """The annotation of regions with fields of the last one set to what no importer writes."""
    record = orjson.loads(raw(sample(regions=regions)).annotation)
    record["annotations"][-1].update(fields)
    return orjson.dumps(record)


def test_phrases_stay_with_their_regions_however_these_are_drawn():
    corners = [(0, 0, 30, 30), (30, 0, 64, 30), (0, 30, 30, 48), (30, 30, 64, 48)]
    said = {corner: f"the one at {corner[0]}, {corner[1]}" for corner in corners}
    regions = [region(box_mask(48, 64, *c), phrases=[p, "second"]) for c, p in said.items()]
    regions.insert(2, region(box_mask(48, 64, 0, 0, 64, 48), phrases=[]))
    made = raw(sample(regions=regions))
    orders = set()
    for seed in range(6):
        drawn = decode_sample(
            made, seed, OWN.replaced(regions_per_image=3), FRAME, {}, training=False
        )
        assert len(drawn.phrases) == 3
        for box, phrases in zip(drawn.boxes, drawn.phrases, strict=True):
            corner = tuple(map(int, box))
            assert phrases == ((said[corner], "second") if corner in said else ())
        orders.add(tuple(drawn.phrases))
    assert len(orders) > 1


@pytest.mark.parametrize(
    ("phrase", "read"),
    [
        (" a dog\n", "a dog"),
        ("a dog\r\n\tthat\u2028sleeps   here", "a dog that sleeps here"),
        ("a\0dog\x1b[31m \x85red", "a dog [31m red"),
        (EMOJI, EMOJI),
        (ARABIC, ARABIC),
        (HEBREW, HEBREW),
        ("\N{ZERO WIDTH SPACE}", "\N{ZERO WIDTH SPACE}"),
        ("</s> <unk> {x} %s ../..", "</s> <unk> {x} %s ../.."),
        ("e\u0301" * 400, "e\u0301" * 400),
        (LONGEST, LONGEST),
        (f"  {LONGEST}  ", LONGEST),
        (LONGEST + "a", None),
        ("dog " * 2500, None),
        ("", None),
        (" \n\t ", None),
        ("\0\x07\u3000", None),
    ],
)
def test_a_phrase_becomes_one_line_or_is_left_out_and_counted(phrase, read):
    decoded = decode([saying("before", phrase, "after")])
    kept = [] if read is None else [read]
    assert decoded.phrases == [("before", *kept, "after")]
    assert decoded.dropped_phrases == 1 - len(kept)
    assert SampleCounts.of([decoded]).phrases_dropped == decoded.dropped_phrases
    again = unpack(PackedSample("s", "a", pack(decoded)), FRAME)
    assert (again.phrases, again.dropped_phrases) == (decoded.phrases, decoded.dropped_phrases)


@pytest.mark.parametrize(
    "phrases", ["a dog", None, 7, {"a": [None]}, ["a dog", 7], [["a dog"]], [None], [{}]]
)
def test_what_is_no_list_of_texts_condemns_the_sample(phrases):
    annotation = changed([saying("a cat"), saying()], phrases=phrases)
    with pytest.raises(BadSampleError, match="layout: phrases are not a list of texts"):
        decode([], annotation=annotation, priors=None)


def test_half_a_character_is_no_json():
    annotation = changed([saying("HERE")]).replace(b"HERE", rb"\ud83d")
    with pytest.raises(BadSampleError, match="the annotation is not JSON"):
        decode([], annotation=annotation, priors=None)


def test_regions_that_are_not_drawn_are_not_read():
    hidden = region(box_mask(48, 64, 0, 0, 2, 2), phrases=[" "])
    annotation = changed([saying("a cat"), hidden], phrases=[7])
    config = OWN.replaced(min_region_pixels=50)
    decoded = decode([], config, annotation=annotation, priors=None)
    assert (decoded.phrases, decoded.dropped_phrases) == ([("a cat",)], 0)
    decoded = decode([saying("a cat"), hidden], config)
    assert (decoded.phrases, decoded.dropped_phrases) == ([("a cat",)], 0)


def test_categories_describe_regions_without_phrases_of_their_own():
    regions = [
        region(box_mask(48, 64, 0, 0, 8 * n, 48), category, phrases=phrases)
        for n, (category, phrases) in enumerate(
            [
                ("dog", ["a wet dog", "dog"]),
                ("alarm_clock", []),
                ("cat", [" ", "a" * 5000]),
                (None, []),
                (" ", []),
            ],
            start=1,
        )
    ]
    own, named = decode(regions), decode(regions, CATEGORY)
    of_own, of_named = (
        {int(box[2]): phrases for box, phrases in zip(each.boxes, each.phrases, strict=True)}
        for each in (own, named)
    )
    assert of_own == {8: ("a wet dog", "dog"), 16: (), 24: (), 32: (), 40: ()}
    assert of_named == of_own | {16: ("alarm clock",), 24: ("cat",)}
    assert own.dropped_phrases == named.dropped_phrases == 2
    assert decode([], CATEGORY, annotation=changed([saying()], category=[3]), priors=None).phrases


def test_a_batch_holds_an_entry_for_each_region():
    one = decode([saying("a cat", "it")])
    none, two = decode([]), decode([saying(), saying("it sleeps")])
    batch = collate([one, none, two], Position())
    assert batch.phrases == [("a cat", "it"), *two.phrases]
    assert set(two.phrases) == {(), ("it sleeps",)}
    assert batch.to("meta").phrases == batch.phrases
    assert batch.step_phrased == 0
    placeholder = collate([blank_sample(FRAME), none], Position())
    assert (placeholder.phrases, placeholder.weights.tolist()) == ([()], [0])


# Streams.


def phrased_sample(number):
    """A third of the regions says nothing, a third says something blank."""
    made = make_sample(number)
    says = ([f"{number} first", f"{number} second"], [], [" "])
    regions = [
        dataclasses.replace(each, phrases=says[(number + place) % 3])
        for place, each in enumerate(made.regions)
    ]
    return dataclasses.replace(made, regions=regions)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """26 samples in 4 shards."""
    root = write_folder(tmp_path_factory.mktemp("phrases"), count=1)
    remove_tree(root / "train")
    with ShardWriter(root / "train", 7) as writer:
        for number in range(26):
            writer.write(phrased_sample(number))
    return root


@pytest.fixture
def events(tmp_path):
    return events_of(make_run(tmp_path))


@pytest.mark.parametrize(("workers", "micro_batch"), [(1, None), (1, 2), (2, 1), (4, None)])
def test_every_micro_batch_knows_the_phrased_regions_of_its_rank_in_the_step(
    folder, events, workers, micro_batch
):
    training = {"max_steps": 6, "micro_batch": micro_batch}
    job = small_job(folder, training=training, scale={"workers": workers})
    whole = batches_of(small_job(folder, training={"max_steps": 6}), events)
    totals, said = Counter(), {}
    for rank in range(workers):
        batches = batches_of(job, events, rank, workers)
        for step in range(6):
            mine = batches[step * job.accumulation : (step + 1) * job.accumulation]
            phrased = sum(bool(phrases) for batch in mine for phrases in batch.phrases)
            assert {batch.step_phrased for batch in mine} == {phrased}
            assert all(len(batch.phrases) == len(batch.weights) for batch in mine)
            totals[step] += phrased
            said.setdefault(step, Counter()).update(p for b in mine for p in b.phrases if p)
    assert [totals[step] for step in range(6)] == [batch.step_phrased for batch in whole]
    assert [said[step] for step in range(6)] == [
        Counter(phrases for phrases in batch.phrases if phrases) for batch in whole
    ]
    assert sum(totals.values()) > 10
    assert sum(batch.counts.phrases_dropped for batch in whole) > 10


# All phrases of a split.


def all_said(folder):
    """What `training_phrases` is to find, from the samples that were written."""
    regions = [each for number in range(26) for each in phrased_sample(number).regions]
    return [phrase for each in regions for phrase in each.phrases if phrase.strip()]


def test_every_phrase_of_a_split_is_read_in_order(folder):
    source = small_job(folder).data
    found = list(training_phrases(training_index(source), source))
    assert found == all_said(folder)
    assert len(found) > 30
    index = training_index(source)
    joined = JoinedIndex([index, DataIndex.load(folder / "val"), index])
    assert list(training_phrases(joined, source)) == [*found, *found]
    named = list(training_phrases(joined, source.replaced(phrases="category")))
    assert Counter(named)["cat"] > 10
    assert [phrase for phrase in named if phrase not in ("cat", "dog", "bird")] == [*found, *found]


def test_bad_annotations_are_passed_over_and_pictures_are_not_looked_at(folder, tmp_path):
    with ShardWriter(tmp_path / "bad", 8) as writer:
        for number in range(8):
            writer.write(phrased_sample(number))
    index = DataIndex.load(tmp_path / "bad")
    content = bytearray(index.path(0).read_bytes())
    for number in range(8):
        offset, size = index.members(0, number).image
        content[offset : offset + size] = bytes(size)
    for number, text in ((1, b"{"), (3, b'{"image":{"width":1,"height":1},"annotations":[4]}')):
        offset, size = index.members(0, number).annotation
        content[offset : offset + size] = text.ljust(size)
    stop = index.members(0, 6).annotation[0]
    index.path(0).write_bytes(content[:stop])
    left = [n for n in range(6) if n not in (1, 3)]
    expected = [
        phrase
        for n in left
        for each in phrased_sample(n).regions
        for phrase in each.phrases
        if phrase.strip()
    ]
    assert list(training_phrases(index, OWN)) == expected
    assert expected
    index.path(0).unlink()
    assert list(training_phrases(index, OWN)) == []


def test_from_a_store_the_annotations_alone_are_fetched(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))
    with flaky_server() as server:
        for path in (folder / "train").iterdir():
            server.files[f"/set/{path.name}"] = path.read_bytes()
        index = DataIndex.load(f"{server.url}/set")
        server.gets.clear()
        assert list(training_phrases(index, OWN)) == all_said(folder)
        asked = {(path.rpartition("/")[2], where) for path, where in server.gets}
        assert len(server.gets) == len(index) == 26
    assert asked == {
        (name, f"bytes={offset}-{offset + size - 1}")
        for shard, name in enumerate(index.names)
        for offset, size in (index.members(shard, n).annotation for n in range(index.counts[shard]))
    }
