"""Checkpoints as versions of models in MLflow's registry, on real stores."""

from __future__ import annotations

import importlib
import math
import shlex
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tracking_servers import mlflow_application, serving

from tap_platform.config.load import load_job
from tap_platform.registry.evaluations import score_of
from tap_platform.registry.promote import Gate, promote
from tap_platform.registry.register import register
from tap_platform.registry.versions import registry_at
from tap_platform.runs import checkpoints, provenance
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.files import write_json
from tap_platform.runs.metrics import MetricsWriter
from tap_platform.runs.status import update_status

promotion = importlib.import_module("tap_platform.registry.promote")
JOB = Path(__file__).resolve().parents[2] / "jobs/tap_tiny_scenes.yaml"


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """One storage for all tests: making MLflow's tables takes seconds."""
    return tmp_path_factory.mktemp("runs")


def make_run(storage, name, score=None, *overrides, steps=(6, 12), data="a", finished=True):
    run = RunDirectory.create(storage, "scenes", name)
    write_json(run.config, load_job(JOB, overrides).model_dump(mode="json"))
    write_json(run.provenance, provenance.collect(data={"/scenes": data}).to_json())
    update_status(run.status, state="running", attempt=run.begin_attempt())
    for step in steps:
        folder = checkpoints.prepare(run.checkpoints, step)
        (folder / "model.safetensors").write_bytes(f"{name} {step}".encode())
        checkpoints.commit(folder)
    MetricsWriter(run.metrics, 1).write(12, {"loss": 1.0})
    if score is not None:
        MetricsWriter(run.metrics, 1).write(12, {"box_iou": score, "regions": 9}, kind="final")
    if finished:
        update_status(run.status, state="finished")
    return run


def client_of(storage):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")


def champion(storage, model):
    return str(client_of(storage).get_registered_model(model).aliases.get("champion"))


def registered(storage, run, model):
    version, _ = register(str(run.path), model, storage=str(storage))
    return version


def promoted(storage, model, number, gate=None, why=None):
    return promote(model, number, "champion", gate or Gate(), why, storage=str(storage))


def test_a_checkpoint_becomes_a_version_and_the_candidate(storage):
    run = make_run(storage, "first", 0.5)
    version, is_new = register("first", "tap", storage=str(storage))
    assert (is_new, version.number, version.aliases, version.step) == (
        True,
        "1",
        ("candidate",),
        12,
    )
    assert (storage / "scenes" / "first" / "checkpoints" / "step-12").samefile(version.checkpoint)
    mark = (run.checkpoints / "step-12" / "COMMITTED").read_text()
    found = client_of(storage).get_model_version("tap", "1")
    assert found.tags["tap.checkpoint.sha256"] == mark
    assert found.source == (run.checkpoints / "step-12").as_uri()
    tracked = client_of(storage).get_run(found.run_id)
    assert tracked.data.tags["tap.run"] == "first"
    (event,) = read_events(run.events, "registered")
    assert (event["model"], event["version"], event["sha256"]) == ("tap", "1", mark)

    again, is_new = register("first", "tap", storage=str(storage))
    assert (is_new, again.number) == (False, "1")
    other, _ = register("first", "tap", step=6, storage=str(storage))
    assert (other.number, other.aliases) == ("2", ("candidate",))
    assert len(read_events(run.events, "registered")) == 2


def test_the_best_measured_is_champion(storage):
    runs = [make_run(storage, f"gate-{i}", score) for i, score in enumerate((0.5, 0.4, 0.6))]
    for run in runs:
        registered(storage, run, "gated")
    verdict = promoted(storage, "gated", "1")
    assert (verdict.before, verdict.score.value) == (None, 0.5)
    with pytest.raises(ValueError, match=r"its final/box_iou is 0\.4, and that of version 1 0\.5"):
        promoted(storage, "gated", "2")
    assert champion(storage, "gated") == "1"
    assert promoted(storage, "gated", "2", Gate(tolerance=0.1)).before.number == "1"
    promoted(storage, "gated", "candidate")
    assert champion(storage, "gated") == "3"
    version = client_of(storage).get_model_version("gated", "3")
    assert version.tags["champion.value"] == "0.6"
    assert (version.tags["champion.before"], version.tags["champion.before_value"]) == ("2", "0.4")
    assert "champion.until" in client_of(storage).get_model_version("gated", "2").tags
    assert "candidate" not in client_of(storage).get_registered_model("gated").aliases
    (event,) = read_events(runs[2].events, "promoted")
    assert (event["measure"], event["value"], event["before"]) == ("final/box_iou", 0.6, "2")
    with pytest.raises(ValueError, match="is champion already"):
        promoted(storage, "gated", "3")


