"""The last act of a pod: `python -m tap_platform.places.leave`, its preStop hook.

Where the run's driver lives, the run is stopped by SIGTERM, unless it is being stopped already: a
checkpoint first, then a recorded end, and the last records for its tracker. On any other node, Ray
is told that the node will be gone, so that its training workers write a checkpoint and the run goes
on elsewhere. What is done is told by the pod's own log, since nobody sees what a hook prints. The
environment says `TAP_RUN_DIRECTORY`, and by `TAP_PRE_STOP_SECONDS` how long there is to wait.
Light: there may be two minutes until the node is gone.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import read_status
from tap_platform.runs.stop_request import StopRequest

DEFAULT_SECONDS = 30.0
STOP_FIRST_SECONDS = 3.0
"""How long a worker's node waits for word that the whole run is being stopped. When all pods of a
run are deleted at once, a notice of this one would only make it look for another node."""
LOOK_EVERY_SECONDS = 0.2
_WORKER_TITLE = "ray::RayTrainWorker"
LOG_OF_THE_POD = Path("/proc/1/fd/1")


def main() -> None:
    """Leave as the environment says; whatever fails is told, and the pod ends all the same."""
    seconds = os.environ.get("TAP_PRE_STOP_SECONDS", "")
    folder = os.environ.get("TAP_RUN_DIRECTORY")
    try:
        leave(RunDirectory(Path(folder)) if folder else None, float(seconds or DEFAULT_SECONDS))
    except Exception as error:
        say(f"{type(error).__name__}: {error}")


def leave(run: RunDirectory | None, seconds: float) -> None:
    """Have what runs here write its checkpoint and end.

    Args:
        run: the run that this pod is of; None where there is no run directory.
        seconds: how long to wait for that.
    """
    deadline = time.monotonic() + seconds
    if run is not None and (driver := driver_here(run)):
        _stop(driver, run, seconds)
        _wait_for([driver], deadline)
    elif workers := training_workers():
        if run is None or not _is_being_stopped(run):
            _give_notice(workers, seconds)
        _wait_for(workers, deadline)
    else:
        say("neither a driver nor training workers are here: there is nothing to wait for")


def driver_here(run: RunDirectory) -> psutil.Process | None:
    """The driver of a run, if it lives on this host: it trains, or has its last records to bring.

    Another host's is not ours to stop: the run may go on in a cluster that came after this one.
    """
    try:
        status = read_status(run.status)
        # A status that has ended stands, whoever lives; one that runs is looked into.
        lives = status.model_copy(update={"state": "running"}).observed().state == "running"
        if status.state != "preparing" and status.host == socket.gethostname() and lives:
            return psutil.Process(status.pid)
    except (FileNotFoundError, psutil.NoSuchProcess):
        pass
    return None


def _stop(driver: psutil.Process, run: RunDirectory, seconds: float) -> None:
    """SIGTERM to a driver that nobody has asked to end: KubeRay does, as a RayJob is deleted."""
    state, request = read_status(run.status).state, StopRequest(run)
    if state != "running":
        say(f"{run.name} is {state}, and its driver, process {driver.pid}, has {seconds:g} s")
    elif request.ends_run:
        say(f"{run.name} is being stopped, by {request.why}: its driver has {seconds:g} s")
    else:
        say(f"{run.name}: SIGTERM to its driver, process {driver.pid}, which has {seconds:g} s")
        driver.terminate()


def training_workers() -> list[psutil.Process]:
    """Ray Train's workers on this host, by the title that Ray gives their processes."""
    titles = ((each, each.info["cmdline"] or [""]) for each in psutil.process_iter(["cmdline"]))
    return [each for each, title in titles if title[0].startswith(_WORKER_TITLE)]


def _is_being_stopped(run: RunDirectory) -> bool:
    """Whether the driver asks all workers to end, now or in a moment."""
    request, until = StopRequest(run), time.monotonic() + STOP_FIRST_SECONDS
    while not (asked := request.ends_run) and time.monotonic() < until:
        time.sleep(LOOK_EVERY_SECONDS)
    if asked:
        say(f"{run.name} is being stopped, by {request.why}: its workers end by themselves")
    return asked


def _give_notice(workers: list[psutil.Process], seconds: float) -> None:
    """Tell Ray that this node will be gone; if it does not hear, tell the workers."""
    try:
        drain_node(workers[0], seconds)
        say(f"Ray is told that this node will be gone in {seconds:g} s: {len(workers)} workers end")
    except Exception as error:
        say(f"Ray is not told ({error}): SIGTERM to {len(workers)} workers")
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.terminate()


def drain_node(worker: psutil.Process, seconds: float) -> None:
    """Tell Ray that a worker's node will be taken away, so that nothing new starts on it.

    Args:
        worker: a process of the node.
        seconds: when.

    Raises:
        RuntimeError: its node cannot be told, or Ray refuses.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

    node, address = _node_of(worker)
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int(1000 * (time.time() + seconds))
    client = GcsClient(address=address)
    accepted, why = client.drain_node(node, reason, "its pod is being ended", deadline)
    if not accepted:
        raise RuntimeError(why)


def _node_of(worker: psutil.Process) -> tuple[str, str]:
    """The id of a worker's node and the address of its cluster, as its raylet was started with."""
    for parent in worker.parents():
        if parent.name() == "raylet":
            words = (word.partition("=") for word in parent.cmdline())
            options = {name: value for name, _, value in words}
            return options["--node_id"], options["--gcs-address"]
    raise RuntimeError(f"process {worker.pid} has no raylet")


def _wait_for(processes: list[psutil.Process], deadline: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=max(0.0, deadline - time.monotonic()))
    if alive:
        say(f"the time is out, and {len(alive)} of {len(processes)} processes go on")
    else:
        say("all have ended")


def say(text: str) -> None:
    """Tell stderr, and the log of the pod where that is allowed."""
    line = f"{datetime.now(UTC):%H:%M:%S} leave: {text}\n"
    sys.stderr.write(line)
    with suppress(OSError), LOG_OF_THE_POD.open("a") as log:
        log.write(line)


if __name__ == "__main__":
    main()
