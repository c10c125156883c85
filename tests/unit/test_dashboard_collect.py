"""What the dashboard reads: runs and sweeps as lines, with how far they are and what they take."""

import shutil

import pytest
from dashboard_storage import BEGIN, SPACE, make_storage, make_sweep
from ledger_runs import append, event, iso, make_run, priced_run, train
from PIL import Image
from s3_server import s3_server

from datamodules.storage import location, write_bytes
from tap_platform.config.mirror import MirrorConfig
from tap_platform.dashboard.advice import failures_of, remedy_of
from tap_platform.dashboard.collect import collect
from tap_platform.dashboard.importance import importance_of
from tap_platform.dashboard.lines import lines_of
from tap_platform.dashboard.overview import overview_of
from tap_platform.dashboard.pages import Pages
from tap_platform.dashboard.run_files import files_of, read_picture
from tap_platform.dashboard.words import ending, slug, span
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.mirror import Mirror
from tap_platform.runs.status import update_status


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def storage(tmp_path):
    return make_storage(tmp_path / "runs")


def look(*storages, now=3600.0):
    return collect([str(storage) for storage in storages], now=BEGIN + now)


def test_every_run_and_sweep_is_a_line_and_what_is_corrupt_is_listed(storage):
    found = look(storage)
    lines = {line.name: line for line in lines_of(found)}
    kinds = {name: line.kind for name, line in lines.items()}
    assert kinds["search"] == "sweep"
    assert kinds["search-t0000"] == "trial"
    assert kinds["good"] == "run"
    assert {"torn", "empty"} == {fault.path.rpartition("/")[2] for fault in found.faults}
    assert all(fault.skipped for fault in found.faults)
    going = lines["going"]
    assert (going.progress, going.done) == (0.5, "50 of 100 steps")
    assert going.hours_to_go == pytest.approx(0.5)
    assert going.cost == pytest.approx({"EUR": 20})
    assert going.cost_to_go == pytest.approx({"EUR": 10})
    assert lines_of(found)[0].goes_on


def test_a_sweep_adds_its_trials_up(storage):
    sweep = next(line for line in lines_of(look(storage)) if line.kind == "sweep")
    assert sweep.cost == pytest.approx({"USD": 4 * 3.6})
    assert (sweep.progress, sweep.done, sweep.owner) == (1.0, "4 of 4 trials over", "ada")


def test_a_sweep_that_goes_on_guesses_its_end_by_its_pace(tmp_path):
    make_sweep(tmp_path / "runs", trials=8, over=2)
    (sweep,) = look(tmp_path / "runs").sweeps
    account = sweep.account
    share = 3 / 8  # the third trial has made all steps that its run tells of
    assert account.progress == pytest.approx(share)
    assert account.hours_to_go == pytest.approx((1 - share) / share)
    assert account.best.trial == "t0000"
    assert [record.trial for record in account.ranked] == ["t0000", "t0002", "t0001"]


def test_a_budget_of_money_tells_how_far_a_sweep_is(tmp_path):
    changes = {"budget": {"money": 36.0}, "place": "site"}
    make_sweep(tmp_path / "runs", trials=8, over=2, **changes)
    (sweep,) = look(tmp_path / "runs").sweeps
    spent = sum(sweep.account.cost.values())
    assert sweep.account.total is None
    assert sweep.account.progress == pytest.approx(spent / 36)


def test_a_silent_sweep_is_lost(tmp_path):
    make_sweep(tmp_path / "runs", trials=8, over=2)
    (sweep,) = look(tmp_path / "runs", now=9000).sweeps
    assert (sweep.account.state, sweep.account.hours_to_go) == ("lost", None)


@pytest.mark.parametrize("broken", ["sweep.json", "trials.jsonl"])
def test_a_corrupt_sweep_is_skipped_and_listed(storage, broken):
    (storage / "tap/sweeps/search" / broken).write_text('{"trial": 3}\n')
    found = look(storage)
    assert found.sweeps == ()
    assert any("sweeps/search" in fault.path for fault in found.faults)
    assert any(line.name == "search-t0000" for line in lines_of(found))


