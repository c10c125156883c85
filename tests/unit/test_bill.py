"""The bill of runs: sums, periods and formats."""

import csv
import io
import re

import pytest
from click.testing import CliRunner
from ledger_runs import BEGIN, append, event, make_run, priced_run, record
from s3_server import s3_server

from tap_platform.bill.page import render_bill
from tap_platform.bill.period import moment_of
from tap_platform.bill.rows import UNKNOWN, make_bill
from tap_platform.bill.text import as_csv, as_markdown
from tap_platform.bill.write import write_bill
from tap_platform.cli import tap
from tap_platform.config.mirror import MirrorConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.ledger import read_ledger
from tap_platform.runs.mirror import Mirror

NOW = BEGIN + 30_000


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def storage(tmp_path):
    """Vision has spent 36 + 18 USD and an old run's 36, speech 10 USD on a failure, one is free."""
    storage = tmp_path / "runs"
    vision, speech = {"team": "vision"}, {"team": "speech|<b>"}
    measured = [record(14_000, 100, "final", {"box_iou": 0.7})]
    run = priced_run(storage, "good", tags=vision, start=10_800)
    append(run.metrics, *measured)
    priced_run(storage, "half", tags=vision, start=10_800, hours=0.5, state="interrupted")
    priced_run(storage, "old", tags=vision, owner="bob@there")
    failed = {"state": "failed", "message": "out of memory"}
    priced_run(storage, "bad", tags=speech, start=10_800, price=10, gpus=0, **failed)
    make_run(
        storage,
        "free",
        updated=11_160,
        events=[event(10_800, "started"), event(11_160, "finished")],
    )
    return storage


def squeezed(markdown):
    """Tables without the spaces that align them."""
    return re.sub(" +", " ", markdown)


def bill(storage, by="team", since=BEGIN + 7200):
    return make_bill(read_ledger(storage, NOW), by, since)


def test_a_bill_sums_what_was_spent_in_its_time(storage):
    vision, speech, unknown = bill(storage).rows
    assert (vision.name, vision.runs) == ("vision", 2)
    assert vision.cost == pytest.approx({"USD": 54})
    assert vision.gpu_hours == pytest.approx(2 * (59 + 29) / 60)
    assert vision.goodput["useful"] == pytest.approx(0.9)
    assert (vision.success_rate, speech.success_rate) == (1.0, 0.0)
    assert vision.best[0] == ("final/box_iou", 0.7, "good")
    assert (unknown.name, unknown.cost, unknown.unpriced) == (UNKNOWN, {}, 1)
    assert bill(storage, since=None).total.cost == pytest.approx({"USD": 54 + 36 + 10})


def test_a_period_cuts_through_a_run(storage):
    half_way = BEGIN + 10_800 + 1800
    assert bill(storage, since=half_way).total.cost == pytest.approx({"USD": 18 + 5})


def test_a_bill_is_of_people_projects_and_runs_too(storage):
    assert {row.name for row in bill(storage, "user", None).rows} == {"ada", "bob"}
    assert [row.name for row in bill(storage, "project").rows] == ["tap"]
    assert {row.name for row in bill(storage, "run").rows} == {"good", "half", "bad", "free"}


def test_currencies_are_not_added(tmp_path):
    storage = tmp_path / "runs"
    priced_run(storage, "dollars")
    events = [
        event(0, "started", price_per_hour=10, currency="EUR"),
        event(3600, "finished"),
    ]
    make_run(storage, "euros", events=events, updated=3600)
    found = bill(storage, since=None)
    assert found.total.cost == pytest.approx({"USD": 36, "EUR": 10})
    assert "10.00 EUR + 36.00 USD" in as_markdown(found)
    first, second = list(csv.DictReader(io.StringIO(as_csv(bill(storage, "project", None)))))
    assert (first["cost"], second["cost"]) == ("10.0000", "36.0000") or second["cost"] == "10.0000"
    assert second["runs"] is None


def test_pipelines_count_by_their_stages(storage):
    parent = make_run(storage, "pipeline", events=[event(0, "started"), event(9, "finished")])
    parent.pipeline.write_bytes(parent.config.read_bytes())
    parent.config.unlink()
    assert "pipeline" not in {row.name for row in bill(storage, "run", None).rows}


def test_every_format_tells_the_same_and_escapes_what_people_wrote(storage):
    (storage / "tap" / "broken").mkdir()
    (storage / "tap" / "broken" / "status.json").write_text("<i>")
    found = bill(storage)
    markdown, page = as_markdown(found), render_bill(found)
    assert "| vision | 54.00 USD | 2.9 | 1.5 | 2 | 100 | 90 |" in squeezed(markdown)
    assert "speech\\|&lt;b>" in markdown
    assert "speech|&lt;b&gt;" in page
    for told in (markdown, page):
        assert "54.00 USD" in told
        assert "out of memory" in told
        assert "broken" in told
        assert "1 run has no price" in told
    assert "<b>" not in page.partition("<main>")[2].replace("<b></b>", "")
    assert "http" not in page.replace("http-equiv", "")
    rows = {row["team"]: row for row in csv.DictReader(io.StringIO(as_csv(found)))}
    assert float(rows["vision"]["cost"]) == pytest.approx(54)
    assert rows["speech|<b>"]["failed"] == "1"


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r\n=1"])
def test_names_are_no_formulas(tmp_path, name):
    began = event(0, "started", price_per_hour=10, currency=name)
    events = [began, event(3600, "finished")]
    make_run(tmp_path / "runs", tags={"team": name}, events=events, updated=3600)
    out = as_csv(bill(tmp_path / "runs", since=None))
    (row,) = csv.DictReader(io.StringIO(out, newline=""))
    assert (row["team"], row["currency"]) == (f"'{name.strip()}", f"'{name.strip()}")


