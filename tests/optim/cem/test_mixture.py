"""The mixture against one Gaussian, and against the formulas in a loop."""

import pytest
import torch
from torch import Tensor

from pyro_geo.optim.cem import CEM, CEMGMM, truncated_normal
from pyro_geo.optim.cem.mixture import Mixture, MixtureState
from pyro_geo.optim.cem.noise import Given
from pyro_geo.optim.cem.step import Box, Rates

pytestmark = pytest.mark.usefixtures("double_precision")


def noise_of(*shape: int) -> Tensor:
    return truncated_normal(torch.empty(shape), 2.0, torch.Generator().manual_seed(4))


def wave(x: Tensor) -> Tensor:
    return (x.sin() + (10 / 3 * x).sin()).sum(-1)


def test_a_mixture_of_one_is_one_search():
    box = {"lower": torch.full((2,), -7.5), "upper": 7.5, "mean": torch.ones(2)}
    noise = noise_of(15, 4, 50, 2)
    one = CEM(pop_size=50).minimize(wave, **box, noise=noise, batch_shape=(4,))
    mixture = CEMGMM(1, kappa=0.0, pop_size=50).minimize(
        wave, **{**box, "mean": torch.ones(4, 1, 2)}, noise=noise, batch_shape=(4,)
    )
    torch.testing.assert_close(mixture.means, one.means, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixture.history, one.history, rtol=0, atol=1e-12)


def state_of(mean: Tensor, var: Tensor, weight: Tensor) -> MixtureState:
    method = Mixture(Rates(), mean.shape[1], 0.0)
    state = method.begin(mean.flatten(1), torch.ones(len(mean), mean.shape[-1]))
    return state._replace(var=var.flatten(1), weight=weight)


@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_refit_against_the_formulas(kappa):
    mean, var = noise_of(2, 3, 2), 0.5 + noise_of(2, 3, 2).abs()
    weight = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    state = state_of(mean, var, weight)
    x = 2 * noise_of(2, 40, 2)
    cost = x.square().sum(-1)
    alpha = 0.25
    new, _ = Mixture(Rates(alpha=alpha), 3, kappa).refit(state, x, cost, 8)
    for s in range(2):
        chosen = x[s, cost[s].argsort()[:8]]
        normal = torch.distributions.Normal(mean[s], var[s].sqrt())
        joint = weight[s] * normal.log_prob(chosen[:, None]).sum(-1).exp()
        density = joint.sum(-1, keepdim=True)
        share = joint / density * density**-kappa
        share = share / share.sum()
        for m in range(3):
            w = share[:, m, None] / share[:, m].sum()
            centre = (w * chosen).sum(0)
            spread = (w * (chosen - centre) ** 2).sum(0)
            torch.testing.assert_close(
                new.mean.view(2, 3, 2)[s, m],
                alpha * mean[s, m] + (1 - alpha) * centre,
                rtol=0,
                atol=1e-10,
            )
            torch.testing.assert_close(
                new.var.view(2, 3, 2)[s, m],
                alpha * var[s, m] + (1 - alpha) * spread,
                rtol=0,
                atol=1e-10,
            )
        expected = alpha * weight[s] + (1 - alpha) * share.sum(0)
        torch.testing.assert_close(new.weight[s], expected, rtol=0, atol=1e-12)


def test_components_get_candidates_by_weight_and_empty_ones_stay():
    mean = torch.tensor([[[-100.0], [0.0], [100.0]]])
    state = state_of(mean, torch.ones(1, 3, 1), torch.tensor([[0.25, 0.5, 0.25]]))
    method = Mixture(Rates(), 3, 0.0)
    x = method.draw(
        state,
        Given(noise_of(1, 40, 1)),
        Box(torch.zeros(1, 1), torch.zeros(1, 1), False),
    )
    counts = torch.bucketize(x.flatten(), torch.tensor([-50.0, 50.0])).bincount()
    assert counts.tolist() == [10, 20, 10]
    new, _ = method.refit(state, x, x.square().sum(-1), 8)
    assert new.mean[0, ::2].tolist() == [-100.0, 100.0]
    assert new.var[0, ::2].tolist() == [1.0, 1.0]
    assert float(new.weight[0, 1]) == pytest.approx(0.95, abs=1e-12)


def test_a_mixture_finds_the_lowest_basin_more_often_than_one_gaussian():
    box = {"lower": torch.tensor([-7.5]), "upper": 7.5, "batch_shape": (200,)}
    lowest = -1.8995993491521487
    rates = [
        float((search.minimize(wave, **box).fun < lowest + 0.01).double().mean())
        for search in (CEM(pop_size=100), CEMGMM(10, pop_size=100))
    ]
    # published for ten components: .90 of runs
    assert rates[0] < 0.7 < 0.85 < rates[1]


def test_lost_costs_leave_a_mixture_where_it_is():
    state = state_of(noise_of(2, 3, 2), torch.ones(2, 3, 2), torch.full((2, 3), 1 / 3))
    x = noise_of(2, 20, 2)
    cost = torch.full((2, 20), torch.inf)
    cost[1, 3] = 1.0
    new, _ = Mixture(Rates(), 3, 0.5).refit(state, x, cost, 4)
    assert torch.equal(new.mean[0], state.mean[0])
    assert torch.equal(new.var[0], state.var[0])
    assert torch.equal(new.weight[0], state.weight[0])
    assert new.best_fun.tolist() == [torch.inf, 1.0]
    assert bool(new.mean.isfinite().all() and new.var.isfinite().all())