def test_a_sweep_of_no_known_time_is_listed_and_a_value_that_is_no_number_is_none(tmp_path):
    sweep = make_sweep(tmp_path / "runs")
    text = sweep.trials.read_text()
    sweep.trials.write_text(text.replace('"objective": 0.51', '"objective": NaN'))
    (found,) = look(tmp_path / "runs").sweeps
    assert found.account.ranked[-1].trial == "t0001"
    sweep.trials.write_text(text.replace(iso(600), "noon"))
    assert look(tmp_path / "runs").sweeps == ()
    assert "noon" in look(tmp_path / "runs").faults[0].why


def test_trials_whose_sweep_has_gone_are_told(storage):
    shutil.rmtree(storage / "tap/sweeps")
    assert any("its trials (4)" in fault.why for fault in look(storage).faults)


def test_failures_have_a_cause_and_a_remedy_and_stopped_trials_are_none(storage):
    failures = {each.run.account.name: each for each in failures_of(look(storage))}
    assert set(failures) == {"broken", "<img src=x onerror=alert(1)>"}
    broken = failures["broken"]
    assert broken.cause == "worker 1 failed: CUDA out of memory"
    assert broken.remedy.kind == "out of memory"
    assert broken.resume == f"tap train --resume {storage}/tap/broken"


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("no sign of life since 2026-11-22 09:00 UTC", "no sign of life"),
        ("training has diverged: up to step 8 steps in a row had no finite loss", "diverged"),
        ("[Errno 28] No space left on device", "disk full"),
        ("worker 1 (rank 1 on n4) is gone: the node died", "machine or worker lost"),
        ("something that nobody has thought of", "other"),
    ],
)
def test_causes_are_known_by_their_words(told, kind):
    assert remedy_of(told).kind == kind


def test_totals_leave_nothing_out_and_count_nothing_twice(storage):
    figures = {figure.label: figure for figure in overview_of(look(storage)).figures}
    assert figures["cost to date"].value == "20.00 EUR + 50.40 USD"
    assert figures["cost to go"].value == "10.00 EUR"
    assert figures["going on"].value == "1"
    assert "2 of 8 runs failed" in figures["succeeded"].more


def test_the_version_changes_with_the_files_alone(storage):
    first = look(storage)
    assert look(storage).version == first.version
    run = RunDirectory(storage / "tap" / "good")
    append(run.events, event(4000, "started"))
    assert look(storage).version != first.version


def test_importance_compares_trials_where_all_have_been(tmp_path):
    make_sweep(tmp_path / "few", trials=6, runs=False)
    space = {key: SPACE[key] for key in ("optimizer.lr", "recipe.objective.concept_loss")}
    make_sweep(tmp_path / "many", trials=16, runs=False, space=space)
    few, many = (look(tmp_path / name).sweeps[0].account for name in ("few", "many"))
    assert "6 of 10 trials" in importance_of(few).reason
    found = importance_of(many)
    assert (found.trials, found.step) == (16, 10)
    assert set(found.shares) == set(space)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert next(iter(found.shares)) == "optimizer.lr"


