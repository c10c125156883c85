"""Runs side by side: settings, measures with spread, pictures, the page."""

import pytest
from click.testing import CliRunner
from ledger_runs import append, event, make_run, priced_run, record, train
from PIL import Image

from tap_platform.cli import tap
from tap_platform.compare import words
from tap_platform.compare.measures import measures
from tap_platform.compare.page import render_comparison
from tap_platform.compare.pictures import picture_rows
from tap_platform.compare.runs import columns_of, read_runs
from tap_platform.compare.settings import differences
from tap_platform.compare.text import as_markdown
from tap_platform.runs.files import read_json, write_json


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "runs"


def a_run(storage, name, lr=0.1, seed=0, final=0.5, losses=(), **more):
    config = {
        "name": name,
        "seed": seed,
        "optimizer": {"lr": lr, "betas": [0.9, 0.999]},
        "mirror": {"url": name},
    }
    metrics = [
        *(train(n, n, loss=loss) for n, loss in enumerate(losses, 1)),
        record(99, 100, "final", {"box_iou": final}),
    ]
    return make_run(storage, name, config=config, metrics=metrics, **more)


def compared(storage, *names):
    return read_runs(names, str(storage))


def row(storage, name, *runs):
    found = measures(columns_of(compared(storage, *runs)))
    return next(each for each in found if each.name == name)


def test_settings_that_differ_are_shown_and_where_a_run_lies_is_not(storage):
    a_run(storage, "first")
    other = a_run(storage, "second", lr=0.2)
    made_of = {**read_json(other.provenance), "git_revision": "a" * 40, "packages": {"torch": "3"}}
    write_json(other.provenance, made_of)
    found = differences(columns_of(compared(storage, "first", "second")))
    assert found == [
        ("optimizer.lr", ["0.1", "0.2"]),
        ("code", ["-", "a" * 12]),
        ("package torch", ["-", "3"]),
    ]


def test_runs_of_one_experiment_share_a_column_and_tell_a_spread(storage):
    for seed, final in enumerate((0.50, 0.52, 0.54)):
        a_run(storage, f"low-{seed}", lr=0.1, seed=seed, final=final)
        a_run(storage, f"high-{seed}", lr=0.2, seed=seed, final=final + 0.1)
    names = [f"{lr}-{seed}" for lr in ("low", "high") for seed in range(3)]
    columns = columns_of(compared(storage, *names))
    assert [column.title for column in columns] == [
        "low-0 and 2 more of other seeds",
        "high-0 and 2 more of other seeds",
    ]
    found = row(storage, "final/box_iou", *names)
    low, high = found.cells
    assert (low.value.mean, low.value.spread, low.value.of) == (
        pytest.approx(0.52),
        pytest.approx(0.02),
        "runs",
    )
    assert high.difference == pytest.approx(0.1)
    assert high.clear
    assert words.title(found) == "mask mIoU by box, %"
    assert words.value(found, high) == "62.0 ± 2.0"
    assert words.difference(found, high) == "+10.0"
    told = as_markdown(compared(storage, *names))
    assert "- **B** high-1, finished" in told
    assert "| optimizer.lr | 0.1     | 0.2     |" in told
    assert "| seed         | 0, 1, 2 | 0, 1, 2 |" in told
    assert "62.0 ± 2.0 (**+10.0**)" in told


def test_single_runs_waver_and_a_small_difference_is_not_clear(storage):
    waves = [1.0, 1.2, 0.8] * 20
    a_run(storage, "first", losses=waves)
    a_run(storage, "near", lr=0.2, losses=[loss + 0.1 for loss in waves])
    a_run(storage, "far", lr=0.3, losses=[loss + 3 for loss in waves])
    found = row(storage, "train/loss", "first", "near", "far")
    first, near, far = found.cells
    assert first.value.count == 6
    assert (near.clear, far.clear) == (False, True)
    assert "last records" in words.spread_of(first)


def test_what_was_measured_once_has_no_spread_and_no_verdict(storage):
    a_run(storage, "first", final=0.5)
    a_run(storage, "second", lr=0.2, final=0.6)
    _, second = row(storage, "final/box_iou", "first", "second").cells
    assert (second.value.spread, second.clear) == (None, None)
    assert second.difference == pytest.approx(0.1)


def test_what_a_run_has_not_measured_is_absent(storage):
    a_run(storage, "first")
    run = a_run(storage, "second", lr=0.2)
    append(run.metrics, record(99, 100, "eval_instances", {"ap": float("inf"), "ap50": 0.1}))
    found = row(storage, "eval_instances/ap50", "first", "second")
    assert words.value(found, found.cells[0]) == "-"
    assert words.difference(found, found.cells[1]) == ""
    assert words.title(found) == "instances: AP50, %"


