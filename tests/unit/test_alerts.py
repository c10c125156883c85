"""Alerts of runs and sweeps, to a real HTTP server."""

import json
import time

import pytest
from chat_server import chat_server
from click.testing import CliRunner
from ledger_runs import BEGIN, append, event, make_run

from tap_platform.alerts import webhook as webhook_module
from tap_platform.alerts.message import Alert, payload
from tap_platform.alerts.run_alerts import FILE, alerted
from tap_platform.alerts.sweep_words import outcome
from tap_platform.alerts.watch import Memory, Used, Watch
from tap_platform.alerts.webhook import Webhook, WebhookError
from tap_platform.cli import tap
from tap_platform.config.alerts import AlertsConfig
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.events import EventLog, read_events
from tap_platform.runs.files import utc_now
from tap_platform.runs.status import RunStatus, update_status, write_status

VARIABLE = "TAP_ALERTS_WEBHOOK"
QUICK = {"interval": 0.01, "final_timeout": 5.0}


@pytest.fixture
def chat(monkeypatch):
    monkeypatch.setattr(webhook_module, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("no_proxy", "*")
    with chat_server() as chat:
        monkeypatch.setenv(VARIABLE, chat.url)
        yield chat


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.create(tmp_path, "tap", "run")
    write_status(run.status, RunStatus(state="running", max_steps=100))
    return run


def said(watch, *told):
    """What a watch says of events."""
    return [(kind, text) for each in told for kind, text, _ in watch.event(each)]


def watched(*told, **more):
    return said(Watch(Memory(), **more), *told)


def kinds(found):
    return [kind for kind, _ in found]


def training(second, workers=2, goes_on_from=None):
    return event(second, "training", workers=workers, goes_on_from=goes_on_from)


def test_a_run_without_trouble_says_nothing():
    told = [event(0, "started"), training(5), event(20, "checkpoint"), event(30, "finished")]
    assert watched(*told) == []
    assert kinds(watched(*told, is_sweep=True)) == ["sweep_done"]


def test_a_failure_and_the_attempt_after_it_are_told():
    found = watched(
        event(0, "started"),
        training(5),
        event(30, "failed", reason="out of memory"),
        event(40, "started"),
        training(50, goes_on_from="step-10"),
    )
    assert found == [
        ("failure", "out of memory"),
        ("recovery", "It goes on from step-10 on 2 workers: an attempt had failed."),
    ]


@pytest.mark.parametrize(
    ("between", "why"),
    [
        ([], "workers were lost"),
        ([event(6, "preempted")], "machines were taken back"),
        ([event(6, "started")], "its driver was lost"),
    ],
)
def test_losses_are_told_once_the_run_goes_on(between, why):
    found = watched(event(0, "started"), training(5), *between, training(9, 1, "step-4"))
    assert found == [("recovery", f"It goes on from step-4 on 1 workers: {why}.")]


def test_stops_and_resizes_are_no_trouble():
    resize = event(6, "asked_to_end", why="room for another number of workers")
    assert watched(event(0, "started"), training(5), resize, training(9, 4)) == []
    assert watched(event(0, "started"), training(5), training(9, 4)) == []
    stopped = [event(6, "asked_to_end", why="SIGTERM"), event(7, "interrupted")]
    assert watched(event(0, "started"), training(5), *stopped, event(9, "started")) == []


def test_a_hang_is_told_once_by_all_its_workers():
    hang = {"step": 7, "phase": "waiting for data"}
    found = watched(event(0, "started"), training(1), *(event(9, "hang", **hang) for _ in range(3)))
    assert kinds(found) == ["stall"]
    assert "step 7, waiting for data" in found[0][1]


def test_divergence_is_told():
    told = [
        event(0, "started"),
        training(1),
        event(5, "returned", step=8, to="step-4", samples=["a", "b"]),
        training(6, goes_on_from="step-4"),
        event(9, "diverged", step=9, samples=[]),
    ]
    found = watched(*told)
    assert kinds(found) == ["divergence", "divergence"]
    assert "back to step-4, without 2 samples" in found[0][1]


def test_a_run_that_ends_no_step_has_stalled_once_until_it_moves():
    watch = Watch(Memory())
    said(watch, event(0, "started"), training(10))

    def looks(step, second):
        found = watch.progress(step, 100, BEGIN + second, patience=60)
        return [text for _, text, _ in found]

    assert looks(0, 20) == []
    assert looks(5, 50) == []
    assert looks(5, 111) == ["Nothing has moved for 1 minutes, since step 5."]
    assert looks(5, 900) == []
    assert looks(6, 950) == []
    assert len(looks(6, 1011)) == 1


def test_a_start_stalls_and_an_evaluation_at_the_end_does_not():
    watch = Watch(Memory())
    said(watch, event(0, "started"))
    watch.progress(0, 100, BEGIN + 1, 60)
    assert "workers have not begun" in watch.progress(0, 100, BEGIN + 62, 60)[0][1]
    ended = Watch(Memory())
    said(ended, event(0, "started"), training(5))
    ended.progress(100, 100, BEGIN + 10, 60)
    assert ended.progress(100, 100, BEGIN + 900, 60) == []
    assert ended.progress(100, 200, BEGIN + 900, None) == []


def test_a_budget_is_told_at_its_share_and_at_its_end():
    watch = Watch(Memory())

    def looks(cost):
        used = {"cost": Used(cost, 100, "USD")}
        return [text for _, text, _ in watch.spending(used, 0.8, BEGIN)]

    assert looks(79) == []
    assert looks(81) == ["81.00 of 100.00 USD are used, 81% of the budget (cost)."]
    assert looks(99) == []
    assert len(looks(101)) == 1
    assert looks(150) == []
    assert len(Watch(Memory()).spending({"hours": Used(9, 1, "")}, 0.8, BEGIN)) == 1


def test_a_failure_reaches_the_chat_before_the_run_has_ended(chat, run):
    events = EventLog(run.events, 1)
    with alerted(run, AlertsConfig(**QUICK)):
        events.record("started")
        events.record("failed", reason="worker 3 <died> & left")
    (message,) = chat.messages
    assert message["text"] == "Failed: run: worker 3 &lt;died&gt; &amp; left"
    shown = json.dumps(message["blocks"])
    assert "*Failed: run*" in shown
    assert str(run.path) in shown


def test_what_was_told_is_not_told_again_by_the_next_driver(chat, run):
    for attempt in (1, 2):
        with alerted(run, AlertsConfig(**QUICK)):
            EventLog(run.events, attempt).record("started")
            EventLog(run.events, attempt).record("failed", reason=f"attempt {attempt}")
    assert [text.rpartition(": ")[2] for text in chat.texts()] == ["attempt 1", "attempt 2"]


def test_what_happened_before_alerts_were_asked_for_is_passed_over(chat, run):
    EventLog(run.events, 1).record("failed", reason="long ago")
    with alerted(run, AlertsConfig(**QUICK)):
        pass
    assert chat.texts() == []


def test_alerts_that_are_not_wanted_are_not_sent(chat, run):
    with alerted(run, AlertsConfig(**QUICK, on=("stall",))):
        EventLog(run.events, 1).record("failed", reason="quiet")
    assert chat.texts() == []


def test_a_budget_is_counted_from_the_run_directory(chat, run):
    config = AlertsConfig(**QUICK, budget={"cost": 40.0, "gpu_hours": 9.0})
    began = {"price_per_hour": 36.0, "currency": "EUR"}
    stamp = {**event(0, "started", **began), "time": utc_now().replace("2026", "2025", 1)}
    append(run.events, stamp)
    with alerted(run, config):
        chat.wait_for(1)
        append(run.events, event(0, "interrupted"))
    (text,) = chat.texts()
    assert text.startswith("Budget: run: ")
    assert "of 40.00 EUR are used" in text


def test_a_stall_is_seen_in_the_status(chat, run):
    with alerted(run, AlertsConfig(**QUICK, stall_minutes=0.001)):
        EventLog(run.events, 1).record("started")
        assert "Stalled: run: Nothing has moved" in chat.wait_for(1)[0]
        update_status(run.status, state="finished")


def test_a_sweep_tells_its_end_and_its_own_budget(chat, tmp_path):
    sweep = make_run(tmp_path / "tap", "search", project="sweeps", state="running")
    used = {"trials": Used(9, 10, "")}
    with alerted(sweep, AlertsConfig(**QUICK), is_sweep=True, spent=lambda: used):
        EventLog(sweep.events, 1).record("started")
        EventLog(sweep.events, 1).record("finished", reason="the best of 9 trials has 0.71")
    done, budget = sorted(chat.texts(), reverse=True)
    assert done == "Sweep done: search: the best of 9 trials has 0.71"
    assert budget == "Budget: search: 9.00 of 10.00 trials are used, 90% of the budget (trials)."
    assert '"text": "tap ' in json.dumps(chat.messages, ensure_ascii=False)


def test_a_sweep_tells_what_came_out(tmp_path):
    assert outcome(tmp_path) == ""
    spec = {"objective": {"metric": "val/loss", "mode": "min"}}
    (tmp_path / "sweep.json").write_text(json.dumps(spec))
    assert outcome(tmp_path) == "0 trials."
    for trial, state, objective in (
        ("t0", "running", 0.1),
        ("t0", "finished", 0.5),
        ("t1", "stopped", 0.4),
        ("t2", "failed", None),
    ):
        told = {"trial": trial, "run": f"run-{trial}", "state": state, "step": 9}
        append(tmp_path / "trials.jsonl", {**told, "objective": objective})
    assert outcome(tmp_path) == (
        "3 trials: 1 finished, 1 stopped, 1 failed. Best: run-t1, val/loss 0.4 at step 9."
    )


@pytest.mark.parametrize("fault", [500, 503, 429, "drop"])
def test_a_message_is_sent_again(chat, run, fault):
    chat.faults = [fault, fault]
    with alerted(run, AlertsConfig(**QUICK)):
        EventLog(run.events, 1).record("failed", reason="once")
    assert chat.texts() == ["Failed: run: once"]
    assert chat.posts == 3
    assert read_events(run.events, "alerts_failed") == []


def test_an_outage_is_an_event_and_what_waited_is_sent_by_the_next_driver(chat, run):
    chat.faults = [404] * 10
    with alerted(run, AlertsConfig(**QUICK)):
        EventLog(run.events, 1).record("failed", reason="waits")
        time.sleep(0.1)
    assert chat.texts() == []
    (failed,) = read_events(run.events, "alerts_failed")
    assert failed["error"] == f"the webhook of {VARIABLE} answers 404 Not Found"
    assert len(read_events(run.events, "alerts_behind")) == 1
    chat.faults = []
    with alerted(run, AlertsConfig(**QUICK)):
        pass
    assert chat.texts() == ["Failed: run: waits"]


def test_a_message_that_is_refused_for_what_it_says_holds_no_other_back(chat, run):
    chat.faults = [400]
    with alerted(run, AlertsConfig(**QUICK)):
        EventLog(run.events, 1).record("failed", reason="not taken")
        EventLog(run.events, 1).record("failed", reason="taken")
        chat.wait_for(1)
    assert chat.texts() == ["Failed: run: taken"]
    (failed,) = read_events(run.events, "alerts_failed")
    assert "answers 400" in failed["error"]


def test_an_address_that_has_moved_is_not_taken_for_one_that_listens(chat, run):
    chat.faults = [302]
    with pytest.raises(WebhookError, match="answers 302 Found"):
        Webhook("HOOK", chat.url).post({"text": "hello"}, time.sleep)
    assert chat.posts == 1


def test_a_chat_that_hangs_holds_nothing_up(chat, run):
    chat.faults = ["hang"] * 10
    began = time.monotonic()
    with alerted(run, AlertsConfig(interval=0.01, final_timeout=0.2)):
        EventLog(run.events, 1).record("failed", reason="slow")
        time.sleep(0.1)
        assert time.monotonic() - began < 1
    assert time.monotonic() - began < 3
    assert len(read_events(run.events, "alerts_behind")) == 1


def test_the_address_is_written_nowhere(chat, run):
    chat.faults = [500] * 20
    with alerted(run, AlertsConfig(**QUICK)):
        EventLog(run.events, 1).record("failed", reason="who")
        time.sleep(0.1)
    assert (run.path / FILE).is_file()
    for path in run.path.rglob("*"):
        assert not path.is_file() or b"secret-part" not in path.read_bytes()


def test_without_an_address_nothing_is_done(run, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with alerted(run, AlertsConfig(**QUICK)):
        EventLog(run.events, 1).record("failed", reason="nobody hears")
    assert not (run.path / FILE).exists()


def test_a_wrong_address_stops_no_run_and_is_not_shown(run, monkeypatch):
    monkeypatch.setenv(VARIABLE, "hooks.example.com/secret-part")
    with alerted(run, AlertsConfig(**QUICK)):
        pass
    (failed,) = read_events(run.events, "alerts_failed")
    assert failed["error"].startswith(f"the variable {VARIABLE} holds no address of a webhook")
    assert "secret-part" not in failed["error"]


def test_an_address_in_a_config_is_refused():
    with pytest.raises(ValueError, match="webhook_from"):
        AlertsConfig(webhook_from="https://hooks.slack.com/services/T0/B0/x")


def test_nobody_is_there(monkeypatch):
    monkeypatch.setattr(webhook_module, "FIRST_PAUSE_SECONDS", 0)
    with chat_server() as chat:
        url = chat.url
    pauses = []
    with pytest.raises(WebhookError, match=r"is not reached \(ConnectionRefusedError\)"):
        Webhook("HOOK", url).post({}, pauses.append)
    assert len(pauses) == 2


def test_a_chat_says_how_long_to_wait(chat):
    chat.faults, chat.retry_after = [429], 7
    pauses = []
    Webhook("HOOK", chat.url).post({"text": "hello"}, pauses.append)
    assert pauses == [7]


@pytest.mark.parametrize("sign", ["x", "&", "<!channel>"])
def test_long_texts_are_cut(sign):
    alert = Alert(kind="failure", run="r", project="p", text=sign * 9000, time=utc_now())
    told = payload(alert)
    assert len(told["blocks"][0]["text"]["text"]) < 3000  # Slack's limit
    assert "<!channel" not in told["text"]
    assert not told["text"].endswith(("&", "&a", "&am", "&amp", "&l", "&lt"))


@pytest.mark.parametrize("address", ["hooks", "https://", "ftp://x/y", "https://a b", "http://ä/"])
def test_what_is_no_address_is_refused_and_not_shown(address):
    with pytest.raises(ValueError, match="holds no address") as refused:
        Webhook("HOOK", address)
    assert address not in str(refused.value).replace("https://", "", 1) or address == "https://"


def test_the_verb_sends_a_trial(chat, monkeypatch):
    assert CliRunner().invoke(tap, ["alert"]).output == "sent\n"
    assert "This is a trial" in chat.texts()[0]
    chat.faults = [403]
    refused = CliRunner().invoke(tap, ["alert"])
    assert str(refused.exception) == f"the webhook of {VARIABLE} answers 403 Forbidden"
    monkeypatch.delenv(VARIABLE)
    assert "is not set" in str(CliRunner().invoke(tap, ["alert"]).exception)