def test_a_store_tells_the_same_after_the_cluster_is_gone(storage, tmp_path):
    here = look(storage)
    pictures = RunDirectory(storage / "tap" / "good").pictures
    Image.new("RGB", (8, 8)).save(pictures / "held-out-step-5.png")
    with s3_server("dash", TAP_CACHE=str(tmp_path / "cache")):
        for run in here.runs:
            if not run.account.name.startswith("<"):
                directory = RunDirectory(storage / run.account.project / run.account.name)
                Mirror(directory, MirrorConfig(url="s3://dash/runs"))._pass()
        for file in (storage / "tap/sweeps/search").iterdir():
            target = location("s3://dash/runs") / "tap" / "sweeps" / "search" / file.name
            write_bytes(target, file.read_bytes())
        shutil.rmtree(storage)
        there = look("s3://dash/runs")
        seen = files_of(there.run_by_slug["tap--good"]).pictures
        assert [picture.step for picture in seen["held-out"]] == [5]
        assert read_picture(there.run_by_slug["tap--good"], seen["held-out"][0])
    costs = [{a.account.name: a.account.cost for a in found.runs} for found in (here, there)]
    costs[0].pop("<img src=x onerror=alert(1)>")
    assert costs[1] == costs[0]
    assert [s.account.history for s in there.sweeps] == [s.account.history for s in here.sweeps]


def test_storages_with_the_same_runs_have_pages_of_their_own(tmp_path):
    for name in ("one", "two"):
        priced_run(tmp_path / name)
    found = look(tmp_path / "one", tmp_path / "two")
    assert len(found.run_by_slug) == 2


def test_names_of_pages_are_plain_and_told_by_nobody_else():
    names = ("a/../b", "run", "<b>", "run%2e", "ä", "x" * 300, "tap--run")
    slugs = {slug(0, project, name) for project in ("tap", "tap--x") for name in names}
    assert len(slugs) == 2 * len(names)
    others = [("a--b", "c"), ("a", "b--c"), ("a-", "b"), ("a", "-b"), ("a", "b")]
    assert len({slug(0, *each) for each in others}) == len(others)
    assert slug(1, "a", "b") != slug(0, "2-a", "b")
    assert all(
        set(each) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGH0123456789-_.") for each in slugs
    )


@pytest.mark.parametrize(
    ("hours", "told"),
    [(None, "-"), (0.005, "18 s"), (0.5, "30 min"), (2.1, "2 h 06 min"), (75.5, "3 d 3 h")],
)
def test_spans_have_units(hours, told):
    assert span(hours) == told


def test_an_end_that_no_calendar_tells_leaves_the_pages_up(tmp_path):
    far = {"state": "running", "events": [event(0, "started", workers=1, price_per_hour=1.0)]}
    for name, steps in (("far", 10**7), ("beyond", 10**14)):
        metrics = [train(10, 1, pace=100.0)]
        make_run(tmp_path / "runs", name, step=1, max_steps=steps, metrics=metrics, **far)
    lines = {line.name: line for line in lines_of(look(tmp_path / "runs", now=60))}
    assert (ending(lines["far"].hours_to_go, BEGIN), ending(1.5, BEGIN)) == (
        "2058-07-30",
        "11-21 11:30",
    )
    assert ending(lines["beyond"].hours_to_go, BEGIN) == ""
    assert b"beyond" in Pages(look(tmp_path / "runs", now=60)).content("index.html").body
    assert (span(float("inf")), span(float("nan"))) == ("-", "-")


def test_a_pipeline_counts_the_stages_of_its_own_storage(tmp_path):
    for name in ("one", "two"):
        whole = make_run(tmp_path / name, "whole")
        whole.config.rename(whole.pipeline)
        priced_run(tmp_path / name, "whole-1", parent="whole")
    found = look(tmp_path / "one", tmp_path / "two")
    wholes = [line for line in lines_of(found) if line.kind == "pipeline"]
    (stage, _) = (run.account for run in found.runs if run.account.parent)
    assert [line.gpu_hours for line in wholes] == [stage.gpu_hours] * 2
    assert [line.cost for line in wholes] == [{"USD": stage.cost}] * 2


def test_failures_of_the_week_are_counted_among_runs(storage):
    sweep = make_sweep(storage, "cut", runs=False)
    update_status(sweep.as_run.status, state="failed")
    shown = overview_of(look(storage))
    assert {line.kind for line in shown.failed} == {"run", "sweep"}
    assert shown.figures[-1].more.endswith("2 of 8 runs failed, 2 this week")


def test_a_storage_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        look(tmp_path / "nothing")
