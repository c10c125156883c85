"""The accounts of runs, from their directories alone."""

import errno
import json
from pathlib import Path

import pytest
from ledger_runs import BEGIN, append, event, iso, make_run, priced_run, record, train

from datamodules.storage import location, make_folder
from tap_platform.config.mirror import MirrorConfig
from tap_platform.runs import ledger as ledger_module
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.ledger import read_ledger
from tap_platform.runs.mirror import Mirror


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "runs"


def account(storage, now=10_000.0):
    (found,) = read_ledger(storage, now=BEGIN + now).accounts
    return found


def test_a_run_tells_whose_it_is_and_what_it_took(storage):
    tags = {"team": "vision", "cost-centre": "4711"}
    priced_run(storage, tags=tags, config={"recipe": {"type": "tap_pretrain"}})
    found = account(storage)
    assert (found.owner, found.team, found.cost_centre) == ("ada@here", "vision", "4711")
    assert (found.hours, found.gpu_hours, found.cost) == pytest.approx((1, 2 * 59 / 60, 36))
    assert (found.currency, found.recipe, found.progress) == ("USD", "tap_pretrain", 1.0)
    assert found.ended == iso(3600)
    half = found.spent(since=BEGIN + 1800)
    assert half == pytest.approx((0.5, 1.0, 18.0))


def test_an_owner_may_be_named_by_a_tag_and_a_price_may_be_unknown(storage):
    make_run(storage, tags={"owner": "grace"}, events=[event(0, "started"), event(100, "failed")])
    found = account(storage)
    assert (found.owner, found.cost, found.currency) == ("grace", None, None)


def test_each_attempt_has_its_own_price(storage):
    events = [
        event(0, "started", price_per_hour=10, currency="EUR"),
        event(3600, "interrupted"),
        event(7200, "started", price_per_hour=30, currency="EUR"),
        event(9000, "finished"),
    ]
    make_run(storage, events=events, updated=9000)
    assert (account(storage).cost, account(storage).currency) == (pytest.approx(25), "EUR")


def test_gpus_of_old_runs_are_those_that_their_job_insisted_on(storage):
    events = [event(0, "started"), event(0, "training", workers=4), event(3600, "finished")]
    for device in ("gpu", "auto"):
        make_run(storage, device, events=events, config={"scale": {"device": device}})
    hours = {a.name: a.gpu_hours for a in read_ledger(storage).accounts}
    assert hours == pytest.approx({"auto": 0, "gpu": 4})


def test_a_run_that_goes_on_counts_until_now_and_tells_what_is_to_come(storage):
    events = [
        event(0, "started", price_per_hour=36, currency="USD"),
        event(100, "training", workers=2, gpus=2),
    ]
    metrics = [train(200, 50, pace=2.0)]
    make_run(storage, state="running", step=50, updated=200, events=events, metrics=metrics)
    found = account(storage, now=1000)
    assert (found.cost, found.progress, found.ended) == (pytest.approx(10), 0.5, None)
    assert found.hours_to_go == pytest.approx(50 * 2 / 3600)
    assert found.cost_to_go == pytest.approx(1)
    assert account(storage, now=2000).cost == pytest.approx(20)


def test_a_run_without_a_sign_of_life_is_lost_and_costs_no_more(storage):
    events = [event(0, "started", price_per_hour=36, currency="USD")]
    make_run(storage, state="running", updated=100, events=events, metrics=[train(300, 10)])
    found = account(storage, now=300 + 3601)
    assert (found.state, found.cost) == ("lost", pytest.approx(3))
    assert found.cause == "no sign of life since 2026-11-21 10:05 UTC"


def test_a_failure_tells_its_cause_in_a_line(storage):
    make_run(storage, state="failed", message="CUDA out of memory\nTraceback", step=3)
    found = account(storage)
    assert (found.cause, found.progress) == ("CUDA out of memory", 0.03)


