"""The quick part of the chaos suite: a run that loses a checkpoint and a host, and own parts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile

import pytest

from tests.chaos.cluster import PROGRAMS, REPOSITORY
from tests.chaos.faults import parse
from tests.chaos.hosts import Network, why_not
from tests.chaos.measure import Cost
from tests.chaos.play import Outcome
from tests.chaos.processes import has_ended, wait_until
from tests.chaos.run import BEGIN, END, HEADER, row, write_rows
from tests.chaos.scenarios import SCENARIOS

needs_hosts = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def test_faults_are_read():
    fault = parse("slow(link=b, at_step=7, delay_ms=20, seconds=1.5)")
    assert (fault.verb, fault.what, fault.which) == ("slow", "link", "b")
    assert (fault.at_step, fault.seconds, fault.delay_ms, fault.mbit) == (7, 1.5, 20, None)
    assert parse("kill(worker=1)").which == 1
    assert parse("kill(head)").which is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("burn(node=a)", "no fault named 'burn'"),
        ("kill(disk)", "kill befalls worker=… or driver or node=… or head"),
        ("kill(node)", "kill befalls"),
        ("kill(head=a)", "kill befalls"),
        ("kill(worker=b)", "worker is a rank"),
        ("kill(worker=1, seconds=3)", "kill(worker) takes at_step"),
        ("cut(node=b, at_step=x)", "takes at_step (a number), seconds (a number)"),
        ("kill head", "not VERB(WHAT"),
        ("kill(node=1+1)", "neither a name nor a number"),
    ],
)
def test_what_is_no_fault_is_refused(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        parse(text)


@needs_hosts
def test_hosts_have_addresses_and_cables_and_die(tmp_path):
    network = Network(tmp_path, kept=[REPOSITORY, PROGRAMS.parent])
    try:
        first, second = network.add("first"), network.add("second")
        assert _listens(first, second.address) == "refused"
        assert _listens(first, "second") == "refused"
        subprocess.run(first.command("touch", tmp_path / "disk/of the first"), check=True)
        network.cut("second")
        assert _listens(first, second.address) == "silent"
        network.join("second")
        assert _listens(first, second.address) == "refused"
        network.slow("second", mbit=1)
        assert "tbf" in subprocess.check_output(second.command("tc", "qdisc"), text=True)
        network.quicken("second")
        second.kill()
        assert has_ended(second.pid)
        assert _listens(first, second.address) == "silent"
        network.add("second")
        assert _listens(first, second.address) == "refused"
        assert (network.disk / "of the first").exists()
    finally:
        network.close()
    assert has_ended(first.pid)


def _listens(host, address):
    """What is heard from a port where nobody listens: a refusal, or nothing."""
    code = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], 99), timeout=2)\n"
        "except ConnectionRefusedError: print('refused')\n"
        "except OSError: print('silent')"
    )
    command = host.command(sys.executable, "-c", code, address)
    return subprocess.check_output(command, text=True).strip()


@needs_hosts
def test_a_suite_that_is_killed_leaves_no_host(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        "from tests.chaos.hosts import Network\n"
        "network = Network(pathlib.Path(sys.argv[1]))\n"
        "print(network.add('one').pid, network.bridge.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    said = subprocess.run(command, check=False, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in said.stdout.split()]
    assert len(pids) == 2
    assert wait_until(lambda: all(map(has_ended, pids)), seconds=10)


def test_lines_of_the_table_are_replaced_and_ordered(tmp_path):
    page = tmp_path / "chaos.md"
    page.write_text(f"before\n{BEGIN}\n{HEADER}\n{END}\nafter\n")
    outcomes = [Outcome(scenario, "equal bits", True, Cost(2, 21.6)) for scenario in SCENARIOS[:2]]
    write_rows(outcomes[1:], page)
    write_rows(outcomes, page)
    write_rows([Outcome(SCENARIOS[0], "other", True, Cost(3, 1))], page)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert lines[4:6] == [row(Outcome(SCENARIOS[0], "other", True, Cost(3, 1))), row(outcomes[1])]
    assert len(lines) == 8


@pytest.mark.timeout(480)
def test_a_run_survives_what_it_is_made_for():
    """The suite plays in processes of its own: this one may be part of another Ray."""
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="tap-chaos-") as folder:
        command = [sys.executable, "-m", "tests.chaos.run", "--quick", "--folder", folder]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(command, cwd=REPOSITORY, env=clean, **output) as suite:
            try:
                said, _ = suite.communicate(timeout=420)
            finally:
                suite.terminate()
    assert suite.returncode == 0, said
