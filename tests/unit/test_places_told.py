"""What a place tells a run for its bill, and what the run directory keeps of it."""

import pytest
import yaml

from tap_platform.config.load import validate_job
from tap_platform.config.profile import LocalProfile, RayProfile
from tap_platform.launch.attempt import recorded
from tap_platform.launch.worker_entry import tell_start
from tap_platform.places.place import Submission
from tap_platform.places.ray_jobs.place import RayJobsPlace
from tap_platform.places.told import bill_variables
from tap_platform.runs import prices, provenance
from tap_platform.runs.accounting import account_of
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog
from tap_platform.runs.files import write_json

HERE = {"name": "here", "cpus": 8, "memory": "64Gi", "price_per_hour": 2.0}


@pytest.fixture
def job(tmp_path):
    tree = {
        "name": "small",
        "storage": str(tmp_path),
        "model": {"preset": "tiny"},
        "data": {"source": "shards", "path": "data", "partitions": 4},
        "training": {"max_steps": 4, "global_batch": 4},
        "tracking": {"tags": {"team": "vision"}},
    }
    return validate_job(tree, where="small")


@pytest.fixture
def submission(job):
    return Submission("r1", "tap", "train", ("tap", "train"), {}, job, None, "ann@desk")


def test_a_profile_with_prices_tells_them(submission):
    profile = LocalProfile(groups=[HERE], currency="EUR")
    told = bill_variables(submission, profile)
    assert told[prices.OWNER] == "ann@desk"
    assert told[prices.CURRENCY] == "EUR"
    assert 0 < float(told[prices.PRICE]) <= 2


def test_without_prices_the_owner_is_told_alone(submission):
    free = LocalProfile(groups=[{**HERE, "price_per_hour": 0}])
    assert bill_variables(submission, free) == {prices.OWNER: "ann@desk"}
    assert bill_variables(submission, None) == {prices.OWNER: "ann@desk"}


def test_a_ray_cluster_is_told(submission):
    profile = RayProfile(place="ray", address="http://head:8265", groups=[HERE])
    shown = yaml.safe_load(RayJobsPlace("lab", profile.address, profile).render(submission))
    variables = shown["runtime_env"]["env_vars"]
    assert variables.items() >= bill_variables(submission, profile).items()


def test_the_run_directory_keeps_who_and_how_much(job, monkeypatch):
    monkeypatch.setenv(prices.OWNER, "ann@desk")
    monkeypatch.setenv(prices.PRICE, "36")
    monkeypatch.setenv(prices.CURRENCY, "EUR")
    run = RunDirectory.create(job.storage, "tap", "r1")
    write_json(run.config, job.model_dump(mode="json"))
    write_json(run.provenance, provenance.collect().to_json())
    with recorded(run, job, 1):
        tell_start(run, EventLog(run.events, 1, rank=0), 2, None, gpus=2)
    account = account_of(run)
    assert (account.owner, account.team, account.currency) == ("ann@desk", "vision", "EUR")
    assert account.machines[0].price_per_hour == 36
    assert account.shifts[0].gpus == 2


@pytest.mark.parametrize("price", ["", "free", "-1", "nan", "inf"])
def test_what_is_no_price_is_none(monkeypatch, price):
    monkeypatch.setenv(prices.PRICE, price)
    assert prices.price_per_hour() is None
    assert prices.price_told() == {}


def test_whoever_runs_the_driver_owns_a_run_that_nobody_submitted(monkeypatch):
    monkeypatch.delenv(prices.OWNER, raising=False)
    assert "@" in prices.owner()
    assert provenance.collect().owner == prices.owner()