def test_results_are_the_best_looks_and_the_last_scores(storage):
    metrics = [
        record(1, 10, "val", {"box_iou": 0.5, "caption_loss": 2.0}),
        record(2, 20, "val", {"box_iou": 0.4, "caption_loss": 3.0}),
        record(3, 20, "final", {"box_iou": 0.45, "cider": "nan"}),
        record(4, 20, "eval_instances", {"ap": 0.1}),
        record(5, 20, "eval_instances", {"ap": 0.2}),
    ]
    make_run(storage, metrics=metrics)
    assert account(storage).results == {
        "val/box_iou": 0.5,
        "val/caption_loss": 2.0,
        "final/box_iou": 0.45,
        "eval_instances/ap": 0.2,
    }


def test_goodput_tells_where_the_time_went(storage):
    """Ten steps of 10 s, the last four of which are lost to a failure and made again."""
    events = [
        event(0, "started"),
        event(20, "training", workers=1, goes_on_from=None),
        event(90, "checkpoint", step=6, stall_seconds=3.0),
        event(150, "training", workers=1, goes_on_from="step-6"),
        event(205, "finished"),
    ]
    metrics = [
        *(train(30 + 10 * step, step, pace=10.0, wait=0.2) for step in range(1, 11)),
        *(train(160 + 10 * n, 6 + n, pace=10.0, wait=0.2) for n in range(1, 5)),
    ]
    make_run(storage, events=events, metrics=metrics, updated=205)
    goodput = account(storage).goodput
    assert goodput.start == pytest.approx(30)
    assert goodput.data_wait == pytest.approx(20)
    assert goodput.checkpoint == pytest.approx(3)
    assert goodput.useful == pytest.approx(80 - 3)
    # Four lost steps, 20 s until new workers began, 10 s until their first step did.
    assert goodput.recovery == pytest.approx(40 + 20 + 10)
    assert goodput.other == pytest.approx(5)
    assert sum(goodput.shares.values()) == pytest.approx(1)
    assert goodput.shares["useful"] == pytest.approx(77 / 205)


def test_a_part_of_a_window_stands(storage):
    events = [
        event(0, "started"),
        event(0, "training", workers=1),
        event(110, "training", workers=1, goes_on_from="step-5"),
        event(200, "interrupted"),
    ]
    make_run(storage, events=events, metrics=[train(100, 10, pace=10.0, wait=0.0)], updated=200)
    goodput = account(storage).goodput
    assert (goodput.useful, goodput.recovery) == pytest.approx((50, 50 + 10 + 90))


def test_a_new_driver_starts_again(storage):
    events = [
        event(0, "started"),
        event(10, "training", workers=1),
        event(120, "started"),
        event(150, "training", workers=1, goes_on_from="step-10"),
        event(200, "finished"),
    ]
    metrics = [train(30, 10, pace=2.0), train(190, 20, pace=2.0)]
    make_run(storage, events=events, metrics=metrics, updated=200)
    goodput = account(storage).goodput
    assert goodput.start == pytest.approx(10)
    assert goodput.recovery == pytest.approx(190 - 20 - 120)
    assert goodput.total == pytest.approx(30 + 80)


def test_stages_and_trials_are_told_apart(storage):
    parent = make_run(storage, "pipeline", state="running")
    parent.pipeline.write_bytes(parent.config.read_bytes())
    parent.config.unlink()
    make_run(storage, "pipeline-first", parent="pipeline")
    trial = make_run(storage, "trial")
    (trial.path / "sweep.json").write_text(json.dumps({"sweep": "search", "trial": "t3"}))
    found = {a.name: a for a in read_ledger(storage).accounts}
    assert found["pipeline"].holds_runs
    assert not found["trial"].holds_runs
    assert found["pipeline-first"].parent == "pipeline"
    assert (found["trial"].sweep, found["trial"].trial) == ("search", "t3")


