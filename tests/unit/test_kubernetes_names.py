"""Names and labels of a run's objects."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_platform.places.kubernetes.names import (
    is_label_key,
    is_label_value,
    is_object_name,
    is_service_name,
    label_value,
    object_name,
)
from tap_platform.runs.directory import new_run_name

RUNS = st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,90}", re.ASCII), fullmatch=True)


def test_a_plain_name_stays():
    assert object_name("tap-vit-b-20261121-153000-a1b2") == "tap-vit-b-20261121-153000-a1b2"


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("tap_tiny_scenes-20261121-153000-a1b2", "tap-tiny-scenes-20261121-153000-a1b2"),
        ("Big.Run", "big-run"),
        ("4_shapes", "run-4-shapes"),
        ("_a_", "a"),
    ],
)
def test_what_kubernetes_does_not_take_becomes_a_dash(run, name):
    assert object_name(run) == name


def test_a_long_name_keeps_its_unique_end():
    run = new_run_name("a_job_" + "with_a_very_long_name" * 2)
    name = object_name(run)
    assert len(name) <= 47
    assert name.endswith(run[-20:])
    assert object_name(new_run_name("a" * 63)) != object_name(new_run_name("a" * 63))


def test_a_name_without_letters_is_refused():
    with pytest.raises(ValueError, match="no letter or digit"):
        object_name("___")


@given(RUNS)
def test_every_run_has_a_name_that_kuberay_takes(run):
    name = object_name(run)
    assert len(name) <= 47
    assert is_service_name(name)
    # KubeRay adds five letters for the cluster, and -head-svc for its service.
    assert len(f"{name}-abcde-head-svc") <= 63


@given(RUNS)
def test_every_run_has_a_label(run):
    assert is_label_value(label_value(run))
    assert label_value(run)


def test_what_kubernetes_takes_as_names_and_labels():
    assert is_object_name("a.b-c.1")
    assert not any(map(is_object_name, ("", "A", "a_b", "-a", "a-", "a..b", "a" * 254)))
    assert is_label_value("")
    assert not any(map(is_label_value, ("a b", "-a", "a/b", "é", "a" * 64)))
    assert is_label_key("example.com/team")
    assert not any(map(is_label_key, ("", "/team", "Example.com/team", "a/b/c", "te am")))
