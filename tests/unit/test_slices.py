"""Slices of tensors: cut for any number of workers, joined, and refused if they do not fit."""

from __future__ import annotations

import errno
import json
import math
from itertools import pairwise
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tap_platform.runs import checkpoints
from tap_platform.runs.checkpoints import CorruptCheckpointError
from tap_platform.training.checkpoint_parts import write_files
from tap_platform.training.slices import Slice, SlicedState, own_share, to_tensors
from tap_platform.training.slices import parts as part_files
from tap_platform.training.slices.exact_json import from_json, to_json
from tap_platform.training.slices.slice import AVERAGE, BUFFER, WEIGHT

SHAPES = {"a.weight": (5, 3), "a.bias": (1,), "scale": (), "b": (2, 2, 7)}
COUNT = torch.tensor(2**40 + 1)


def whole(name, kind=WEIGHT):
    shape = SHAPES[name]
    return torch.arange(prod(shape), dtype=torch.float32).view(shape) + len(name) + len(kind)


def replicated():
    """What every worker of DDP holds."""
    for name, shape in SHAPES.items():
        for kind in (WEIGHT, AVERAGE):
            yield Slice(kind, name, 0, shape, whole(name, kind).view(-1), everywhere=True)
    yield Slice(BUFFER, "count", 0, (), COUNT.view(-1), everywhere=True)


def part_name(rank):
    return f"part-{rank:05}.safetensors"


def write(folder, rank, slices):
    folder.mkdir(exist_ok=True)
    write_files(folder, part_name(rank), *to_tensors(slices), {})


def write_replicated(folder, workers):
    for rank in range(workers):
        write(folder, rank, own_share(replicated(), rank, workers))
    return SlicedState(folder)


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
def test_shares_of_any_number_of_workers_make_the_whole(tmp_path, workers):
    state = write_replicated(tmp_path, workers)
    assert state.names(WEIGHT) == state.names(AVERAGE) == set(SHAPES)
    for name in SHAPES:
        for kind in (WEIGHT, AVERAGE):
            assert torch.equal(state.tensor(kind, name), whole(name, kind))
    count = state.tensor(BUFFER, "count")
    assert (count.dtype, int(count), count.shape) == (torch.int64, int(COUNT), ())


def test_everything_is_saved_once_and_evenly():
    shares = [list(own_share(replicated(), rank, 4)) for rank in range(4)]
    sizes = [sum(p.data.numel() for p in share if p.kind != BUFFER) for share in shares]
    assert sum(sizes) == 2 * sum(map(prod, SHAPES.values()))
    assert max(sizes) - min(sizes) <= 2 * len(SHAPES)
    assert [[p.name for p in share if p.kind == BUFFER] for share in shares] == [
        ["count"],
        [],
        [],
        [],
    ]
    assert not any(piece.everywhere for share in shares for piece in share)


def test_what_one_worker_alone_holds_is_its_own_share():
    alone = Slice(WEIGHT, "b", 3, (2, 2, 7), torch.ones(4))
    assert list(own_share([alone], 1, 2)) == [alone]


def test_slices_are_views(tmp_path):
    weight = torch.zeros(28)
    share = next(own_share([Slice(WEIGHT, "b", 0, (2, 2, 7), weight, everywhere=True)], 1, 2))
    write_replicated(tmp_path, 3).read_into(share)
    assert torch.equal(weight[14:], whole("b").view(-1)[14:])
    assert not weight[:14].any()


@settings(max_examples=50, deadline=None)
@given(cuts=st.sets(st.integers(1, 27), max_size=6), window=st.tuples(*[st.integers(0, 28)] * 2))
def test_any_piece_is_read_out_of_any_others(tmp_path_factory, cuts, window):
    folder = tmp_path_factory.mktemp("cut")
    flat = whole("b").view(-1)
    edges = [0, *sorted(cuts), 28]
    for rank, (start, stop) in enumerate(pairwise(edges)):
        write(folder, rank, [Slice(WEIGHT, "b", start, (2, 2, 7), flat[start:stop])])
    first, last = sorted(window)
    found = torch.full((last - first,), -1.0)
    SlicedState(folder).read_into(Slice(WEIGHT, "b", first, (2, 2, 7), found))
    assert torch.equal(found, flat[first:last])


def test_a_half_weight_becomes_a_float32_one(tmp_path):
    write(tmp_path, 0, [Slice(WEIGHT, "scale", 0, (), torch.tensor([1.5], dtype=torch.bfloat16))])
    found = torch.zeros(1)
    SlicedState(tmp_path).read_into(Slice(WEIGHT, "scale", 0, (), found))
    assert found == 1.5


