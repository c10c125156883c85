"""A Ray cluster of several hosts on one computer, to be broken.

`HostCluster` has a network namespace for each host: `store` (Redis, which remembers what the head
knew), `head`, `desk` (where drivers are started) and the workers' `a` and `b`. Where namespaces
are not allowed, `RayletCluster` runs several raylets beside each other: it can lose a node, but
it has no cables to cut, and its head lives in the suite itself.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.chaos.hosts import INTERFACE, Network
from tests.chaos.processes import Process, start

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
WORKERS = ("a", "b")
CPUS = 3
"""Of a worker's host: a training worker takes two, so that no host has room for both; its reader
takes the third."""
PORT = 6379
START_SECONDS = 150
STARTED = "Ray runtime started"

NODES: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "180",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""A node that is silent is given up after some 6 seconds instead of Ray's 30; threads that wait
leave the few cores to others."""


class NotHereError(Exception):
    """This cluster cannot be broken so; the message says why."""


class HostCluster:
    """Ray on hosts with addresses and cables of their own."""

    kind = "a network namespace for each host"
    drivers_host = "desk"

    def __init__(self, folder: Path, *, dashboard: bool = False) -> None:
        """Start nothing yet.

        Args:
            folder: what all hosts share.
            dashboard: whether the head has a dashboard, and takes jobs: drivers run there then, and
                the desk is a host without Ray.
        """
        self.folder = folder
        self.dashboard = dashboard
        self.network = Network(folder, kept=[REPOSITORY, PROGRAMS.parent])
        self.remembers = shutil.which("redis-server") is not None
        self.nodes: dict[str, Process] = {}
        self._token = folder / "token"
        self._token.write_text(secrets.token_hex(32))
        self._password = secrets.token_hex(16)

    def start(self) -> None:
        """One node after the other: each has 30 seconds to start, and two cores are few."""
        self.network.add("store")
        if self.remembers:
            self._start_redis()
        self.add("head")
        if self.dashboard:
            self.network.add("desk")
        else:
            self.add("desk")
        for name in WORKERS:
            self.add(name)

    @property
    def address(self) -> str:
        """Of the head, for drivers and nodes."""
        return f"{self.network.hosts['head'].address}:{PORT}"

    @property
    def services(self) -> str:
        """The address of what is no part of Ray."""
        return self.network.hosts["store"].address

    @property
    def disk(self) -> Path:
        """A small disk that all hosts see as `folder/disk`."""
        return self.network.disk

    def add(self, name: str) -> None:
        """A host, new or again, with Ray on it."""
        self.network.add(name)
        self.start_ray(name)

    def start_ray(self, name: str) -> None:
        """Ray on a host that is there; a node that did not come up in time is tried again."""
        for _ in range(3):
            options, memory = self._ray_options(name), self._memory_of(name)
            node = self.run(name, "ray", "start", *options, log=f"ray-{name}", **memory)
            if node.says(STARTED, START_SECONDS):
                self.nodes[name] = node
                return
        raise RuntimeError(f"no Ray on {name}: see {self._log(f'ray-{name}')}")

    def kill(self, name: str) -> None:
        """Pull the plug of a host."""
        self.network.hosts[name].kill()

    def terminate(self, name: str) -> None:
        """SIGTERM to the `ray start --block` of a host, as the end of its pod begins."""
        self.nodes[name].send(signal.SIGTERM)

    def drain(self, name: str, seconds: int) -> None:
        """Tell Ray that a host will be taken away, as a cloud's notice does."""
        why = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "chaos")
        when = ("--deadline-remaining-seconds", seconds)
        where = ("--address", self.address)
        notice = self.run(name, "ray", "drain-node", *where, *why, *when, log="drain")
        if status := notice.wait(60):
            raise RuntimeError(f"no notice, status {status}: see {self._log('drain')}")

    def alive(self, name: str) -> bool:
        """Whether a host is there, with Ray on it."""
        node = self.nodes.get(name)
        return node is not None and node.poll() is None

    def run(
        self, name: str, program: str, *arguments: object, log: str, **variables: str
    ) -> Process:
        """A program, on a host; variables are added to the environment of all."""
        return self.network.hosts[name].start(
            program,
            *arguments,
            environment={**self._environment(), **variables},
            log=self._log(log),
            folder=REPOSITORY,
        )

    def drive(self, *arguments: object, log: str) -> Process:
        """`tap`, on the drivers' host."""
        where = {"RAY_ADDRESS": self.address}
        return self.run(self.drivers_host, "tap", *arguments, log=log, **where)

    def serve(self, program: str, *arguments: object, log: str) -> Process:
        """A service for drivers."""
        return self.run("store", program, *arguments, log=log)

    def _environment(self) -> dict[str, str]:
        """Of nodes and drivers alike."""
        return {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            **NODES,
            "TAP_CACHE": str(self.folder / "cache"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token),
            "GLOO_SOCKET_IFNAME": INTERFACE,
        }

    def close(self) -> None:
        """Nothing of it is left."""
        self.network.close()

    def _memory_of(self, name: str) -> dict[str, str]:
        if name != "head" or not self.remembers:
            return {}
        return {"RAY_REDIS_ADDRESS": f"{self.network.hosts['store'].address}:{PORT}"}

    def _start_redis(self) -> None:
        options = ("--requirepass", self._password, "--save", "", "--appendonly", "no")
        bound = ("--bind", "0.0.0.0", "--port", PORT)
        redis = self.run("store", "redis-server", *bound, *options, log="redis")
        if not redis.says("Ready to accept connections", START_SECONDS):
            raise RuntimeError(f"no Redis: see {self._log('redis')}")

    def _ray_options(self, name: str) -> list[object]:
        own = f"--node-ip-address={self.network.hosts[name].address}"
        plain = ["--block", "--disable-usage-stats", "--object-store-memory=150000000", own]
        if name != "head":
            cpus = CPUS if name in WORKERS else 1
            return [*plain, f"--address={self.address}", f"--num-cpus={cpus}"]
        password = [f"--redis-password={self._password}"] if self.remembers else []
        shown = ["--include-dashboard=true", "--dashboard-host=0.0.0.0", "--num-cpus=1"]
        hidden = ["--include-dashboard=false", "--num-cpus=0"]
        here = ["--head", f"--port={PORT}", *(shown if self.dashboard else hidden)]
        return [*plain, *here, *password]

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