def test_what_is_the_same_everywhere_is_told_of_results_alone(storage):
    for name, lr in (("first", 0.1), ("second", 0.2)):
        run = a_run(storage, name, lr=lr, losses=[1.0, 2.0, 1.5])
        append(run.metrics, record(99, 100, "val", {"regions": 96, "box_iou": 0.0}))
        append(run.metrics, *(train(n, n, loss=n + lr, regions_dropped=0) for n in (1, 2, 3)))
    names = [each.name for each in measures(columns_of(compared(storage, "first", "second")))]
    assert "val/box_iou" in names
    assert "train/loss" in names
    assert not {"val/regions", "train/regions_dropped"} & set(names)


def test_costs_are_measures_too(storage):
    priced_run(storage, "dear", config={"optimizer": {"lr": 1}})
    priced_run(storage, "cheap", price=18.0, config={"optimizer": {"lr": 2}})
    cells = row(storage, "cost, USD", "dear", "cheap").cells
    assert cells[1].difference == pytest.approx(-18)


def picture(run, name, colour):
    Image.new("RGB", (1600, 20), colour).save(run.pictures / name)


def test_the_same_pictures_stand_side_by_side_each_of_its_newest_step(storage):
    first, second = a_run(storage, "first"), a_run(storage, "second", lr=0.2)
    for step in (9, 100):
        picture(first, f"held-out-step-{step}.png", "red")
    picture(second, "held-out-step-50.png", "blue")
    picture(second, "alone.png", "blue")
    (second.pictures / "broken.png").write_bytes(b"no picture")
    (first.pictures / "broken.png").write_bytes(b"no picture")
    broken, held_out = picture_rows(compared(storage, "first", "second"))
    assert held_out.name == "held-out"
    assert [shown.step for shown in held_out.pictures] == [100, 50]
    assert broken.pictures == [None, None]


def test_the_page_shows_all_and_escapes_what_people_wrote(storage):
    first = a_run(storage, "first", losses=[1.0, 1.1, 0.9])
    second = a_run(
        storage, "second", lr="<b>", state="failed", message="<i>out</i>", events=[event(0, "x")]
    )
    for run in (first, second):
        picture(run, "held-out-step-1.png", "red")
    page = render_comparison(compared(storage, "first", "second"))
    assert "optimizer.lr" in page
    assert "&lt;b&gt;" in page
    assert "<i>out" not in page
    assert page.count("<img") == 2
    told = as_markdown(compared(storage, "first", "second"))
    assert "&lt;b>" in told
    assert "<i>" not in told
    assert "http" not in page.replace("http-equiv", "")


def test_a_broken_run_says_so_and_is_compared_all_the_same(storage):
    a_run(storage, "first")
    second = a_run(storage, "second")
    second.config.write_text("{")
    assert "config.json is not valid JSON" in render_comparison(
        compared(storage, "first", "second")
    )


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["first"], "one run has nothing to be compared with"),
        (["first", "first"], "first is there twice"),
        (["first", "tap/first"], "first is there twice"),
        (["first", "secnd"], "did you mean second"),
    ],
)
def test_mistakes_are_answered(storage, names, told):
    a_run(storage, "first")
    a_run(storage, "second")
    with pytest.raises(ValueError, match=told):
        compared(storage, *names)


def test_runs_of_one_name_in_two_projects_are_two_runs(storage):
    a_run(storage, "same", final=0.5)
    a_run(storage, "same", lr=0.2, final=0.6, project="other")
    runs = compared(storage, "tap/same", "other/same")
    assert [run.title for run in runs] == ["tap/same", "other/same"]
    assert "- **B** other/same" in as_markdown(runs)


def test_runs_without_measures_and_of_other_recipes_are_compared(storage):
    a_run(storage, "whole")
    make_run(storage, "bare", config={"recipe": {"type": "tap_caption"}}, project="captions")
    told = as_markdown(compared(storage, "whole", "bare"))
    assert "| recipe.type" in told
    assert "mask mIoU by box" in told
    assert "There is no picture" in render_comparison(compared(storage, "whole", "bare"))


def test_a_run_whose_status_is_broken_is_named(storage):
    a_run(storage, "first")
    a_run(storage, "second").status.write_text("{")
    with pytest.raises(ValueError, match=r"second/status.json holds no status of a run"):
        compared(storage, "first", "second")


def test_a_run_of_a_mirror_is_named_by_its_project(tmp_path):
    with pytest.raises(ValueError, match="PROJECT/first"):
        read_runs(["first", "second"], f"file://{tmp_path}")


def test_the_verb_prints_and_writes(storage, tmp_path):
    a_run(storage, "first", final=0.5)
    a_run(storage, "second", lr=0.2, final=0.6)
    out = tmp_path / "out" / "page.html"
    arguments = ["compare", "first", "second", "--storage", str(storage), "--out", str(out)]
    done = CliRunner().invoke(tap, arguments)
    assert done.exit_code == 0, done.output
    assert "optimizer.lr" in done.output
    assert "60.0 (+10.0)" in done.output
    assert out.is_file()
    arguments[-1] = str(tmp_path / "page.md")
    assert "page.html" in str(CliRunner().invoke(tap, arguments).exception)