def piece(start, stop, shape=(2, 2, 7)):
    return Slice(WEIGHT, "b", start, shape, torch.zeros(stop - start))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[piece(0, 9)], [piece(11, 28)]], r"weight b lacks elements from 9 on.* up to 28"),
        ([[piece(0, 14)]], r"weight b lacks elements from 14 on"),
        ([[piece(3, 28)]], r"weight b lacks elements from 0 on"),
        ([[piece(0, 15)], [piece(14, 28)]], r"part-00001.*weight/b@14 begins before 15"),
        ([[piece(0, 14)], [piece(14, 28, (4, 7, 2))]], r"00001.*\[4, 7, 2\].*\[2, 2, 7\], as in"),
        ([[Slice(WEIGHT, "a.bias", 0, (1,), torch.zeros(1))]], r"holds no weight b"),
    ],
)
def test_what_does_not_make_a_whole_is_corrupt(tmp_path, parts, message):
    for rank, slices in enumerate(parts):
        write(tmp_path, rank, slices)
    with pytest.raises(CorruptCheckpointError, match=message):
        SlicedState(tmp_path).tensor(WEIGHT, "b")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"weight/b@20": torch.zeros(9)}, {"b": "[28]"}, r"ends at 29: expected 28 elements"),
        ({"weight/b@0": torch.zeros(4, 7)}, {"b": "[28]"}, r"\[4, 7\]: expected one dimension"),
        ({"weight/b": torch.zeros(28)}, {"b": "[28]"}, r"'weight/b' is not `kind/name@start`"),
        ({"weight/b@-1": torch.zeros(28)}, {"b": "[28]"}, r"is not `kind/name@start`"),
        ({"weight/b@0": torch.zeros(28)}, {}, r"None is no shape"),
        ({"weight/b@0": torch.zeros(28)}, {"b": "[-4, -7]"}, r"is no shape"),
        ({"weight/b@0": torch.zeros(28)}, {"b": "[28.0]"}, r"is no shape"),
        ({"weight/b@0": torch.zeros(28)}, {"b": "__import__('os')"}, r"is no shape"),
    ],
)
def test_malicious_files_are_refused(tmp_path, tensors, metadata, message):
    save_file(tensors, tmp_path / part_name(0), metadata)
    with pytest.raises(CorruptCheckpointError, match=rf"{part_name(0)}: .*{message}"):
        SlicedState(tmp_path)


def test_a_huge_shape_takes_no_memory(tmp_path):
    save_file({"weight/b@0": torch.zeros(4)}, tmp_path / part_name(0), {"b": "[1000000000000000]"})
    with pytest.raises(CorruptCheckpointError, match="lacks elements from 4 on"):
        SlicedState(tmp_path).tensor(WEIGHT, "b")


def test_what_is_no_safetensors_file_is_refused(tmp_path):
    with pytest.raises(CorruptCheckpointError, match="holds no state"):
        SlicedState(tmp_path)
    torch.save({"weight/b@0": torch.zeros(3)}, tmp_path / part_name(0))
    with pytest.raises(CorruptCheckpointError, match=f"{part_name(0)} is no safetensors file"):
        SlicedState(tmp_path)


def test_only_what_was_committed_is_read(tmp_path):
    folder = tmp_path / "step-4"
    write(folder, 0, [piece(0, 28)])
    checkpoints.commit(folder)
    write(folder, 1, [piece(0, 28)])
    assert torch.equal(SlicedState(folder).tensor(WEIGHT, "b"), torch.zeros(2, 2, 7))


def test_a_store_that_is_down_makes_no_part_corrupt(tmp_path, monkeypatch):
    write(tmp_path, 0, [piece(0, 28)])

    def down(*args, **named):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(part_files, "safe_open", down)
    with pytest.raises(OSError, match="Stale"):
        SlicedState(tmp_path)


def test_the_model_says_what_fits(tmp_path):
    state = write_replicated(tmp_path, 2)
    with pytest.raises(ValueError, match=r"b has the shape \[2, 2, 7\]: expected \[28\]"):
        state.read_into(Slice(WEIGHT, "b", 0, (28,), torch.zeros(28)))
    with pytest.raises(ValueError, match=r"buffer count is torch.int64: expected torch.float32"):
        state.read_into(Slice(BUFFER, "count", 0, (), torch.zeros(1)))


def back(value):
    return from_json(json.loads(json.dumps(to_json(value), allow_nan=False)))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(PLAIN)
def test_json_gives_back_every_plain_value(value):
    assert back(value) == value


def test_json_keeps_types_signs_and_words_of_its_own():
    kept = back({1: True, "1": 1.0, "$": {"$": "float", "is": "1"}, None: -0.0})
    assert kept == {1: True, "1": 1.0, "$": {"$": "float", "is": "1"}, None: -0.0}
    assert (type(kept[1]), type(kept["1"])) == (bool, float)
    assert math.copysign(1, kept[None]) == -1
    assert math.isnan(back(math.nan))
    assert back((1, (2, 3))) == [1, [2, 3]]


@pytest.mark.parametrize("value", [torch.zeros(1), {1, 2}, object(), b"bytes"])
def test_json_refuses_what_it_cannot_hold(value):
    with pytest.raises(AssertionError, match=r"cannot hold state\['loops'\]\[1\]"):
        to_json({"loops": [0, value]}, "state")
