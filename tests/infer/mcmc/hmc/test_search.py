"""Searches for step size and trajectory length, and the schedule of a warm-up."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo.infer.mcmc.hmc import trajectory
from pyro_geo.infer.mcmc.hmc.schedule import Schedule
from pyro_geo.infer.mcmc.hmc.trajectory import (
    LengthSearch,
    halton,
    jumps,
    leapfrogs,
    length_update,
)
from pyro_geo.infer.step_size import (
    averaged,
    coarse_update,
    restart,
    update,
)
from tests.cases import numbers

# -- trajectory length --------------------------------------------------------------


def test_halton_mirrors_the_digits():
    found = [halton(i) for i in range(7)]
    assert found == [0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]
    # every block of 2 ** k - 1 terms fills its grid
    assert sorted(halton(i) for i in range(63)) == [i / 64 for i in range(1, 64)]


@given(
    length=st.floats(0.1, 20.0),
    jitter=st.floats(0.0, 0.9),
    index=st.integers(0, 10_000),
    step_size=st.floats(1e-3, 5.0),
    most=st.integers(1, 1000),
)
def test_the_number_of_steps_covers_the_length(length, jitter, index, step_size, most):
    found = leapfrogs(length, jitter, index, step_size, most)
    assert 1 <= found <= most
    wanted = length * (1 + jitter * (2 * halton(index) - 1))
    if 1 < found < most:
        assert (found - 1) * step_size < wanted
    if found < most:
        assert found * step_size >= wanted - 1e-6


def test_without_jitter_all_transitions_are_alike():
    assert {leapfrogs(1.0, 0.0, i, 0.25, 99) for i in range(20)} == {4}
    assert len({leapfrogs(1.0, 0.4, i, 0.05, 99) for i in range(20)}) > 8


def harmonic(time, z, v):
    """Where a standard normal density takes `z` and `v`, exactly."""
    cos, sin = math.cos(time), math.sin(time)
    return z * cos + v * sin, v * cos - z * sin


@pytest.mark.parametrize("time", [0.3, 1.0, 1.9, 4.0])
def test_the_slopes_of_the_jumps_are_their_derivatives(time):
    z, v = numbers(50, 4), numbers(50, 4, seed=1)
    weights = torch.linspace(0.1, 1.0, 50, dtype=torch.float64)

    def both(t):
        end, velocity = harmonic(t, z, v)
        return jumps(z, end, velocity, weights, t)

    a, b, slope_a, slope_b = both(time)
    delta = 1e-5
    up, down = both(time * math.exp(delta)), both(time * math.exp(-delta))
    assert slope_a == pytest.approx((up[0] - down[0]) / (2 * delta), rel=1e-6)
    assert slope_b == pytest.approx((up[1] - down[1]) / (2 * delta), rel=1e-6)
    share = weights / weights.sum()
    end = harmonic(time, z, v)[0]
    assert a == pytest.approx(float((share * (end - z).square().sum(-1)).sum()))
    change = end.square().sum(-1) - z.square().sum(-1)
    assert b == pytest.approx(float((share * change.square()).sum()) / 4)


def test_jumps_pass_over_what_is_not_finite():
    z, v = numbers(6, 2), numbers(6, 2, seed=1)
    end, velocity = harmonic(1.0, z, v)
    ones = torch.ones(6, dtype=torch.float64)
    expected = jumps(z[:4], end[:4], velocity[:4], ones[:4], 1.0)
    end[4], velocity[5] = torch.nan, torch.inf
    assert jumps(z, end, velocity, ones, 1.0) == pytest.approx(expected)
    assert jumps(z, end, velocity, 0 * ones, 1.0) == (0.0, 0.0, 0.0, 0.0)
    search = LengthSearch(0.0, 0.0)
    assert length_update(search, (0.0, 0.0, 0.0, 0.0), 16) is search


def best_length() -> float:
    """Optimum of the criterion for a standard normal: `A ~ 1 - cos t, B ~ sin^2 t`."""
    t = torch.linspace(0.05, math.pi - 0.05, 20_001, dtype=torch.float64)
    gain = (1 - t.cos()).log() + 2 * t.sin().log() - 2 * trajectory._COST * t.log()
    return float(t[gain.argmax()])


def expected_jumps(t: float, dim: int) -> tuple[float, float, float, float]:
    """Means of `A` and `B` over a standard normal, and their slopes in `log t`."""
    a, b = 2 * dim * (1 - math.cos(t)), dim * math.sin(t) ** 2
    return a, b, 2 * dim * t * math.sin(t), dim * t * math.sin(2 * t)


def test_the_length_settles_at_the_optimum_of_its_criterion():
    best = best_length()
    assert 1.5 < best < 2.2
    for start in (0.4, 1.5, 2.5):
        search = LengthSearch(math.log(start), math.log(start))
        for _ in range(400):
            found = expected_jumps(math.exp(search.log_length), 5)
            search = length_update(search, found, 64)
        # two steps of Adam, which has no end
        assert abs(search.mean - math.log(best)) < 2 * trajectory._RATE


def test_few_noisy_chains_do_not_carry_the_length_away():
    """64 chains find the neighbourhood of the optimum; 2 stay within its bounds."""
    generator = torch.Generator().manual_seed(0)
    for chains, low, high in ((64, 1.3, 2.6), (2, 0.5, math.pi)):
        search = LengthSearch(math.log(1.5), math.log(1.5))
        for _ in range(300):
            z, v = torch.randn(2, chains, 20, generator=generator, dtype=torch.float64)
            time = math.exp(search.log_length)
            end, velocity = harmonic(time, z, v)
            ones = torch.ones(chains, dtype=torch.float64)
            search = length_update(search, jumps(z, end, velocity, ones, time), chains)
        assert low < math.exp(search.mean) < high


# -- step size ----------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.6, 0.8, 0.95])
@pytest.mark.parametrize("start", [1e-3, 0.5, 30.0])
def test_dual_averaging_finds_the_step_of_an_acceptance_curve(target, start):
    search = restart(start)
    for _ in range(1000):
        search = update(search, math.exp(-(math.exp(search.log_step) ** 2)), target)
    found = math.exp(-(averaged(search) ** 2))
    assert found == pytest.approx(target, abs=0.02)


def test_dual_averaging_takes_the_first_step_of_the_paper():
    """Equation (6) of Hoffman & Gelman with their constants, by hand."""
    search = update(restart(0.5), 0.3, 0.8)
    error = (0.8 - 0.3) / 11
    assert search.log_step == pytest.approx(math.log(0.5) - error / 0.05)
    assert search.mean == pytest.approx(search.log_step)


def test_each_chain_moves_its_own_step_towards_the_target():
    steps = torch.tensor([0.1, 0.1, 0.1])
    moved = coarse_update(steps, torch.tensor([0.0, 0.8, 1.0]), 0.8)
    assert float(moved[0]) < 0.1
    assert float(moved[1]) == pytest.approx(0.1)
    assert float(moved[2]) > 0.1


# -- schedule -----------------------------------------------------------------------


@given(steps=st.integers(0, 5000))
def test_a_schedule_divides_the_warm_up(steps):
    schedule = Schedule.of(steps)
    assert schedule.end == steps
    edges = (schedule.approach, *schedule.windows)
    assert list(edges) == sorted(set(edges))
    assert all(0 < stop < steps for stop in schedule.windows)
    assert schedule.approach % 10 == 0
    assert schedule.approach <= steps // 4
    if steps >= 40:
        assert schedule.windows
        assert schedule.end - schedule.windows[-1] >= 10
        lengths = [b - a for a, b in zip(edges[:-1], edges[1:], strict=True)]
        # each but the last, which takes the rest, is longer than the one before
        assert all(b > a for a, b in zip(lengths[:-2], lengths[1:-1], strict=False))
    else:
        assert schedule == (0, (), steps)
