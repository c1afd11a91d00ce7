"""Noise addressed by seed, chain and block."""

import math

import pytest
import torch

from pyro_geo.engine import Noise, SequentialNoise


def test_streams_do_not_depend_on_grouping_or_order():
    whole = Noise(3).block([0, 1, 2, 3], 5)
    normal, uniform = whole.normal(4, 2), whole.uniform(3)
    for chains in ([0], [2, 1], [3, 0, 2]):
        part = Noise(3).block(chains, 5)
        assert torch.equal(part.normal(4, 2), normal[chains])
        assert torch.equal(part.uniform(3), uniform[chains])


def test_every_part_of_the_address_matters():
    base = Noise(1)
    numbers = [
        base.block([0], 0).normal(8),
        base.block([0], 1).normal(8),
        base.block([1], 0).normal(8),
        base.region(1).block([0], 0).normal(8),
        Noise(2).block([0], 0).normal(8),
        Noise(1 + 2**32).block([0], 0).normal(8),
        Noise(1 + 2**63).block([0], 0).normal(8),
        Noise(-1).block([0], 0).normal(8),
    ]
    for i, one in enumerate(numbers):
        for other in numbers[:i]:
            assert not bool((one == other).any())


def test_a_region_is_set_not_added():
    assert torch.equal(
        Noise(1).region(2).region(1).block([0], 0).normal(3),
        Noise(1, region=1).block([0], 0).normal(3),
    )


def test_only_the_lowest_64_bits_of_a_seed_count():
    for seed in (0, 5, 2**64 - 1):
        one, other = Noise(seed), Noise(seed + 2**64)
        assert torch.equal(one.block([0], 0).normal(4), other.block([0], 0).normal(4))


def test_a_long_block_does_not_run_into_the_next():
    long = Noise(0).block([0], 0).normal(200_000).flatten()
    following = Noise(0).block([0], 1).normal(100).flatten()
    assert not bool(torch.isin(following, long).any())


def test_moments():
    # Means over n numbers, each within 5 standard errors: false alarms below 1e-5.
    n = 200_000
    block = Noise(11).block([0, 7], 2)
    for row in block.normal(n, dtype=torch.float64):
        for moment, exact, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (4, 3.0, 96.0)):
            error = float((row**moment).mean()) - exact
            assert abs(error) < 5 * math.sqrt(variance / n)
    for row in block.uniform(n, dtype=torch.float64):
        assert bool(((row >= 0) & (row < 1)).all())
        assert abs(float(row.mean()) - 0.5) < 5 * math.sqrt(1 / 12 / n)


def test_chains_are_uncorrelated():
    n = 100_000
    one, other = Noise(4).block([0, 1], 0).normal(n, dtype=torch.float64)
    assert abs(float((one * other).mean())) < 5 / math.sqrt(n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_dtypes_round_the_same_numbers(dtype):
    block, exact = Noise(0).block([0], 0), Noise(0).block([0], 0)
    numbers = block.normal(6, dtype=dtype)
    assert numbers.dtype == dtype
    assert torch.equal(numbers, exact.normal(6, dtype=torch.float64).to(dtype))


def test_generators_are_seeded_by_the_stream():
    def numbers(chains, index):
        return torch.rand(3, generator=Noise(0).block(chains, 0).generator(index))

    assert torch.equal(numbers([0, 1], 1), numbers([1], 0))
    assert not torch.equal(numbers([0, 1], 0), numbers([0, 1], 1))


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    Noise(0).block([0], 0).normal(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_sequential_stream_goes_on_from_its_state():
    before = torch.get_rng_state()
    noise = SequentialNoise(3, 1)
    noise.normal(5)
    place = noise.state
    expected = noise.uniform(4), noise.normal(2, 3, dtype=torch.float64)
    again = SequentialNoise(99, state=place)
    found = again.uniform(4), again.normal(2, 3, dtype=torch.float64)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_sequential_streams_of_one_seed_differ():
    paths = [(0,), (1,), (0, 1), (1, 1), (1, 2)]
    draws = [SequentialNoise(3, *path).normal(4) for path in paths]
    draws.append(SequentialNoise(4, 0).normal(4))
    for first, one in enumerate(draws):
        for other in draws[:first]:
            assert not torch.equal(one, other)
