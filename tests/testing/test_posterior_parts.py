"""What the models of posteriordb are built of, against loops and other solvers."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from scipy import stats
from scipy.integrate import solve_ivp

from pyro_geo.errors import InitializationError
from pyro_geo.testing.posteriordb import folder, load
from pyro_geo.testing.posteriors._parts import Restricted
from pyro_geo.testing.posteriors._predation import log_populations
from pyro_geo.testing.posteriors._scans import affine_scan, log_matrix_product


def looped_affine(shift, factor):
    values = [shift[0]]
    for c in shift[1:]:
        values.append(c + factor * values[-1])
    return torch.stack(values)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 21])
def test_the_affine_scan_is_the_loop_with_both_derivatives(length):
    shift = torch.rand(length, dtype=torch.float64)
    factor = torch.tensor(0.8, dtype=torch.float64)
    weights = torch.rand(length, dtype=torch.float64)
    torch.testing.assert_close(
        affine_scan(shift, factor), looped_affine(shift, factor), rtol=1e-13, atol=0
    )

    def total(scan):
        return lambda x: (weights * scan(x[1:], x[0]) ** 2).sum()

    x = torch.cat([factor.unsqueeze(0), shift])
    for derivative in (
        torch.func.grad,
        lambda f: torch.func.jacrev(torch.func.grad(f)),
    ):
        found = derivative(total(affine_scan))(x)
        wanted = derivative(total(looped_affine))(x)
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("length", [1, 2, 5, 16, 99])
def test_the_matrix_product_is_the_loop_in_log_space(length):
    logs = 5 * torch.randn(length, 3, 3, dtype=torch.float64)
    logs[0] -= 1000  # far below what the product itself could hold

    def looped(logs):
        total = logs[0]
        for factor in logs[1:]:
            total = torch.logsumexp(total.unsqueeze(-1) + factor, -2)
        return total

    torch.testing.assert_close(log_matrix_product(logs), looped(logs))
    for fn in (log_matrix_product, looped):
        assert fn(logs).shape == (3, 3)
    found, wanted = (
        torch.func.jacrev(lambda x, fn=fn: fn(x)[0, 1])(logs)
        for fn in (log_matrix_product, looped)
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.skipif(folder() is None, reason="no posteriordb folder; set PDB_PATH")
def test_populations_follow_the_equations_to_fourth_order():
    posterior = load("hudson_lynx_hare-lotka_volterra")
    ts, _, y = posterior.args
    names = ("theta", "z_init", "sigma")
    rows = [posterior.reference[site][:, :2].flatten(0, 1) for site in names]

    def solve(theta, start, **options):
        a, b, c, d = theta.tolist()

        def rates(_, z):
            return [(a - b * z[1]) * z[0], (-c + d * z[0]) * z[1]]

        done = solve_ivp(rates, (0, 20), start.numpy(), t_eval=ts.numpy(), **options)
        return torch.from_numpy(np.log(done.y.T))

    def log_density(log_z, sigma):
        return (-0.5 * ((y.log() - log_z) / sigma) ** 2).sum()

    errors = {key: [] for key in ("published", "one step", "two steps")}
    for theta, start, sigma in zip(*rows, strict=True):
        exact = solve(theta, start, method="DOP853", rtol=1e-11, atol=1e-11)
        values = {
            "published": solve(theta, start, rtol=1e-5, atol=1e-3),
            "one step": log_populations(theta, start.log(), ts),
            "two steps": log_populations(theta, start.log(), ts, 2),
        }
        for key, value in values.items():
            off = log_density(value, sigma) - log_density(exact, sigma)
            errors[key].append(abs(float(off)))
    allowed, ours, finer = (max(errors[key]) for key in errors)
    assert ours < allowed
    assert 10 < ours / finer < 22  # sixteen in the limit


def test_a_restricted_prior_stays_in_its_part():
    base = dist.Normal(torch.tensor([1.0, 0.0]), 1.0).to_event(1)
    prior = Restricted(base, constraints.ordered_vector)
    draws = prior.sample((500,))
    assert draws.shape == (500, 2)
    assert bool((draws[:, 0] < draws[:, 1]).all())
    # the difference is normal, of mean -1 and scale sqrt(2), cut at zero
    gap = stats.truncnorm(1 / math.sqrt(2), math.inf, loc=-1, scale=math.sqrt(2))
    assert stats.kstest((draws[:, 1] - draws[:, 0]).numpy(), gap.cdf).pvalue > 1e-3
    torch.testing.assert_close(prior.log_prob(draws), base.log_prob(draws))


def test_a_restricted_prior_without_room_says_so():
    prior = Restricted(dist.Normal(-100.0, 1.0), constraints.positive)
    with pytest.raises(InitializationError, match=r"Normal.*10000 draws outside"):
        prior.sample()
