"""What a fault does to a run's cluster, disk, tracking, data or checkpoints, and how it passes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tap_platform.config.load import validate_job
from tap_platform.runs.checkpoints import step_of
from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.files import read_json
from tests.chaos.cluster import WORKERS, Cluster, HostCluster, NotHereError, RayletCluster
from tests.chaos.driver import Supervised
from tests.chaos.faults import Fault
from tests.chaos.processes import wait_until
from tests.chaos.tracking import TrackingServer

Heal = Callable[[], None]


@dataclass
class Stage:
    """Everything that a fault may befall."""

    cluster: Cluster
    driver: Supervised
    run: RunDirectory
    disk: Path | None
    """A small disk that checkpoints lie on."""
    tracking: TrackingServer | None

    @property
    def hosts(self) -> HostCluster:
        """The cluster, for what only hosts can suffer."""
        assert isinstance(self.cluster, HostCluster)
        return self.cluster


def check_possible(fault: Fault, cluster: Cluster) -> None:
    """Look whether a cluster can be broken so.

    Raises:
        NotHereError: if it cannot; the message says why.
    """
    if isinstance(cluster, RayletCluster):
        done_to = (fault.verb, fault.what)
        if done_to in _ON_HOSTS or (done_to == ("kill", "node") and fault.which not in WORKERS):
            raise NotHereError(f"needs hosts of their own, and these are {cluster.kind}")
    elif fault.what == "head" and not cluster.remembers:
        raise NotHereError("a head that dies needs a Redis that remembers: no redis-server here")


def inflict(fault: Fault, stage: Stage) -> Heal | None:
    """Let a fault happen.

    Returns:
        What ends it, if it ever ends.
    """
    return _DOINGS[fault.verb, fault.what](fault, stage)


def _kill_worker(fault: Fault, stage: Stage) -> None:
    os.kill(worker_process(stage.run, int(fault.which or 0)), signal.SIGKILL)


def worker_process(run: RunDirectory, rank: int) -> int:
    """The process, as it is numbered here, that writes the log of a worker."""
    log = run.log(run.attempt, rank).stat()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _writes_to(process, log) and _is_worker(process):
            return int(process.name)
    raise ProcessLookupError(f"no worker {rank} of {run.name}")


def _writes_to(process: Path, log: os.stat_result) -> bool:
    try:
        return os.path.samestat((process / "fd/1").stat(), log)
    except OSError:
        return False


def _is_worker(process: Path) -> bool:
    """Whether it is no child of a worker, which writes there too."""
    return (process / "cmdline").read_bytes().startswith(b"ray::")


def _kill_node(fault: Fault, stage: Stage) -> Heal:
    name = _host(fault)
    stage.cluster.kill(name)
    return lambda: stage.cluster.add(name)


def _kill_head(fault: Fault, stage: Stage) -> Heal:
    stage.cluster.kill("head")
    return lambda: stage.cluster.add("head")


def _signal_driver(fault: Fault, stage: Stage) -> None:
    stage.driver.send(signal.SIGKILL if fault.verb == "kill" else signal.SIGTERM)


def _terminate(fault: Fault, stage: Stage) -> Heal:
    """SIGTERM, and the host is taken away when the grace period is over."""
    name = _host(fault)
    stage.hosts.terminate(name)
    return lambda: _replace(stage.hosts, name)


def _drain(fault: Fault, stage: Stage) -> Heal:
    """A notice, and the host is taken away when it has said."""
    name = _host(fault)
    stage.hosts.drain(name, int(fault.seconds or 30))
    return lambda: _replace(stage.hosts, name)


def _replace(cluster: HostCluster, name: str) -> None:
    cluster.kill(name)
    cluster.add(name)


def _cut(fault: Fault, stage: Stage) -> Heal:
    name, cluster = _host(fault), stage.hosts
    cluster.network.cut(name)

    def join() -> None:
        cluster.network.join(name)
        # A node that was given up for dead ends when it hears of it; its host starts it again.
        if wait_until(lambda: not cluster.alive(name), seconds=20):
            cluster.start_ray(name)

    return join


def _slow(fault: Fault, stage: Stage) -> Heal:
    name = _host(fault)
    print("   ", stage.hosts.network.slow(name, fault.delay_ms, fault.mbit), flush=True)
    return lambda: stage.hosts.network.quicken(name)


def _fill(fault: Fault, stage: Stage) -> Heal:
    """Take every byte of the disk."""
    assert stage.disk is not None, "the scenario's checkpoints lie on a small disk"
    ballast = stage.disk / "ballast"
    with ballast.open("wb") as file:
        for size in (1 << 20, 1 << 12):
            while _writes(file.fileno(), size):
                pass
    return ballast.unlink


def _writes(file: int, size: int) -> bool:
    try:
        return os.write(file, bytes(size)) == size
    except OSError:
        return False


def _stop_tracking(fault: Fault, stage: Stage) -> Heal:
    assert stage.tracking is not None, "the scenario starts a tracking server"
    stage.tracking.stop()
    return stage.tracking.start


def _corrupt_shard(fault: Fault, stage: Stage) -> None:
    """Spoil the shard that the run reads; it was spoilt before the undisturbed run, too."""
    job = validate_job(read_json(stage.run.config), where=str(stage.run.config))
    spoil_shard(Path(job.data.path))


def spoil_shard(data: Path) -> None:
    """Write zeros over the middle of the first shard, as a bad disk does."""
    shard = min((data / "train").glob("*.tar"))
    with shard.open("r+b") as file:
        file.seek(shard.stat().st_size // 2)
        file.write(bytes(8192))


def _corrupt_checkpoint(fault: Fault, stage: Stage) -> None:
    """Flip the bits of a byte in the largest file of the newest committed checkpoint."""
    marks = stage.run.checkpoints.glob("step-*/COMMITTED")
    newest = max(marks, key=lambda mark: step_of(mark.parent)).parent
    files = [path for path in newest.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0xFF]))


def _host(fault: Fault) -> str:
    assert isinstance(fault.which, str)
    return fault.which


_ON_HOSTS = {
    ("kill", "head"),
    ("sigterm", "node"),
    ("drain", "node"),
    ("cut", "node"),
    ("slow", "link"),
    ("fill", "disk"),
}

_DOINGS: dict[tuple[str, str], Callable[[Fault, Stage], Heal | None]] = {
    ("kill", "worker"): _kill_worker,
    ("kill", "node"): _kill_node,
    ("kill", "head"): _kill_head,
    ("kill", "driver"): _signal_driver,
    ("sigterm", "driver"): _signal_driver,
    ("sigterm", "node"): _terminate,
    ("drain", "node"): _drain,
    ("cut", "node"): _cut,
    ("slow", "link"): _slow,
    ("fill", "disk"): _fill,
    ("stop", "tracking"): _stop_tracking,
    ("corrupt", "shard"): _corrupt_shard,
    ("corrupt", "checkpoint"): _corrupt_checkpoint,
}
