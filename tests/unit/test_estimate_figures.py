"""Time, money, data and ways out, by arithmetic alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tap_platform.config.load import load_job
from tap_platform.config.load_profile import validate_profile
from tap_platform.estimate.bill import bill_of
from tap_platform.estimate.communication import communication_seconds
from tap_platform.estimate.concerns import concerns_of
from tap_platform.estimate.feed import cpu_seconds, feed_of
from tap_platform.estimate.figures import Memory
from tap_platform.estimate.nodes import nodes_for
from tap_platform.estimate.pace import Measured, as_measured, pace_of
from tap_platform.estimate.sizes import as_bytes, as_flops, as_seconds
from tap_platform.estimate.ways import ways_that_fit

ROOT = Path(__file__).resolve().parents[2]
H100 = {
    "name": "h100",
    "gpu": {"type": "H100", "count": 8},
    "cpus": 180,
    "memory": "1800Gi",
    "most": 32,
    "price_per_hour": 55.0,
    "network_gbps": 3200,
    "nvlink_gbps": 3600,
}
TERA = 10**12


def job(*overrides, name="tap_vit_l"):
    return load_job(ROOT / f"jobs/{name}.yaml", overrides)


def profile(*groups, **more):
    tree = {"place": "kubernetes", "image": "tap:1", "groups": list(groups or (H100,)), **more}
    return validate_profile(tree, where="profile.yaml")


def memory(total, available=None, on_gpu=True):
    parts = dict.fromkeys(
        ("gradients", "optimizer", "average", "activations", "buffers", "batches", "allowance"), 0
    )
    return Memory(weights=total, **parts, highest="now", available=available, host=0, on_gpu=on_gpu)


def test_a_step_is_flops_at_the_share_of_the_peak_and_what_workers_say():
    machines = profile(mfu=0.5)
    pace = pace_of(job("scale.strategy=ddp"), machines, nodes_for(job(), machines)[0], 9 * TERA)
    assert pace.compute_seconds == pytest.approx(9 / (0.5 * 989))
    # docs/scaling.md, ViT-L with eight cards a node: 2.62 GB, 8.0 ms.
    assert round(pace.sent_bytes / 1e9, 2) == 2.62
    assert round(1000 * pace.communication_seconds, 1) == 8.0
    assert pace.step_seconds == pace.compute_seconds + pace.communication_seconds
    assert pace.hours == pytest.approx(pace.step_seconds * 180_000 / 3600)
    assert "mfu" in pace.basis


def test_one_card_a_node_is_as_slow_as_the_docs_say():
    slow = profile({**H100, "network_gbps": 400}).groups[0]
    assert round(1000 * communication_seconds(job("scale.strategy=ddp"), slow, 32), 1) == 53.8


@pytest.mark.parametrize(
    ("groups", "workers", "pods", "known"),
    [
        ({"network_gbps": 0}, 256, 32, False),
        ({"network_gbps": 0}, 8, 1, True),
        ({"nvlink_gbps": 0}, 8, 1, False),
        ({"nvlink_gbps": 0, "network_gbps": 0}, 1, 1, True),
    ],
)
def test_links_that_are_not_told_are_not_guessed(groups, workers, pods, known):
    group = profile({**H100, **groups}).groups[0]
    seconds = communication_seconds(job(f"scale.workers={workers}"), group, pods)
    assert (seconds is not None) == known


@pytest.mark.parametrize(
    ("overrides", "group", "said"),
    [
        (["training.precision=fp32"], H100, "computes in fp32"),
        (["scale.device=cpu"], {**H100, "gpu": None}, "nothing tells how fast these CPUs are"),
    ],
)
def test_a_time_that_is_not_known_is_not_told(overrides, group, said):
    machines, wanted = profile(group), job(*overrides, "scale.workers=32")
    pace = pace_of(wanted, machines, nodes_for(wanted, machines)[0], TERA)
    assert (pace.step_seconds, pace.hours) == (None, None)
    assert said in pace.basis


def test_a_measured_run_tells_the_time_by_its_flops():
    machines = profile(H100)
    pace = pace_of(job(), machines, nodes_for(job(), machines)[0], TERA)
    told = as_measured(job(), pace, Measured("old-run", 0.5, job()), ratio=2.0)
    assert told.step_seconds == 1.0
    assert told.hours == 50.0
    assert "old-run took 0.5 s" in told.basis


def test_nodes_and_head_are_paid_for_the_hours():
    machines = profile(head={"price_per_hour": 0.8})
    bill = bill_of(machines, nodes_for(job(), machines), hours=10)
    assert bill.per_hour == 32 * 55 + 0.8
    assert bill.total == 10 * bill.per_hour
    assert bill_of(machines, nodes_for(job(), machines), hours=None).total is None


def test_a_part_of_a_node_costs_that_part():
    machines = profile()
    bill = bill_of(machines, nodes_for(job("scale.workers=2"), machines), hours=1)
    assert bill.total == pytest.approx(55 / 4)


def test_spot_is_named_and_so_is_what_stands_in():
    spot = {**H100, "name": "spot", "spot": True, "price_per_hour": 11.0}
    machines = profile(spot, H100, autoscale=True)
    bill = bill_of(machines, nodes_for(job(), machines), hours=1)
    assert (bill.spot, bill.total, bill.on_stand_ins) == (True, 32 * 11, 32 * 55)


def test_a_profile_without_prices_costs_nothing_known():
    free = profile({**H100, "price_per_hour": 0})
    assert bill_of(free, nodes_for(job(), free), hours=1) is None


def test_feeding_is_told_by_the_pace():
    machines = profile()
    feed = feed_of(job(), nodes_for(job(), machines)[0], step_seconds=0.5)
    assert feed.images_per_second == 512
    assert feed.bytes_per_second == 512 * 640_000
    # docs/feeding.md: 14.1 ms to decode and 2.3 ms to bring it.
    assert feed.cpu_seconds_per_image == pytest.approx(16.4e-3)
    assert feed.cpus_needed == pytest.approx(8.4, rel=0.01)
    assert feed.cpus_there == 32 * 180 - 256
    assert "assumed" in feed.bytes_basis


def test_smaller_pictures_and_fewer_regions_cost_less():
    assert cpu_seconds(job("data.regions_per_image=8"), 640_000) < cpu_seconds(job(), 640_000)
    assert cpu_seconds(job(), 86_000) < cpu_seconds(job(), 640_000)
    quarter = job("model.image_size=512", "model.window_size=16")
    assert cpu_seconds(quarter, 640_000) < cpu_seconds(job(), 640_000)


def test_too_few_cpus_to_feed_are_a_warning():
    machines = profile({**H100, "cpus": 72})
    share = nodes_for(job(), machines)[0]
    fast = feed_of(job(), share, step_seconds=0.001)
    (said,) = concerns_of(job(), share, memory(1, 10), fast)
    assert "too few CPUs feed it: 4,198 are wanted, 2,048 are there" in said
    assert concerns_of(job(), share, memory(1, 10), feed_of(job(), share, 0.5)) == []


@pytest.mark.parametrize(
    ("total", "said"),
    [(81 * 10**9, "it does not fit: 81 GB are wanted of 80 GB"), (76 * 10**9, "95%")],
)
def test_memory_that_is_short_is_a_warning(total, said):
    machines = profile()
    share = nodes_for(job(), machines)[0]
    feed = feed_of(job(), share, 0.5)
    (found,) = concerns_of(job(), share, memory(total, 80 * 10**9), feed)
    assert said in found


def test_gpus_that_would_idle_are_a_warning():
    machines = profile({**H100, "cpus": 45})
    share = nodes_for(job("scale.workers=64"), machines)[0]
    found = concerns_of(job(), share, memory(1, 10), feed_of(job(), share, 5.0))
    assert "5 of the 8 GPUs of a node are taken" in " ".join(found)


def test_ways_that_fit_are_listed_the_smallest_change_first():
    def measure(changed):
        state = {"ddp": 100, "zero_1": 60, "zero_2": 55, "zero_3": 90, "fsdp": 50}
        total = state[changed.scale.strategy] * (
            0.5 if changed.model.activation_checkpointing else 1
        )
        return memory(int(total), available=56)

    ways = ways_that_fit(job("scale.strategy=ddp"), measure)
    assert [way.overrides for way in ways[:3]] == [
        ["model.activation_checkpointing=true"],
        ["scale.strategy=zero_2"],
        ["scale.strategy=fsdp"],
    ]
    # What holds a way that fits already is not told again.
    assert all(len(way.overrides) == 1 for way in ways[:3])
    assert len({tuple(way.overrides) for way in ways}) == len(ways)
    for way in ways:
        assert measure(job("scale.strategy=ddp", *way.overrides)).fits


def test_smaller_micro_batches_are_a_way_that_keeps_the_batch():
    def measure(changed):
        return memory(changed.micro_batch * 10, available=15)

    large = job("scale.workers=32", "training.global_batch=256", "scale.strategy=zero_2")
    ways = ways_that_fit(large, measure)
    assert [way.overrides for way in ways] == [["training.micro_batch=1"]]
    assert ways[0].costs == "8 micro-batches a step, one after the other"
    roomy = ways_that_fit(large, lambda changed: memory(changed.micro_batch * 10, available=45))
    assert [way.overrides for way in roomy] == [["training.micro_batch=4"]]


def test_nothing_is_said_to_fit_that_does_not():
    assert ways_that_fit(job(), lambda changed: memory(100, available=99)) == []


def test_strategies_that_do_not_go_with_the_job_are_not_named():
    ways = ways_that_fit(
        job("scale.strategy=ddp", "training.precision=fp16"), lambda changed: memory(1, 2)
    )
    assert all("strategy" not in override for way in ways for override in way.overrides)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (as_bytes(80e9), "80 GB"),
        (as_bytes(1_310_000), "1.31 MB"),
        (as_bytes(0), "0 B"),
        (as_bytes(2.25e12), "2.25 TB"),
        (as_flops(9.236e12), "9.24 TFLOP"),
        (as_flops(2.36e15), "2.36 PFLOP"),
        (as_seconds(0.0403), "40.3 ms"),
        (as_seconds(12), "12 s"),
        (as_seconds(600), "10 min"),
    ],
)
def test_sizes_are_written_as_people_do(said, meant):
    assert said == meant