def test_broken_runs_are_listed_and_skipped_only_where_nothing_can_be_told(storage):
    priced_run(storage, "whole")
    (make_run(storage, "no_status").status).write_text("{")
    gone = make_run(storage, "gone", events=[event(0, "started")])
    gone.status.unlink()
    half = priced_run(storage, "half")
    half.config.write_text("{")
    append(half.metrics, record(1, "ten", "train", {"loss": 1}), {"step": 1, "time": iso(2)})
    half.metrics.open("a").write('{"torn')
    read = read_ledger(storage)
    assert [a.name for a in read.accounts] == ["half", "whole"]
    assert next(a for a in read.accounts if a.name == "half").cost == pytest.approx(36)
    skipped = {fault.path.rpartition("/")[2] for fault in read.faults if fault.skipped}
    assert skipped == {"no_status", "gone"}
    told = [fault.why for fault in read.faults if not fault.skipped]
    assert len(told) == 2
    assert "config.json" in told[0]
    assert "metrics.jsonl" in told[1]


def test_folders_that_cannot_be_looked_into_are_listed_and_passed_over(storage, monkeypatch):
    priced_run(storage, "sound")
    linked = priced_run(storage, "linked")
    (linked.path / "ablation.json").symlink_to(storage / "nothing")
    private = (priced_run(storage, "private").path, storage / "secret")
    private[1].mkdir()
    scan, exists = ledger_module.os.scandir, Path.exists

    def refuse(path):
        if path in private:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(ledger_module.os, "scandir", lambda path: refuse(path) or scan(path))
    monkeypatch.setattr(Path, "exists", lambda path: refuse(path.parent) or exists(path))
    for _ in range(2):
        found = read_ledger(storage)
        assert [account.name for account in found.accounts] == ["linked", "sound"]
        assert {fault.path for fault in found.faults} == set(map(str, private))


def test_a_folder_that_is_not_there_is_refused(storage):
    with pytest.raises(ValueError, match="no folder"):
        read_ledger(storage)


def test_runs_that_have_ended_are_read_once_until_a_file_changes(storage, monkeypatch):
    run = priced_run(storage, "ended")
    make_run(storage, "going_on", state="running", updated=9_999, events=[event(9_990, "started")])
    before = read_ledger(storage, now=BEGIN + 10_000)
    read = []
    honest = ledger_module.account_of

    def counted(run, now):
        read.append(run.name)
        return honest(run, now)

    monkeypatch.setattr(ledger_module, "account_of", counted)
    assert read_ledger(storage, now=BEGIN + 10_000).accounts == before.accounts
    assert read == ["going_on"]
    append(run.metrics, record(4000, 100, "eval_instances", {"ap": 0.2}))
    found = {a.name: a for a in read_ledger(storage, now=BEGIN + 10_000).accounts}
    assert read == ["going_on", "ended", "going_on"]
    assert found["ended"].results == {"eval_instances/ap": 0.2}


def test_a_broken_cache_is_an_empty_one(storage):
    priced_run(storage)
    before = read_ledger(storage).accounts
    ledger_module._cache_file(storage).write_text("[1]")
    assert read_ledger(storage).accounts == before


def test_a_mirror_tells_the_same_after_the_storage_is_gone(storage, tmp_path):
    mirror = f"file://{tmp_path}/mirror"
    for name in ("first", "second"):
        run = priced_run(storage, name)
        (run.pictures / "large.png").write_bytes(b"not fetched")
        copies = Mirror(run, MirrorConfig(url=mirror))
        copies._pass()
    make_folder(location(f"{mirror}/tap/sweeps/search"))
    here, there = read_ledger(storage), read_ledger(mirror)
    assert [a.cost for a in there.accounts] == [a.cost for a in here.accounts] == [36, 36]
    assert there.faults == ()
    fetched = RunDirectory(type(storage)(there.accounts[0].path))
    assert not any(fetched.path.rglob("*.png"))
