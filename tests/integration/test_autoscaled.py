"""A run on a cluster that has a head and an autoscaler, and no node to train on yet."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from whole_runs import losses

from tap_platform.runs.directory import RunDirectory
from tap_platform.runs.status import read_status
from tests.chaos.jobs import write_job
from tests.chaos.processes import start, wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

PROGRAMS = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]
HEAD = "ray.head.default"
STEPS = 6
JOB = {
    "training": {"max_steps": STEPS},
    "scale": {"workers": 2, "cpus_per_worker": 1, "max_failures": 0},
    "data": {"reader_tasks": 1},
}
"""Each of its workers fills a node, with its reader."""
WITHOUT = (
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "initialization_commands",
    "cluster_synced_files",
)
"""What is done to machines of a cloud."""


def autoscaling(port):
    """Ray's own settings of nodes that are processes of this computer, which no cloud makes."""
    return {
        "cluster_name": "fake",
        "max_workers": 2,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "disable_node_updaters": True,
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": "f" * 51 + "00000",
        },
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {"CPU": 2, "object_store_memory": 100_000_000},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 2,
            },
        },
        "head_node_type": HEAD,
        "idle_timeout_minutes": 0.5,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        **{key: [] for key in WITHOUT},
    }


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Cluster:
    """Only a head, and Ray's autoscaler v2 beside it."""

    def __init__(self, folder):
        self.address = f"127.0.0.1:{(port := free_port())}"
        self._folder = folder
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
            "CUDA_VISIBLE_DEVICES": "",
        }
        settings = folder / "autoscaling.json"
        settings.write_text(json.dumps(autoscaling(port)))
        options = (
            "--head --block --num-cpus=0 --object-store-memory=80000000 --include-dashboard=false"
            f" --node-ip-address=127.0.0.1 --port={port} --dashboard-agent-listen-port=0"
            f" --ray-client-server-port={free_port()} --temp-dir={folder}/ray"
            f" --autoscaling-config={settings}"
        )
        fake = {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": "f" * 51 + "00000",
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": "f" * 51 + "00000",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        self._head = start(
            [str(PROGRAMS / "ray"), "start", *options.split()],
            {**self._environment, **fake},
            folder / "head.log",
            folder,
        )
        assert self._head.says("Ray runtime started", 150), self._head.said()

    def drive(self, *arguments, **variables):
        told = {**self._environment, "RAY_ADDRESS": self.address, "TAP_AUTOSCALED": "1"}
        command = [str(PROGRAMS / "tap"), *map(str, arguments)]
        return start(command, {**told, **variables}, self._folder / "driver.log", REPOSITORY)

    def asked(self):
        """How many workers nodes are asked for, whether they have work or not."""
        from ray._raylet import GcsClient
        from ray.autoscaler.v2.sdk import get_cluster_resource_state

        state = get_cluster_resource_state(GcsClient(address=self.address))
        return sum(
            request.count
            for constraint in state.cluster_resource_constraints
            for request in constraint.resource_requests
        )

    def close(self):
        """End all of it, and no other Ray on this computer."""
        everything = [each for each in psutil.process_iter() if self._is_ours(each)]
        with suppress(ProcessLookupError):
            self._head.send(signal.SIGTERM)
        psutil.wait_procs(everything, timeout=20)
        for process in (each for each in everything if each.is_running()):
            process.kill()

    def _is_ours(self, process):
        try:
            return str(self._folder) in " ".join(process.cmdline())
        except psutil.Error:
            return False


@pytest.fixture(scope="module")
def cluster():
    # Sockets lie below it, whose names are short.
    with tempfile.TemporaryDirectory(prefix="tap-", dir="/tmp", ignore_cleanup_errors=True) as name:
        cluster = Cluster(Path(name))
        try:
            yield cluster
        finally:
            cluster.close()


def test_nodes_that_do_not_come_in_time_are_told(cluster, tmp_path):
    more = {**JOB, "scale": {**JOB["scale"], "workers": 4}}
    spec = write_job(tmp_path, "job", more)
    driver = cluster.drive("train", spec, "--run", "two", TAP_START_SECONDS="10")
    assert wait_until(lambda: cluster.asked() == 4, 120), driver.said()
    assert driver.wait(120) != 0
    said = " ".join(driver.said().split())
    assert "10 s after they were asked for (lifetime.start_seconds), there are still too" in said
    assert "the Ray cluster has 0 CPUs, the job holds 8: 4 workers x (1 for training + 1" in said
    assert cluster.asked() == 0


def test_nodes_come_for_a_run(cluster, tmp_path):
    driver = cluster.drive("train", write_job(tmp_path, "job", JOB), "--run", "one")
    assert driver.wait(600) == 0, driver.said()
    said = driver.said()
    assert (
        "waiting for nodes for 2 workers of 2 CPUs: the Ray cluster has 0 CPUs, the job holds 4"
        in said
    )
    assert "the nodes are there, after" in said
    run = RunDirectory(tmp_path / "runs" / "chaos" / "one")
    assert read_status(run.status).state == "finished"
    assert set(losses(run)) == set(range(1, STEPS + 1))
    assert cluster.asked() == 0
