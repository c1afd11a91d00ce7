"""Fits by the expected Hessian, against quadrature and against normal densities."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoLaplaceApproximation

from pyro_geo.density import Target
from pyro_geo.errors import ConvergenceWarning, ShapeError
from pyro_geo.summaries import GaussianPosterior

pytestmark = pytest.mark.usefixtures("double_precision")


def target_of(potential, dim, *data):
    return Target.from_potential(potential, dim, *data, compile=False)


def test_a_normal_density_is_fitted_exactly():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=generator)
    matrix = root @ root.T + torch.eye(4)
    mean = torch.randn(4, generator=generator)
    target = target_of(lambda q, m, a: 0.5 * (q - m) @ a @ (q - m), 4, mean, matrix)
    found = GaussianPosterior.from_target(target, num_points=16)
    torch.testing.assert_close(found.loc, mean, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found.precision.dense(), matrix, rtol=1e-7, atol=1e-7)


def test_precision_is_the_expected_hessian_by_quadrature():
    # a skewed, log-concave density: the logarithm of a gamma variable
    target = target_of(lambda q: (q.exp() - 1.5 * q).sum(), 1)
    found = GaussianPosterior.from_target(target, num_points=4096)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    q = float(found.loc) + float(found.scale) * nodes
    weights = weights / weights.sum()
    assert weights @ (np.exp(q) - 1.5) == pytest.approx(0, abs=5e-3)
    precision = float(found.precision.dense())
    assert weights @ np.exp(q) == pytest.approx(precision, rel=3e-3)
    # in closed form: E[exp q] = exp(m + v / 2) = 1.5, and 1 / v = 1.5
    assert precision == pytest.approx(1.5, rel=3e-3)
    assert float(found.loc) == pytest.approx(np.log(1.5) - 1 / 3, abs=2e-3)
    # the Hessian at the mode is the same here, the mode is not
    assert float(found.loc) < np.log(1.5) - 0.3


def test_a_model_is_fitted_and_closer_than_its_laplace_approximation():
    x = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [2.0, -1.0], [0.3, 0.2], [1.0, 1.0]])
    y = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])

    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)

    target = Target.from_model(model, x, y, compile=False)
    found = GaussianPosterior.from_target(target, num_points=128)
    grid = torch.linspace(-8.0, 12.0, 201)
    q = torch.cartesian_prod(grid, grid)
    log_p = target.log_prob(q)
    log_p = log_p - log_p.logsumexp(0)

    def divergence(posterior):
        log_q = posterior.log_density(q)
        weights = log_q.softmax(0)
        return float(weights @ (log_q - log_q.logsumexp(0) - log_p))

    guide = AutoLaplaceApproximation(model)
    guide(x, y)
    start = found.loc
    guide.loc.data = _mode(target, start)
    assert divergence(found) < divergence(GaussianPosterior.from_guide(guide, x, y))


def _mode(target, q):
    for _ in range(20):
        value, slope = target.value_and_grad(q[None])
        hessian = torch.stack(
            [target.hvp(q[None], e[None])[0] for e in torch.eye(target.dim)]
        )
        q = q - torch.linalg.solve(hessian, slope[0])
    return q


def test_a_fit_that_is_cut_off_says_so(monkeypatch):
    monkeypatch.setattr("pyro_geo.summaries._expected._STEPS", 1)
    target = target_of(lambda q: (q.exp() - q).sum(), 1)
    with pytest.warns(ConvergenceWarning, match="expected Hessian"):
        found = GaussianPosterior.from_target(target, start=torch.ones(1), num_points=8)
    assert "cut off" in found.notes[0]
    with pytest.raises(ShapeError, match="argument start"):
        GaussianPosterior.from_target(target, start=torch.ones(2))
