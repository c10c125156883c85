"""The dashboard's servers: who may see what, and what is new."""

import base64
import http.client
import signal
import threading
import time
from contextlib import contextmanager
from io import StringIO

import pytest
import uvicorn
from click.testing import CliRunner
from dashboard_storage import EVIL, make_storage
from ledger_runs import make_run, priced_run
from rich.console import Console
from tracking_servers import free_port

from tap_platform.cli import tap
from tap_platform.dashboard import run_dashboard, site
from tap_platform.dashboard.access import PASSWORD, password_for
from tap_platform.dashboard.mlflow_server import MlflowServer
from tap_platform.dashboard.server import application, end_as_by_ctrl_c, listen
from tap_platform.dashboard.site import Site

SECRET = "correct horse battery"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def storage(tmp_path):
    return make_storage(tmp_path / "runs")


@contextmanager
def serving(app):
    """A function that asks the pages, while the block lasts."""
    at = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
    thread.start()

    def ask(path, **headers):
        line = http.client.HTTPConnection("127.0.0.1", at.getsockname()[1], timeout=20)
        line.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = line.getresponse()
        return answer.status, answer.headers, answer.read().decode(errors="replace")

    try:
        yield ask
    finally:
        server.should_exit = True
        thread.join()
        at.close()


def basic(user, password):
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def test_pages_are_served_with_no_way_out_of_them(storage):
    with serving(application(Site([str(storage)]), None)) as ask:
        status, headers, text = ask("/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "script-src 'self';" in headers["content-security-policy"]
        assert "Runs and sweeps" in text
        assert ask("/sweeps/tap--search.html")[0] == 200
        for path in ("/nothing", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/mlflow"):
            assert ask(path)[0] == 404


def test_other_names_of_this_computer_are_refused(storage):
    with serving(application(Site([str(storage)]), None)) as ask:
        assert ask("/", Host="evil.example")[0] == 400
        assert ask("/", Host="localhost:8800")[0] == 200


def test_every_address_of_this_computer_is_a_name_of_it(storage):
    with serving(application(Site([str(storage)]), None, 5000, "127.0.0.2")) as ask:
        assert ask("/", Host="127.0.0.2:8800")[0] == 200
        assert ask("/", Host="127.0.0.3:8800")[0] == 400
        assert ask("/mlflow", Host="127.0.0.2:8800")[1]["location"] == "http://127.0.0.2:5000/"
        assert ask("/mlflow", Host="[::1]:8800")[1]["location"] == "http://[::1]:5000/"
    server = MlflowServer(storage, "::1", 5000, None)
    server.stop()
    assert server.url == "http://[::1]:5000"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_closed_terminal_ends_it_as_ctrl_c_does(number):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(number, signal.SIG_DFL)  # `nohup` has it ignored
        end_as_by_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_password_is_asked_for(storage):
    with serving(application(Site([str(storage)]), SECRET)) as ask:
        status, headers, text = ask("/")
        assert status == 401
        assert headers["www-authenticate"].startswith("Basic")
        assert "search" not in text
        for told in (basic("admin", "wrong"), basic("eve", SECRET), "Basic %%%", "Bearer x"):
            assert ask("/version", Authorization=told)[0] == 401
        assert ask("/", Authorization=basic("admin", SECRET), Host="tap.example")[0] == 200


def test_a_page_that_a_run_made_runs_no_script(storage):
    run = make_run(storage, "author")
    (run.report / "index.html").write_text(EVIL)
    with serving(application(Site([str(storage)]), None)) as ask:
        status, headers, text = ask("/reports/tap--author.html")
        assert (status, text) == (200, EVIL)
        assert headers["content-security-policy"].endswith("sandbox")
        assert "script-src" not in headers["content-security-policy"]


def test_what_is_new_is_shown_to_whoever_asks_again(storage, monkeypatch):
    monkeypatch.setattr(site, "FRESH_SECONDS", 0.0)
    with serving(application(Site([str(storage)]), None)) as ask:
        before = ask("/version")[2]
        priced_run(storage, "newcomer")
        until = time.monotonic() + 20
        while ask("/version")[2] == before and time.monotonic() < until:
            time.sleep(0.05)
        assert "newcomer" in ask("/")[2]


def test_a_storage_that_goes_away_leaves_the_pages_up(storage, monkeypatch):
    monkeypatch.setattr(site, "FRESH_SECONDS", 0.0)
    shown = Site([str(storage)])
    storage.rename(storage.with_name("elsewhere"))
    shown.freshen().join()
    assert "there is no folder" in shown.fault
    assert b"search" in shown.pages.content("index.html").body


def test_others_are_let_in_with_a_password_alone(monkeypatch):
    monkeypatch.delenv(PASSWORD, raising=False)
    assert password_for("127.0.0.1", auth=False) is None
    assert password_for("localhost", auth=False) is None
    assert password_for("::1", auth=False) is None
    for host in ("0.0.0.0", "::", "10.1.2.3", "tap.example"):
        with pytest.raises(ValueError, match="add --auth"):
            password_for(host, auth=False)
    with pytest.raises(ValueError, match=f"{PASSWORD}, which is not set"):
        password_for("0.0.0.0", auth=True)
    monkeypatch.setenv(PASSWORD, "short")
    with pytest.raises(ValueError, match="has 5 characters"):
        password_for("127.0.0.1", auth=True)
    monkeypatch.setenv(PASSWORD, SECRET)
    assert password_for("0.0.0.0", auth=True) == SECRET


def test_a_port_that_is_taken_is_told(storage):
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        called = CliRunner().invoke(tap, ["dashboard", str(storage), "--port", port])
    assert "choose another --port" in str(called.exception)


def run_for_a_moment(storage, monkeypatch, **more):
    """What is printed by a dashboard that ends at once."""
    monkeypatch.setattr(run_dashboard, "serve", lambda app, at: None)
    printed = StringIO()
    told = {"host": "127.0.0.1", "port": 0, "mlflow_port": free_port(), "auth": False, **more}
    run_dashboard.run_dashboard([str(storage)], console=Console(file=printed), **told)
    return printed.getvalue()


def test_without_mlflow_the_pages_are_served_all_the_same(storage, monkeypatch):
    printed = run_for_a_moment(storage, monkeypatch)
    assert "8 runs and 1 sweep" in printed
    assert "there is no mlflow.db in the storage" in printed
    assert "dashboard  http://127.0.0.1:" in printed
    (storage / "mlflow.db").write_bytes(b"")
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert "choose another --mlflow-port" in run_for_a_moment(
            storage, monkeypatch, mlflow_port=port
        )
    assert "MLflow" not in run_for_a_moment(storage, monkeypatch, mlflow_port=None)


def started(storage, password=None):
    """An MLflow server, and what was told of its start."""
    server = MlflowServer(storage, "127.0.0.1", free_port(), password)
    told, done = [], threading.Event()
    server.start(lambda *words: (told.append(words), done.set()))
    assert done.wait(150)
    return server, told[0]


def test_an_mlflow_that_cannot_read_its_database_is_told(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    server, (words, answers) = started(tmp_path)
    server.stop()
    assert not answers
    assert words.startswith("MLflow has ended")
    assert "database" in words


def test_mlflow_asks_for_the_same_password_and_ends_with_us(tmp_path):
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").create_experiment("tap")
    server, (words, answers) = started(tmp_path, SECRET)
    try:
        assert answers
        assert "the same password" in words
        asked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        asked.request("GET", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=tap")
        assert asked.getresponse().status == 401
        assert (tmp_path / "mlflow-users.db").stat().st_mode & 0o077 == 0
    finally:
        server.stop()
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=5).request("GET", "/health")
