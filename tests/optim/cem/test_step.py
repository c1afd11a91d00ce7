"""One iteration, against closed forms."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_geo.optim.cem.noise import Given
from pyro_geo.optim.cem.normal import (
    capped_std,
    truncated_normal,
    truncated_variance,
)
from pyro_geo.optim.cem.step import Box, Gaussians, Rates, State, draw, elites_of, refit

pytestmark = pytest.mark.usefixtures("double_precision")


def state_of(mean: Tensor, var: Tensor) -> State:
    return Gaussians(Rates()).begin(mean, var.sqrt())


def in_type(state: State, dtype: torch.dtype) -> State:
    return state_of(state.mean.to(dtype), state.var.to(dtype))


def noise_like(*shape: int, seed: int = 0, trunc: float = 2.0) -> Tensor:
    return truncated_normal(
        torch.empty(shape), trunc, torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("trunc", [0.5, 2.0, 3.5])
def test_noise_has_the_truncated_normal_distribution(trunc):
    z = noise_like(20_000, trunc=trunc).numpy()
    assert abs(z).max() <= trunc
    # one in ten thousand at random
    assert stats.kstest(z, stats.truncnorm(-trunc, trunc).cdf).pvalue > 1e-4


def test_noise_is_the_usual_inverse_of_the_distribution_function():
    u = torch.rand(100, generator=torch.Generator().manual_seed(3))
    edge = math.erf(2.0 / math.sqrt(2.0))
    ours = math.sqrt(2.0) * torch.erfinv(edge * (2 * u - 1))
    usual = stats.truncnorm(-2.0, 2.0).ppf(u.numpy())
    torch.testing.assert_close(ours, torch.from_numpy(usual), rtol=0, atol=1e-10)


@pytest.mark.parametrize("trunc", [0.3, 2.0, 4.0])
def test_variance_of_the_truncated_normal(trunc):
    assert truncated_variance(trunc) == pytest.approx(
        stats.truncnorm(-trunc, trunc).var(), abs=1e-10
    )
    assert truncated_variance(math.inf) == 1.0


def test_no_draw_leaves_the_box_even_at_its_edges():
    lower, upper = torch.tensor([[-1e6, 0.0, -1.0]]), torch.tensor([[1e-3, 7.0, 1e6]])
    mean = lower + (upper - lower) * torch.tensor([[1e-6], [0.37], [1 - 1e-6]])
    state = state_of(mean, torch.full_like(mean, 1e20))
    z = torch.cat([noise_like(3, 500, 3), torch.full((3, 1, 3), 2.0)], 1)
    for sign in (-1.0, 1.0):
        for dtype in (torch.float32, torch.float64):
            small = in_type(state, dtype)
            box = Box(lower.to(dtype), upper.to(dtype), True)
            x = draw(small, Given((sign * z).to(dtype)), box, Rates())
            assert bool((x >= box.lower).all() and (x <= box.upper).all())


def test_deviation_is_capped_at_half_the_distance_to_a_bound():
    mean = torch.tensor([[1.0, 8.0, 5.0]])
    std = capped_std(
        mean, torch.full_like(mean, 4.0), 0 * mean, torch.full_like(mean, 10.0), 2.0
    )
    expected = torch.tensor([[0.5, 1.0, 2.0]])
    torch.testing.assert_close(std, expected, rtol=0, atol=1e-12)


def test_infinite_bounds_cap_nothing():
    mean = torch.zeros(1, 2)
    upper = torch.tensor([[math.inf, 1.0]])
    std = capped_std(mean, mean + 9.0, mean - math.inf, upper, 2.0)
    torch.testing.assert_close(std, torch.tensor([[3.0, 0.5]]), rtol=0, atol=1e-12)


def test_refit_to_all_candidates_is_their_mean_and_variance():
    x = noise_like(4, 30, 3)
    state = state_of(torch.zeros(4, 3), torch.ones(4, 3))
    new, _ = refit(state, x, x.sum(-1), 30, Rates(alpha=0.0))
    torch.testing.assert_close(new.mean, x.mean(1), rtol=0, atol=1e-14)
    expected = torch.from_numpy(x.numpy().var(1))
    torch.testing.assert_close(new.var, expected, rtol=0, atol=1e-14)


def test_alpha_is_the_weight_of_the_old_value():
    x, state = noise_like(2, 20, 1), state_of(torch.ones(2, 1), torch.full((2, 1), 4.0))
    fresh, _ = refit(state, x, x[..., 0], 5, Rates(alpha=0.0))
    new, _ = refit(state, x, x[..., 0], 5, Rates(alpha=0.3))
    for name in ("mean", "var"):
        expected = 0.3 * getattr(state, name) + 0.7 * getattr(fresh, name)
        torch.testing.assert_close(getattr(new, name), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_elites_are_the_lowest_and_of_equals_the_first(dtype):
    generator = torch.Generator().manual_seed(1)
    cost = torch.randint(0, 6, (50, 40), generator=generator).to(dtype)
    cost[3, 5:] = math.inf
    x = torch.arange(40.0).expand(50, 40).unsqueeze(-1)
    elites = elites_of(x, cost, 7)
    for row in range(50):
        order = sorted(range(40), key=lambda i: (float(cost[row, i]), i))[:7]
        assert elites.x[row, :, 0].long().tolist() == sorted(order)


def test_too_few_finite_costs_use_those_there_are():
    x = noise_like(3, 10, 2)
    cost = torch.full((3, 10), math.inf)
    cost[0, 4], cost[1, :2] = 1.0, torch.tensor([3.0, 5.0])
    state = state_of(torch.full((3, 2), 7.0), torch.full((3, 2), 2.0))
    new, _ = refit(state, x, cost, 5, Rates(alpha=0.0))
    torch.testing.assert_close(new.mean[0], x[0, 4])
    torch.testing.assert_close(new.mean[1], x[1, :2].mean(0))
    expected = x[1, :2].var(0, correction=0)
    torch.testing.assert_close(new.var[1], expected, rtol=0, atol=1e-14)
    assert new.elite_fun.tolist() == [1.0, 4.0, math.inf]
    # the third has none and stays
    assert torch.equal(new.mean[2], state.mean[2])
    assert torch.equal(new.var[2], state.var[2])
    assert new.best_fun.tolist() == [1.0, 3.0, math.inf]


def test_variance_of_close_elites_does_not_cancel_in_single_precision():
    x = (1e4 + noise_like(1, 50, 1)).float()
    state = state_of(torch.zeros(1, 1), torch.ones(1, 1))
    small = in_type(state, torch.float32)
    new, _ = refit(small, x, x[..., 0], 50, Rates(alpha=0.0))
    assert float(new.var) == pytest.approx(float(x.numpy().var()), rel=1e-3)
    assert float(new.var) == pytest.approx(x.double().numpy().var(), rel=1e-3)
