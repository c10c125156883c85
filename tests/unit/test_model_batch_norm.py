from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tap_platform.models.batch_norm import SynchronizedBatchNorm

CHANNELS = 5
SHARES = (3, 1)


def whole_batch():
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 10.0, 0.1, 1.0, 3.0])[:, None, None]
    x = torch.randn(sum(SHARES), CHANNELS, 4, 6, generator=generator) * scale + 100
    return x, torch.randn(x.shape, generator=generator)


def with_weights(layer):
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
        layer.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    return layer


def two_steps(layer, x, upstream):
    x = x.clone().requires_grad_()
    layer(x.detach() * 2)
    y = layer(x)
    (y * upstream).sum().backward()
    return {
        "y": y.detach(),
        "x": x.grad,
        "weight": layer.weight.grad,
        "bias": layer.bias.grad,
        "running_mean": layer.running_mean.clone(),
        "running_var": layer.running_var.clone(),
        "num_batches_tracked": layer.num_batches_tracked.clone(),
    }


def one_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    x, upstream = (part.split(SHARES)[rank] for part in whole_batch())
    layer = with_weights(SynchronizedBatchNorm(CHANNELS))
    result = two_steps(layer, x, upstream)
    with torch.autocast("cpu", torch.bfloat16):
        result["half"] = layer(x.bfloat16()).detach()
    torch.save(result, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("ranks"))
    torch.multiprocessing.spawn(one_rank, (folder,), nprocs=2)
    return [torch.load(f"{folder}/rank{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    return two_steps(with_weights(nn.BatchNorm2d(CHANNELS)), *whole_batch())


@pytest.mark.parametrize("name", ["y", "x"])
def test_ranks_give_the_rows_of_the_whole_batch(ranks, alone, name):
    together = torch.cat([rank[name] for rank in ranks])
    torch.testing.assert_close(together, alone[name], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_parameter_gradients_sum_to_those_of_the_whole_batch(ranks, alone, name):
    torch.testing.assert_close(ranks[0][name] + ranks[1][name], alone[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["running_mean", "running_var", "num_batches_tracked"])
def test_running_statistics_are_those_of_the_whole_batch(ranks, alone, name):
    assert torch.equal(ranks[0][name], ranks[1][name])
    torch.testing.assert_close(ranks[0][name], alone[name])


def test_half_inputs_are_normalized_with_precise_statistics(ranks):
    half = torch.cat([rank["half"] for rank in ranks])
    assert half.dtype == torch.bfloat16
    layer = with_weights(nn.BatchNorm2d(CHANNELS))
    expected = layer(whole_batch()[0].bfloat16().float())
    torch.testing.assert_close(half.float(), expected, atol=2e-2, rtol=1e-2)


def test_one_process_is_plain_batch_norm():
    ours = two_steps(with_weights(SynchronizedBatchNorm(CHANNELS)), *whole_batch())
    plain = two_steps(with_weights(nn.BatchNorm2d(CHANNELS)), *whole_batch())
    for name, value in plain.items():
        assert torch.equal(ours[name], value), name


def test_evaluation_uses_the_running_statistics_and_leaves_them():
    layer = with_weights(SynchronizedBatchNorm(CHANNELS)).eval()
    x = whole_batch()[0]
    expected = x / (1 + layer.eps) ** 0.5 * layer.weight[:, None, None] + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected)
    assert layer.num_batches_tracked == 0
    assert torch.equal(layer.running_mean, torch.zeros(CHANNELS))


def test_running_statistics_stay_precise_in_a_half_module():
    layer = SynchronizedBatchNorm(CHANNELS).bfloat16()
    assert layer.weight.dtype == torch.bfloat16
    assert layer.running_var.dtype == torch.float32
    assert layer(whole_batch()[0].bfloat16()).dtype == torch.bfloat16
    assert layer.eval()(whole_batch()[0].bfloat16()).dtype == torch.bfloat16
    assert set(layer.state_dict()) == set(nn.BatchNorm2d(CHANNELS).state_dict())
