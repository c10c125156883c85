"""Hosts on one computer: each a network namespace with its own address, processes and memory disks.

A host lives as long as one process, `Host.process`. Killing it is losing the host: its processes,
its network and its /tmp go at once. That process dies with the one that made it, so that nothing
outlives a test, however it ends.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.processes import Process, child_of, has_ended, start, wait_until

NETWORK = "10.77.0"
INTERFACE = "eth0"
_TOOLS = ("ip", "unshare", "nsenter", "setpriv")
_NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc")

_INIT = """
set -e
mount -t tmpfs tmpfs /dev/shm
mount --make-private -t tmpfs tmpfs /mnt
for folder in "${@:3}"; do
    mkdir -p "/mnt/${folder#/tmp/}"
    mount --rbind "$folder" "/mnt/${folder#/tmp/}"
done
mount --move /mnt /tmp
mount --bind "$2" /etc/hosts
hostname "$1"
ip link set lo up
echo ready
while true; do sleep 3600; done
"""
"""Private disks, but for the folders of /tmp that are kept; bash buries the orphans of the host."""


def why_not() -> str | None:
    """Why there can be no hosts here, or None."""
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(missing)} missing (Debian: iproute2, util-linux)"
    tried = subprocess.run(
        ["unshare", *_NAMESPACES, "--fork", "ip", "link", "add", "type", "bridge"],
        check=False,
        capture_output=True,
        text=True,
    )
    return f"no network namespaces: {tried.stderr.strip()}" if tried.returncode else None


def _sh(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Host:
    """A computer of the network."""

    name: str
    address: str
    process: subprocess.Popen[str]
    """Its life."""
    pid: int
    """Its first process, as it is numbered outside."""

    def command(self, *command: object, folder: Path | None = None) -> list[str]:
        """How a command is called from outside, to run inside."""
        entry = ["nsenter", "--target", self.pid, *_NAMESPACES, f"--wdns={folder or '/'}", "--"]
        return list(map(str, [*entry, *command]))

    def start(
        self, *command: object, environment: Mapping[str, str], log: Path, folder: Path
    ) -> Process:
        """Start a process inside, whose output is added to a log."""
        return start(self.command(*command, folder=folder), environment, log, folder, inside=True)

    def kill(self) -> None:
        """Lose the host, as by pulling its plug; return once nothing of it is left."""
        self.process.kill()
        self.process.wait()
        # The first process of a host ends last; whoever inherits it may leave it unburied.
        wait_until(lambda: has_ended(self.pid), seconds=30)


@dataclass
class Network:
    """A bridge in a network namespace of its own, and the hosts that hang on it."""

    folder: Path
    """A folder for the table of names, and for what all hosts share."""
    kept: Sequence[Path] = ()
    """More folders that hosts need; of /tmp they see nothing else."""
    disk_bytes: int = 1 << 26
    """Size of the disk that all hosts see as `folder/disk`; it is in memory."""
    hosts: dict[str, Host] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = self.folder / "hosts"
        self.names.write_text("127.0.0.1 localhost\n")
        (self.folder / "disk").mkdir(exist_ok=True)
        mount = ("mount", "-t", "tmpfs", "-o", f"size={self.disk_bytes}", "tmpfs")
        life = 'cd /; "$@"; echo ready; exec sleep infinity'
        spaces = ("unshare", "--net", "--mount")
        self.bridge = _living(*spaces, "bash", "-c", life, "bridge", *mount, self.folder / "disk")
        self._at_bridge("ip", "link", "add", "bridge", "type", "bridge")
        self._at_bridge("ip", "link", "set", "bridge", "up")

    @property
    def disk(self) -> Path:
        """The disk, as it is reached from outside."""
        return Path(f"/proc/{self.bridge.pid}/root{self.folder}/disk")

    def add(self, name: str) -> Host:
        """A new host; a name keeps its address for life, whoever bears it."""
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        address = f"{NETWORK}.{number}"
        if address not in self.names.read_text():
            with self.names.open("a") as table:
                table.write(f"{address} {name}\n")
        below_tmp = [f for f in (self.folder, *self.kept) if f.is_relative_to("/tmp")]
        disks = ("nsenter", "--target", self.bridge.pid, "--mount")
        spaces = ("unshare", *_NAMESPACES, "--mount-proc", "--fork", "--kill-child")
        told = (name, self.names, *below_tmp)
        life = _living(*disks, *spaces, "bash", "-c", _INIT, "host", *told)
        host = Host(name, address, life, child_of(life.pid))
        self._plug_in(host)
        self.hosts[name] = host
        return host

    def _plug_in(self, host: Host) -> None:
        end = f"to-{host.name}"
        # Whoever bears a name bears its hardware address too: the others have it in mind.
        hardware = f"02:00:00:00:00:{self._numbers[host.name]:02x}"
        peer = ("peer", "name", INTERFACE, "address", hardware, "netns", host.pid)
        # The end at the bridge goes with the host, but not at once.
        _retried(lambda: self._at_bridge("ip", "link", "add", end, "type", "veth", *peer))
        self._at_bridge("ip", "link", "set", end, "master", "bridge", "up")
        _sh(*host.command("ip", "address", "add", f"{host.address}/24", "dev", INTERFACE))
        _sh(*host.command("ip", "link", "set", INTERFACE, "up"))

    def cut(self, name: str) -> None:
        """Take the cable of a host away."""
        self._at_bridge("ip", "link", "set", f"to-{name}", "down")

    def join(self, name: str) -> None:
        """Put the cable back."""
        self._at_bridge("ip", "link", "set", f"to-{name}", "up")

    def slow(self, name: str, delay_ms: float | None = None, mbit: float | None = None) -> str:
        """Make the cable slow, both ways; `quicken` undoes it.

        Returns:
            What was done: a kernel without netem delays nothing, and gets a narrow cable instead.
        """
        if delay_ms is not None:
            try:
                self._shape(name, "netem", "delay", f"{delay_ms}ms")
            except RuntimeError:
                mbit = mbit or 8.0
                said = f"{mbit:g} Mbit/s (no netem in this kernel to delay by {delay_ms:g} ms)"
            else:
                return f"{delay_ms:g} ms each way"
        else:
            said = f"{mbit:g} Mbit/s"
        self._shape(name, "tbf", "rate", f"{mbit}mbit", "burst", "64kb", "latency", "400ms")
        return said

    def quicken(self, name: str) -> None:
        """The cable is as it was."""
        self._at_bridge("tc", "qdisc", "del", "dev", f"to-{name}", "root")
        _sh(*self.hosts[name].command("tc", "qdisc", "del", "dev", INTERFACE, "root"))

    def close(self) -> None:
        """Lose all hosts."""
        for host in self.hosts.values():
            host.kill()
        self.bridge.kill()
        self.bridge.wait()

    def _shape(self, name: str, *how: str) -> None:
        self._at_bridge("tc", "qdisc", "replace", "dev", f"to-{name}", "root", *how)
        inside = ("tc", "qdisc", "replace", "dev", INTERFACE, "root", *how)
        _sh(*self.hosts[name].command(*inside))

    def _at_bridge(self, *command: object) -> str:
        return _sh("nsenter", "--target", self.bridge.pid, "--net", "--", *command)


def _living(*command: object) -> subprocess.Popen[str]:
    """A process that says `ready` and lives on, but no longer than this one."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        process.kill()
        raise RuntimeError(f"{command[0]} did not start; status {process.wait()}")
    return process


def _retried(action: object, times: int = 100) -> None:
    assert callable(action)
    for remaining in reversed(range(times)):
        try:
            action()
        except RuntimeError:
            if not remaining:
                raise
            time.sleep(0.1)
        else:
            return
