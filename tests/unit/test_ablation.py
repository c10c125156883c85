"""What an ablation runs, and what its tables say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_model import MODEL

from tap_platform.config.ablation import AblationTable, Measure, load_ablation
from tap_platform.launch.ablation_tables import markdown_table, mean_and_spread, verdicts
from tap_platform.launch.ablation_units import ablation_units, scores_of
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import write_json

TREE = {
    "name": "small",
    "seeds": [3, 5],
    "base": {
        "model": MODEL,
        "data": {"source": "shards", "path": "data", "partitions": 1},
        "training": {"max_steps": 4, "global_batch": 1},
    },
    "stages": [
        {"name": "pretrain", "job": {"optimizer": {"lr": 0.5}}},
        {
            "name": "caption",
            "after": "pretrain",
            "job": {"recipe": {"type": "tap_caption", "tokenizer": "trained"}},
        },
    ],
    "variants": {
        "A": {
            "about": "masks only",
            "changes": {
                "pretrain": {"recipe": {"objective": {"concept_weight": 0}}},
                "caption": {"recipe": {"caption": {"token": "mask"}}},
            },
        },
        "B": {
            "about": "concepts, mask token",
            "changes": {"caption": {"recipe": {"caption": {"token": "mask"}}}},
        },
        "D": {"about": "concepts"},
        "sum": {
            "about": "stages summed",
            "stages": ["pretrain"],
            "changes": {"pretrain": {"recipe": {"objective": {"stage_reduction": "sum"}}}},
        },
    },
    "tables": [
        {
            "title": "supervision",
            "variants": ["A", "B", "D"],
            "measures": [{"title": "CIDEr", "stage": "caption", "score": "cider", "unit": ""}],
            "rising": True,
        }
    ],
}


@pytest.fixture
def spec(tmp_path):
    def write(**changes):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump({**TREE, "storage": str(tmp_path / "runs"), **changes}))
        return path

    return write


@pytest.fixture
def units(spec, tmp_path):
    return ablation_units(load_ablation(spec()), "small-1", tmp_path / "runs" / "ablations")


def test_what_variants_share_is_run_once(units):
    through = [(unit.stage, unit.variants, unit.seed) for unit in units]
    one_seed = [
        ("pretrain", ("A",)),
        ("pretrain", ("B", "D")),
        ("pretrain", ("sum",)),
        ("caption", ("A",)),
        ("caption", ("B",)),
        ("caption", ("D",)),
    ]
    assert through == [(*each, seed) for seed in (3, 5) for each in one_seed]
    assert len({unit.name for unit in units}) == len(units)


def test_a_stage_starts_from_its_own_variants_run(units, tmp_path):
    by_name = {unit.name: unit for unit in units}
    for unit in units:
        assert unit.job.seed == unit.job.data.seed == unit.seed
        if unit.stage == "caption":
            before = by_name[unit.after]
            assert before.seed == unit.seed
            assert set(unit.variants) <= set(before.variants)
            run = tmp_path / "runs" / "ablations" / f"small-1-{before.name}"
            assert unit.job.init_from.source == str(run)


def test_changes_reach_the_jobs(units):
    jobs = {(unit.stage, variant): unit.job for unit in units for variant in unit.variants}
    assert jobs["pretrain", "A"].recipe.objective.concept_weight == 0
    assert jobs["pretrain", "D"].recipe.objective.concept_weight == 1
    assert jobs["caption", "B"].recipe.caption.token == "mask"
    assert jobs["caption", "D"].recipe.caption.token == "semantic"
    assert jobs["pretrain", "sum"].optimizer.lr == 0.5


def test_names_do_not_depend_on_the_other_seeds_or_variants(spec, tmp_path, units):
    fewer = {name: TREE["variants"][name] for name in ("A", "B", "D")}
    config = load_ablation(spec(variants=fewer), ["seeds=[5]"])
    some = ablation_units(config, "small-1", tmp_path / "runs" / "ablations")
    assert {unit.name for unit in some} < {unit.name for unit in units}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 1]}, "one seed twice"),
        ({"variants": {"A": {"about": "a", "changes": {"pretrian": {}}}}}, "'pretrian'"),
        ({"stages": [{"name": "a", "after": "b"}]}, "no earlier stage"),
        ({"variants": {"A": {"about": "a", "stages": ["caption"]}}}, "names 'pretrain'"),
        ({"sedes": [1]}, "did you mean 'seeds'"),
    ],
)
def test_mistakes_are_named(spec, changes, message):
    with pytest.raises(ValueError, match=message):
        load_ablation(spec(**changes))


def test_a_wrong_key_names_its_variant_and_stage(spec, tmp_path):
    wrong = {"A": {"about": "a", "changes": {"caption": {"recipe": {"tran": "all"}}}}}
    config = load_ablation(spec(variants=wrong, tables=[{**TREE["tables"][0], "variants": ["A"]}]))
    with pytest.raises(ValueError, match=r"variant 'A', stage 'caption': .*recipe\.tran"):
        ablation_units(config, "small-1", tmp_path)


CIDER = Measure(title="CIDEr", stage="caption", score="cider", unit="")
TOP1 = Measure(title="top-1", stage="pretrain", score="concept_top1")


def test_a_mean_has_its_spread_and_tells_of_missing_seeds():
    assert mean_and_spread([0.4, 0.5], TOP1) == "45.0 ± 7.1 %"
    assert mean_and_spread([0.4, None], TOP1) == "40.0 % (1 of 2 seeds)"
    assert mean_and_spread([1.25], CIDER) == "125.0"
    assert mean_and_spread([None], CIDER) == "-"


def test_a_verdict_compares_seed_by_seed():
    values = {"A": [1.0, 3.0], "B": [2.0, 4.0], "D": [2.5, 1.0]}
    table = AblationTable(title="t", variants=("A", "B", "D"), measures=(CIDER,), rising=True)
    assert verdicts(table, lambda variant, measure: values[variant]) == [
        "CIDEr: A to B: rises, 2 of 2 seeds (+100.0, +100.0)",
        "CIDEr: B to D: is undecided, 1 of 2 seeds (+50.0, -300.0)",
    ]
    still = table.model_copy(update={"rising": False})
    assert verdicts(still, lambda variant, measure: values[variant]) == []


def test_tables_read_the_reports_of_the_runs(units, spec, tmp_path):
    config = load_ablation(spec())
    parent = RunDirectory(Path(config.storage) / config.project / "small-1")
    for number, unit in enumerate(units):
        if unit.stage == "caption" and unit.variants != ("D",):
            report = parent.path.with_name(f"small-1-{unit.name}") / "report" / "scores.json"
            report.parent.mkdir(parents=True)
            write_json(report, {"step": 4, "trained": {"cider": number / 100}})
    scores = scores_of(units, parent, config.seeds)
    text = markdown_table(config.tables[0], config.variants, scores)
    assert "| A | masks only | 6.0 ± 4.2 |" in text
    assert "| D | concepts | - |" in text
    assert "- CIDEr: A to B: rises, 2 of 2 seeds (+1.0, +1.0)" in text


ABLATIONS = Path(__file__).resolve().parents[2] / "ablations"


@pytest.mark.parametrize("path", sorted(ABLATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_ablation_that_ships_has_valid_jobs(path, tmp_path):
    config = load_ablation(path)
    assert config.name == path.stem
    units = ablation_units(config, "run", tmp_path)
    assert {unit.seed for unit in units} == set(config.seeds)


def test_the_papers_ablation_shares_what_it_can(tmp_path):
    config = load_ablation(ABLATIONS / "tap_tables_4_5.yaml", ["seeds=[0]"])
    units = ablation_units(config, "run", tmp_path)
    pretrained = [unit.variants for unit in units if unit.stage == "pretrain"]
    assert ("B", "D", "deep") in pretrained
    assert len(pretrained) == 7
    assert len(units) == 13


def test_rows_that_are_to_rise_are_runs_of_their_own(tmp_path):
    config = load_ablation(ABLATIONS / "tap_tables_4_5.yaml", ["seeds=[0]"])
    units = ablation_units(config, "run", tmp_path)
    runs = {(unit.stage, variant): unit.name for unit in units for variant in unit.variants}
    for table in config.tables:
        for measure in table.measures if table.rising else ():
            rows = [runs[measure.stage, variant] for variant in table.variants]
            assert len(set(rows)) == len(rows), (table.title, measure.title)


def test_a_bar_in_words_parts_no_cells(spec):
    config = load_ablation(spec())
    variants = {
        name: each.model_copy(update={"about": "a || b"}) for name, each in config.variants.items()
    }
    text = markdown_table(config.tables[0], variants, lambda variant, measure: [None])
    assert r"| A | a \|\| b | - |" in text
