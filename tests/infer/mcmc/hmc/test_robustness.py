"""Warm-up under bad conditions: scales, correlation, far starts, stuck chains."""

import math

import pytest
import torch
from scipy.stats import t as student

from pyro_geo._compat.arviz import import_arviz
from pyro_geo.density import Target
from pyro_geo.errors import ConvergenceWarning
from pyro_geo.infer import HMC, MCMC
from tests.cases import numbers

FALSE_ALARM = 1e-4  # of the moments of one fit


def normal(covariance):
    """A normal density about zero as a target."""
    precision = torch.linalg.inv(covariance)
    return Target.from_potential(
        lambda q: 0.5 * (q @ precision * q).sum(-1),
        len(covariance),
        dtype=torch.float64,
    )


def run(target, num_samples=400, num_chains=16, initial=None, **options):
    fit = MCMC(
        HMC(target, **options),
        num_samples,
        num_chains=num_chains,
        seed=0,
        compile=False,
        progress_bar=False,
        initial_params=initial,
    )
    return fit.run()


def check(draws, covariance):
    """Means and variances by the spread of chain means, and R-hat.

    Chains are independent but for their tuning, which is frozen, so the mean of each
    over its draws is one observation of Student's test. The draws are looked at in the
    coordinates in which all are independent and of one scale, where a fault in any
    direction shows.
    """
    factor = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(factor, draws.mT, upper=False).mT
    chains, _, dim = z.shape
    for excess in (z, z.square() - 1):
        means = excess.mean(1)
        score = means.mean(0) / (means.std(0) / math.sqrt(chains))
        limit = student.isf(FALSE_ALARM / (4 * dim), chains - 1)
        assert float(score.abs().max()) < limit
    az = import_arviz()
    r_hat = max(float(az.rhat(z[..., i].numpy())) for i in range(dim))
    assert r_hat < 1.01
    effective = min(float(az.ess(z[..., i].numpy())) for i in range(dim))
    assert effective > 400


@pytest.mark.parametrize("metric", ["dense", "diagonal", "low_rank"])
def test_scales_that_are_eight_orders_apart(metric):
    scale = torch.logspace(-4, 4, 9, dtype=torch.float64)
    covariance = scale.square().diag()
    precision = 1 / scale.square()
    target = Target.from_potential(
        lambda q: 0.5 * (q.square() * precision).sum(-1), 9, dtype=torch.float64
    )
    fit = run(target, metric=metric)
    check(fit.positions, covariance)
    assert not bool(fit.stats["diverging"].any())


def test_scales_four_orders_apart_in_single_precision():
    scale = torch.logspace(-2, 2, 5, dtype=torch.float32)
    target = Target.from_potential(
        lambda q: 0.5 * (q / scale).square().sum(-1), 5, dtype=torch.float32
    )
    fit = run(target)
    assert fit.positions.dtype == torch.float32
    check(fit.positions.double(), scale.double().square().diag())


@pytest.mark.parametrize("dim", [2, 20])
def test_a_strongly_correlated_normal(dim):
    """Correlation 0.999 between neighbours: condition number far above a thousand."""
    index = torch.arange(dim, dtype=torch.float64)
    covariance = 0.999 ** (index[:, None] - index).abs()
    fit = run(normal(covariance))
    check(fit.positions, covariance)
    # the dense metric has undone it: a trajectory has few steps
    assert float(fit.stats["n_steps"].double().mean()) < 20


def test_chains_that_start_a_million_deviations_away():
    covariance = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64)
    far = {"q": 1e6 * (1 + 0.1 * numbers(16, 2))}
    fit = run(normal(covariance), initial=far)
    check(fit.positions, covariance)


def test_one_chain_far_away_comes_home():
    covariance = torch.eye(3, dtype=torch.float64)
    start = numbers(16, 3)
    start[5] = 1e6
    fit = run(normal(covariance), initial={"q": start})
    check(fit.positions, covariance)


# -- chains that are lost -----------------------------------------------------------


def plateau(q):
    """A normal density with a flat shelf far away, without a slope that leads back."""
    square = q.square().sum(-1)
    return torch.where(square > 1e8, 1e6 + 0.0 * square, 0.5 * square)


def test_a_placed_chain_on_a_flat_shelf_stays_and_is_reported():
    target = Target.from_potential(plateau, 2, dtype=torch.float64)
    start = numbers(16, 2)
    start[3] = 1e5
    with pytest.warns(ConvergenceWarning, match="1 of 16 chains, by their density"):
        fit = run(target, num_samples=150, initial={"q": start})
    assert fit.attributes["restarted_chains"] == 0
    assert bool((fit.positions[3].square().sum(-1) > 1e8).all())
    # the others are as sound as without it
    check(fit.positions[torch.arange(16) != 3], torch.eye(2, dtype=torch.float64))