def test_a_gate_may_ask_for_a_least_value_or_for_low_ones(storage):
    first, second = (make_run(storage, f"low-{i}", score) for i, score in enumerate((0.5, 0.6)))
    for run in (first, second):
        registered(storage, run, "low")
    with pytest.raises(ValueError, match=r"its final/box_iou is 0\.5, .* 0\.7 is asked"):
        promoted(storage, "low", "1", Gate(at_least=0.7))
    promoted(storage, "low", "1", Gate(lower_is_better=True, at_least=0.7))
    with pytest.raises(ValueError, match="may be missing"):
        promoted(storage, "low", "2", Gate(lower_is_better=True))


def test_what_was_not_measured_is_refused_with_the_command_that_measures_it(storage):
    run = make_run(storage, "unmeasured")
    registered(storage, run, "unknown")
    told = f"make it: tap eval {shlex.quote(str(run.path))} --suite instances --out "
    with pytest.raises(ValueError, match=told):
        promoted(storage, "unknown", "1", Gate("instances", "ap"))
    with pytest.raises(ValueError, match="its run made no final table; tap eval"):
        promoted(storage, "unknown", "1")
    MetricsWriter(run.metrics, 1).write(12, {"ap": 0.3, "ap50": 0.5}, kind="eval_instances")
    with pytest.raises(ValueError, match="has no 'map': there are ap, ap50"):
        promoted(storage, "unknown", "1", Gate("instances", "map"))
    assert promoted(storage, "unknown", "1", Gate("instances", "ap")).score.value == 0.3


def test_what_cannot_be_measured_any_more_is_told(storage):
    run = make_run(storage, "earlier")
    register(str(run.path), "earlier", step=6, storage=str(storage))
    with pytest.raises(ValueError, match=r"newest checkpoint, which is now that of step 12"):
        promoted(storage, "earlier", "1", Gate("instances", "ap"))


def test_two_measures_on_different_data_are_not_compared(storage):
    for number, folder in enumerate(("coco", "scenes"), start=1):
        run = make_run(storage, f"data-{number}")
        MetricsWriter(run.metrics, 1).write(12, {"ap": 0.1 * number}, kind="eval_instances")
        told = {"suite": "instances", "protocol": "true boxes", "data": folder}
        EventLog(run.events, attempt=1).record("evaluated", **told)
        registered(storage, run, "compared")
    promoted(storage, "compared", "1", Gate("instances", "ap"))
    with pytest.raises(
        ValueError, match=r"different data \(true boxes, scenes; true boxes, coco\)"
    ):
        promoted(storage, "compared", "2", Gate("instances", "ap"))


def test_somebody_may_answer_for_it(storage):
    good, bad = (make_run(storage, f"forced-{i}", score) for i, score in enumerate((0.5, 0.1)))
    for run in (good, bad):
        registered(storage, run, "forced")
    promoted(storage, "forced", "1")
    verdict = promoted(storage, "forced", "2", why="the demo needs its captions")
    assert "0.1" in verdict.objections[0]
    assert champion(storage, "forced") == "2"
    version = client_of(storage).get_model_version("forced", "2")
    assert version.tags["champion.why"] == "the demo needs its captions"
    (event,) = read_events(bad.events, "promoted")
    assert event["objections"] == list(verdict.objections)


def test_a_gate_that_asks_nothing_is_none():
    for bounds in ({"tolerance": math.nan}, {"tolerance": math.inf}, {"at_least": math.nan}):
        with pytest.raises(ValueError, match="give a number"):
            Gate(**bounds)


def test_who_is_no_checkpoint_of_ours_is_not_passed_over(storage):
    run = make_run(storage, "follower", 0.5)
    registered(storage, run, "inherited")
    client = client_of(storage)
    foreign = client.create_model_version("inherited", run.path.as_uri())
    client.set_registered_model_alias("inherited", "champion", foreign.version)
    with pytest.raises(ValueError, match="version 2, which it follows, is no checkpoint"):
        promoted(storage, "inherited", "1")
    assert promoted(storage, "inherited", "1", why="it was a trial").before is None


def test_a_version_that_is_champion_again_tells_of_this_time_alone(storage):
    for number, score in enumerate((0.5, 0.6)):
        registered(storage, make_run(storage, f"again-{number}", score), "again")
    promoted(storage, "again", "1", Gate(at_least=0.7), why="in a hurry")
    promoted(storage, "again", "2")
    promoted(storage, "again", "1", Gate(tolerance=0.2))
    tags = client_of(storage).get_model_version("again", "1").tags
    assert tags["champion.before"] == "2"
    assert not {"champion.why", "champion.until", "champion.at_least"} & tags.keys()


def test_two_promotions_at_once_are_judged_one_after_the_other(storage, monkeypatch):
    for number, score in enumerate((0.5, 0.6, 0.7)):
        registered(storage, make_run(storage, f"race-{number}", score), "race")
    promoted(storage, "race", "1")
    told = threading.Event()

    def slowly(*args):
        told.set()
        time.sleep(0.5)
        return score_of(*args)

    monkeypatch.setattr(promotion, "score_of", slowly)
    with ThreadPoolExecutor(2) as pool:
        best = pool.submit(promoted, storage, "race", "3")
        assert told.wait(20)
        second = pool.submit(promoted, storage, "race", "2")
        assert best.result().before.number == "1"
        with pytest.raises(ValueError, match=r"that of version 3 0\.7"):
            second.result()
    assert champion(storage, "race") == "3"