class RayletCluster:
    """Several raylets on this computer's loopback address."""

    remembers = False
    drivers_host = "head"
    services = "127.0.0.1"
    disk = None

    def __init__(self, folder: Path, because: str) -> None:
        self.folder = folder
        self.kind = f"several raylets on one host ({because})"
        self.cluster: Any = None
        self.nodes: dict[str, Any] = {}
        os.environ.update(NODES)
        os.environ["RAY_AUTH_MODE"] = "disabled"
        os.environ["TAP_CACHE"] = str(folder / "cache")

    def start(self) -> None:
        """A head for drivers, and the workers' nodes."""
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False},
        )
        for name in WORKERS:
            self.add(name)

    def add(self, name: str) -> None:
        """A node, new or again."""
        self.nodes[name] = self.cluster.add_node(num_cpus=CPUS, object_store_memory=150_000_000)

    def kill(self, name: str) -> None:
        """SIGKILL to a raylet; its workers die of it."""
        self.cluster.remove_node(self.nodes.pop(name), allow_graceful=False)

    def alive(self, name: str) -> bool:
        """Whether a node is there; the head always is."""
        return name not in WORKERS or name in self.nodes

    def drive(self, *arguments: object, log: str) -> Process:
        """`tap`."""
        return self.serve("tap", *arguments, log=log)

    def serve(self, program: str, *arguments: object, log: str) -> Process:
        """A program of our environment."""
        return start(
            [str(PROGRAMS / program), *map(str, arguments)],
            {**os.environ, "RAY_ADDRESS": self.cluster.address},
            self.folder / f"{log}.log",
            REPOSITORY,
        )

    def close(self) -> None:
        """Nothing of it is left."""
        if self.cluster is not None:
            self.cluster.shutdown()


Cluster = HostCluster | RayletCluster