def test_currencies_are_no_markup(tmp_path):
    events = [event(0, "started", price_per_hour=1, currency="<b>|"), event(3600, "finished")]
    make_run(tmp_path / "runs", events=events, updated=3600)
    found = bill(tmp_path / "runs", since=None)
    assert "1.00 &lt;b>\\|" in as_markdown(found)
    assert "1.00 &lt;b&gt;|" in render_bill(found)


@pytest.mark.parametrize("price", ["dear", -1, True, [1], float("inf")])
def test_a_price_that_is_none_breaks_no_bill(tmp_path, price):
    priced_run(tmp_path / "runs", "good")
    priced_run(tmp_path / "runs", "bad", price=price, gpus="two")
    found = bill(tmp_path / "runs", since=None).total
    assert found.cost["USD"] == pytest.approx(36 + (price is True))
    assert found.gpu_hours == pytest.approx(2 * 59 / 60)


def test_a_run_that_goes_on_is_billed_until_now(tmp_path):
    events = [event(0, "started", price_per_hour=10), event(60, "training", workers=1, gpus=1)]
    make_run(tmp_path / "runs", state="running", events=events, updated=7000)
    total = make_bill(read_ledger(tmp_path / "runs", BEGIN + 7200), "team").total
    assert (total.cost["USD"], total.states) == (pytest.approx(20), {"running": 1})
    assert total.success_rate is None


def test_a_bill_of_a_bucket_is_that_of_the_storage(storage, tmp_path):
    here = as_markdown(bill(storage))
    with s3_server("bills"):
        for run in RunDirectory.all(storage):
            Mirror(run, MirrorConfig(url="s3://bills/runs"))._pass()
        verb = ["report", "--storage", "s3://bills/runs", "--by", "team", "--since", "2026-11-21"]
        printed = CliRunner().invoke(tap, verb)
        there = as_markdown(bill("s3://bills/runs"))
    assert printed.exit_code == 0, printed.exception
    assert "90.00 USD" in printed.output
    assert there == here.replace(str(storage), "s3://bills/runs")


def test_one_corrupt_directory_among_many_is_listed(tmp_path):
    storage = tmp_path / "runs"
    for number in range(20):
        priced_run(storage, f"run-{number}")
    (storage / "tap" / "run-7" / "status.json").write_bytes(b"\xff\x00")
    (storage / "tap" / "run-8" / "events.jsonl").unlink()
    (storage / "tap" / "run-8" / "events.jsonl").mkdir()
    (storage / "tap" / "run-9" / "config.json").write_text("[1]")
    found = bill(storage, since=None)
    assert found.total.runs == 19
    assert found.total.cost["USD"] == pytest.approx(36 * 18)
    told = as_markdown(found)
    for name in ("run-7", "run-8", "run-9"):
        assert f"{name}" in told.partition("## What is missing")[2]


def test_no_runs_are_a_bill_too(tmp_path):
    (tmp_path / "runs").mkdir()
    found = bill(tmp_path / "runs")
    assert "There are no runs" in render_bill(found)
    assert "| **all** | - |" in squeezed(as_markdown(found))
    assert len(as_csv(found).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 30 * 86_400), ("12h", 43_200), ("1.5w", 907_200)]
)
def test_a_period_is_a_span(text, seconds):
    assert moment_of(text, NOW) == NOW - seconds


def test_a_period_is_a_date():
    assert moment_of("2026-11-21", NOW) == BEGIN - 36_000
    assert moment_of("2026-11-21T12:00:00+02:00", NOW) == BEGIN


@pytest.mark.parametrize("text", ["30", "soon", "2027-01-01", ""])
def test_other_periods_are_refused(text):
    with pytest.raises(ValueError, match=r"is no time|in the future"):
        moment_of(text, NOW)


def test_the_verb_prints_and_writes(storage, tmp_path):
    def called(*arguments):
        return CliRunner().invoke(tap, ["report", "--storage", str(storage), *arguments])

    printed = called("--since", "2026-11-21", "--by", "user")
    assert printed.exit_code == 0
    assert "| bob " in printed.output
    written = [tmp_path / "out" / f"bill{end}" for end in (".md", ".html", ".csv")]
    assert called(*(f"--out={path}" for path in written)).exit_code == 0
    assert all(path.stat().st_size for path in written)
    refused = called("--out", str(tmp_path / "bill.pdf"))
    assert "let its name end in .md, .html, .csv" in str(refused.exception)
    assert called("good", "--by", "team").exit_code == 2


def test_a_folder_is_no_file(storage, tmp_path):
    with pytest.raises(ValueError, match=r"is a folder: name a file in it, such as .*bill.html"):
        write_bill(bill(storage), tmp_path)
