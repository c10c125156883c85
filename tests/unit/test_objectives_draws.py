from __future__ import annotations

import torch

from tap_platform.objectives import draws

GOLDEN = 0x9E3779B97F4A7C15
WORD = 2**64 - 1


def splitmix64(state, number):
    bits = (state + (number + 1) * GOLDEN) & WORD
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & WORD
    return bits ^ (bits >> 31)


def test_the_reference_gives_the_published_sequence():
    assert [splitmix64(1234567, number) for number in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_uniform_is_splitmix64():
    seeds = [0, 1, 1234567, 2**63 - 1, -5]
    drawn = draws.uniform(torch.tensor(seeds), 4, stream=3)
    for seed, row in zip(seeds, drawn.tolist(), strict=True):
        state = splitmix64(seed & WORD, 3)
        assert row == [(splitmix64(state, number) >> 40) / 2**24 for number in range(4)]


def test_uniform_fills_the_unit_interval_evenly():
    drawn = draws.uniform(torch.arange(2000), 50, stream=0).flatten()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = torch.histc(drawn, bins=20, min=0, max=1)
    expected = drawn.numel() / 20
    assert ((counts - expected).square() / expected).sum() < 45  # chi square, 19 degrees


def test_streams_seeds_and_positions_are_uncorrelated():
    seeds = torch.arange(20000)
    first, second = (draws.uniform(seeds, 2, stream) for stream in (0, 1))
    columns = torch.cat([first, second, first.roll(1, 0)], dim=1)
    correlation = torch.corrcoef(columns.T) - torch.eye(6)
    assert correlation.abs().max() < 0.03


def test_normal_has_unit_variance_and_no_infinities():
    drawn = draws.normal(torch.arange(20000), 4, stream=2)
    assert drawn.isfinite().all()
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02
    assert abs((drawn.abs() < 1).float().mean() - 0.6827) < 0.01


def test_a_draw_does_not_depend_on_its_neighbours():
    seeds = torch.arange(37)
    whole = draws.normal(seeds, 5, stream=1)
    alone = torch.cat([draws.normal(seed[None], 5, stream=1) for seed in seeds])
    assert torch.equal(whole, alone)
    assert torch.equal(whole[:, :2], draws.normal(seeds, 2, stream=1))


def test_region_seeds_follow_the_image_and_the_slot_only():
    seeds = torch.tensor([11, 22, 33])
    both = draws.region_seeds(seeds, torch.tensor([0, 0, 0, 2, 2]))
    assert torch.equal(both[:3], draws.region_seeds(seeds[:1], torch.tensor([0, 0, 0])))
    assert torch.equal(both[3:], draws.region_seeds(seeds[2:], torch.tensor([0, 0])))
    assert len(both.unique()) == 5
