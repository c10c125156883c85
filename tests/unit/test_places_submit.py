"""Who may submit a run, where, and when again; the places are made up."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tap_platform.config.profile import KubernetesProfile
from tap_platform.places import submit
from tap_platform.places.look import Found
from tap_platform.places.place import PlaceState, Submission
from tap_platform.places.submissions import Submissions
from tap_platform.places.submit import KINDS, Wanted, hand_over, make_submission, stop_run

GROUPS = [{"name": "cpu", "cpus": 4, "memory": "8Gi"}]
TINY = str(Path(__file__).resolve().parents[2] / "jobs" / "tap_tiny_scenes.yaml")


def profile(**changes):
    tree = {"place": "kubernetes", "image": "tap:1", "groups": GROUPS, **changes}
    return KubernetesProfile.model_validate(tree)


class MadeUpPlace:
    """A place that remembers what it was asked."""

    files = "/etc/tap"

    def __init__(self, name, state="gone"):
        self.name, self.said = name, state
        self.runs, self.fault = [], None

    def submit(self, submission):
        if self.fault:
            raise self.fault
        self.runs.append(submission.run)
        self.said = "starting"

    def state(self, run):
        if isinstance(self.said, Exception):
            raise self.said
        return PlaceState(run, "tap", self.said, "", None, self.name, None, None, "")

    def stop(self, run, grace):
        self.said = "stopping"
        if self.fault:
            raise self.fault


class OtherKind(MadeUpPlace):
    pass


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Places by name, as records lead to them."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    known = {"a": MadeUpPlace("a"), "b": MadeUpPlace("b"), "other": OtherKind("other")}
    monkeypatch.setattr(submit, "place_of", lambda name, profile: known[name])
    return known


def submission(run="r-1"):
    return Submission(run, "tap", "data", ("tap", "data"), {}, None, None, "me@here")


def record():
    return Submissions().find("r-1")


def again(place, of=None):
    submit.submit_again(Found("r-1", place, of or profile(), record()))


def test_a_run_that_goes_on_is_not_submitted_elsewhere(places):
    hand_over(submission(), places["a"], profile())
    for call in (
        lambda: again(places["b"]),
        lambda: hand_over(submission(), places["b"], profile()),
    ):
        with pytest.raises(
            ValueError, match=r"has not ended at a \(starting\): stop it there first"
        ):
            call()
    assert (record().place, places["b"].runs) == ("a", [])
    places["a"].said = ValueError("no route")
    with pytest.raises(ValueError, match=r"submitted to a, which does not answer \(no route\)"):
        again(places["b"])
    places["a"].said = "stopped"
    again(places["b"])
    assert (record().place, places["b"].runs) == ("b", ["r-1"])


@pytest.mark.parametrize(
    "other",
    [
        {"storage": {"path": "/elsewhere"}},
        {"storage": {"claim": "theirs"}},
        {"namespace": "theirs"},
        {"context": "theirs"},
    ],
)
def test_a_run_goes_on_only_where_its_files_are(places, other):
    ours = {"storage": {"claim": "ours"}}
    hand_over(submission(), places["a"], profile(**ours))
    places["a"].said = "failed"
    for call in (again, lambda *to: hand_over(submission(), *to)):
        with pytest.raises(ValueError, match="its files are not where b looks for them"):
            call(places["b"], profile(**{**ours, **other}))
    with pytest.raises(ValueError, match="its files are not where other looks"):
        again(places["other"], profile(**ours))
    assert record().place == "a"
    again(places["b"], profile(**ours, image="tap:2"))
    assert record().place == "b"


def test_a_place_that_does_not_answer_is_not_asked_to_stop_it(places):
    hand_over(submission(), places["a"], profile())
    places["a"].said = ValueError("no route")
    with pytest.raises(ValueError, match="whether r-1 goes on is not known, for a does not answer"):
        again(places["a"])
    places["a"].said = "stopping"
    with pytest.raises(ValueError, match="r-1 is stopping: wait for its end"):
        again(places["a"])


def test_of_two_submissions_at_once_the_loser_takes_no_record_away(places, monkeypatch):
    """The second begins when the first has found no record."""
    faults, write = [], Submissions.write

    class TakesOne(MadeUpPlace):
        def submit(self, submission):
            if self.runs:
                raise ValueError("has the run already")
            super().submit(submission)

    place = TakesOne("a")

    def submit_it():
        try:
            hand_over(submission(), place, profile())
        except ValueError as error:
            faults.append(str(error))

    second = threading.Thread(target=submit_it)

    def slow_write(self, record):
        if second.ident is None:
            second.start()
            second.join(0.3)
        write(self, record)

    monkeypatch.setattr(Submissions, "write", slow_write)
    submit_it()
    second.join()
    assert faults == ["has the run already"]
    assert record().run == "r-1"


def test_what_is_refused_is_forgotten_and_what_was_before_is_not(places):
    places["a"].fault = ValueError("no room")
    with pytest.raises(ValueError, match="no room"):
        hand_over(submission(), places["a"], profile())
    assert record() is None
    places["a"].fault = None
    hand_over(submission(), places["a"], profile())
    before, places["a"].fault = record(), ValueError("no room")
    with pytest.raises(ValueError, match="no room"):
        hand_over(submission(), places["a"], profile())
    assert record() == before


def test_a_stop_that_takes_its_grace_is_remembered(places):
    hand_over(submission(), places["a"], profile())
    places["a"].fault = ValueError("you may not delete pods")
    with pytest.raises(ValueError, match="you may not delete pods"):
        stop_run(Found("r-1", places["a"], profile(), record()), now=True)
    assert record().stopped is not None


@pytest.mark.parametrize("name", ["-f", "../r", "a/b", "", "a b"])
def test_names_that_are_none_are_refused(places, name):
    for what in ((TINY,), ("tap", "data", "verify", "/x")):
        with pytest.raises(ValueError, match="does not do as a folder name"):
            make_submission(Wanted(what, name, with_code=False), places["a"], profile())


def test_sweeps_are_not_submitted(places):
    assert "ablate" not in KINDS
    with pytest.raises(ValueError, match="`tap ablate` is not submitted"):
        make_submission(Wanted(("tap", "ablate", "x.yaml"), None, False), places["a"], profile())