def test_a_checkpoint_that_is_gone_or_another_is_no_champion(storage):
    run = make_run(storage, "rotten", 0.5)
    registered(storage, run, "rotten")
    registered(storage, make_run(storage, "sound", 0.6), "rotten")
    folder = checkpoints.prepare(run.checkpoints, 12)
    (folder / "model.safetensors").write_bytes(b"another")
    checkpoints.commit(folder)
    with pytest.raises(ValueError, match="holds another checkpoint than was registered"):
        promoted(storage, "rotten", "1", why="whatever")
    (run.checkpoints / "step-12" / "COMMITTED").unlink()
    with pytest.raises(ValueError, match="gone or broken"):
        promoted(storage, "rotten", "1")


def test_only_sound_checkpoints_of_runs_that_ended_are_registered(storage):
    make_run(storage, "going", finished=False)
    with pytest.raises(ValueError, match="going is running: its checkpoints come and go"):
        register("going", "tap", storage=str(storage))
    run = make_run(storage, "cut")
    with pytest.raises(ValueError, match="no checkpoint of step 7: there are 6, 12"):
        register("cut", "tap", step=7, storage=str(storage))
    (run.checkpoints / "step-12" / "model.safetensors").write_bytes(b"cut 13")
    with pytest.raises(ValueError, match="the checkpoint of step 12 is broken"):
        register("cut", "tap", storage=str(storage))
    make_run(storage, "empty", steps=())
    with pytest.raises(ValueError, match="empty has no checkpoint"):
        register("empty", "tap", storage=str(storage))


def test_a_directory_that_is_gone_is_judged_by_what_mlflow_holds(storage):

    old, new = (make_run(storage, f"kept-{i}", score) for i, score in enumerate((0.5, 0.4)))
    for run in (old, new):
        registered(storage, run, "kept")
    promoted(storage, "kept", "1")
    shutil.rmtree(old.path)
    with pytest.raises(ValueError, match=r"that of version 1 0\.5"):
        promoted(storage, "kept", "2")


def test_verbs(storage, tap):
    run = make_run(storage, "spoken", 0.5, "name=spoken")
    place = ("--storage", str(storage))
    status, out, _ = tap("registry", "register", "spoken", *place)
    assert (status, out.splitlines()[0]) == (
        0,
        "spoken version 1 (spoken, step 12) is registered, and the candidate",
    )
    assert tap("registry", "promote", "spoken", "1", "--force", *place)[0] == 2
    status, out, _ = tap("registry", "promote", "spoken", "candidate", "--at-least", "0.4", *place)
    assert status == 0
    assert out.splitlines()[0] == "final/box_iou 0.5"
    status, out, _ = tap("registry", "list", "spoken", *place)
    assert status == 0
    assert "champion" in out
    assert tap("registry", "list", "nothing", *place)[2].startswith("tap: there is no model")
    status, _, errors = tap("registry", "promote", "spoken", "9", *place)
    assert (status, "spoken has no version '9': there are 1 champion" in errors) == (2, True)
    assert run.path.is_dir()


def test_a_server_keeps_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("FILE_STORE", "ARTIFACT_ROOT", "ARTIFACT_DESTINATION", "SERVE_ARTIFACTS"):
        monkeypatch.setenv(f"_MLFLOW_SERVER_{name}", "")
    application = mlflow_application(tmp_path)
    with serving(application) as url:
        uri = f"tracking.mlflow.uri={url}"
        run = make_run(tmp_path, "served", 0.5, uri)
        version, _ = register(str(run.path), "served")
        verdict = promote("served", "1", "champion", Gate(), store=url, storage=str(tmp_path))
        with registry_at(url, tmp_path) as registry:
            found = registry.client.get_model_version_by_alias("served", "champion")
            listed = registry.client.list_artifacts(found.run_id, "checkpoints/step-12")
        untracked = make_run(tmp_path, "untracked", 0.5, uri, "tracking.tracker=none")
        with pytest.raises(ValueError, match="takes no checkpoint at a path"):
            register(str(untracked.path), "served", store=url)
    assert (version.number, verdict.score.value) == ("1", 0.5)
    assert found.source == f"runs:/{found.run_id}/checkpoints/step-12"
    assert found.tags["tap.checkpoint"] == str(run.checkpoints / "step-12")
    assert [file.path for file in listed] == ["checkpoints/step-12/manifest.json"]
    with pytest.raises(ValueError, match=f"{url} does not answer"):
        promote("served", "1", "champion", Gate(), store=url, storage=str(tmp_path))
