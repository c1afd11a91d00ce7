"""Values between solved draws, against joint normal distributions written out."""

import numpy as np
import torch

from pyro_geo.planning import ParameterGP

N, M, P = 12, 30, 2


def problem(seed: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    theta = torch.rand(N, P, generator=g, dtype=torch.float64)
    draws = torch.rand(M, P, generator=g, dtype=torch.float64)
    return theta, draws


def kernel(x: np.ndarray, y: np.ndarray, lengthscale: np.ndarray) -> np.ndarray:
    gap = (x[:, None] - y[None]) / lengthscale
    return np.exp(-0.5 * (gap**2).sum(-1))


def test_moments_are_those_of_the_joint_normal() -> None:
    theta, draws = problem(0, 1)
    g = np.random.default_rng(1)
    y, v, w = g.normal(size=N), g.uniform(0.01, 0.2, N), g.dirichlet(np.ones(M))
    gp = ParameterGP(theta)
    gp.lengthscale = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    gp.scale = torch.tensor([1.7], dtype=torch.float64)
    found = gp.predict(
        torch.tensor(y)[None], torch.tensor(v)[None], draws, torch.tensor(w).log()
    )
    # a constant of wide variance, all in the units of the standardised values
    centre, unit = y.mean(), y.std(ddof=1)
    lengthscale, wide = np.array([0.3, 0.7]), 1e6
    x = np.concatenate([theta.numpy(), draws.numpy()])
    prior = 1.7 * kernel(x, x, lengthscale) + wide
    inner = prior[:N, :N] + np.diag(v / unit**2 + 1e-4)
    gain = np.linalg.solve(inner, prior[:N, N:])
    mean = centre + unit * gain.T @ ((y - centre) / unit)
    cov = unit**2 * (prior[N:, N:] - prior[N:, :N] @ gain)
    np.testing.assert_allclose(found.values[:, 0], mean, atol=2e-5)
    np.testing.assert_allclose(found.variance[:, 0], np.diag(cov), atol=2e-5)
    np.testing.assert_allclose(float(found.mean), w @ mean, atol=2e-5)
    # the variance of the average, not the average of variances
    np.testing.assert_allclose(float(found.mean_variance), w @ cov @ w, atol=2e-5)
    assert float(found.mean_variance) < 0.9 * float(w @ np.diag(cov))


def test_intervals_of_averages_cover_as_often_as_they_say() -> None:
    batch, (theta, draws) = 400, problem(2, 400)
    g = np.random.default_rng(3)
    lengthscale = np.array([0.4, 0.4])
    x = np.concatenate([theta.numpy(), draws.numpy()])
    lower = np.linalg.cholesky(kernel(x, x, lengthscale) + 1e-9 * np.eye(N + M))
    f = torch.tensor(g.normal(size=(batch, N + M)) @ lower.T)
    gp = ParameterGP(theta)
    gp.lengthscale = torch.full((batch, P), 0.4, dtype=torch.float64)
    y = f[:, :N]
    gp.scale = 1 / y.var(-1)  # of the standardised values
    found = gp.predict(y, torch.zeros_like(y), draws)
    miss = (found.mean - f[:, N:].mean(1)).abs() / found.mean_variance.sqrt()
    share = float((miss < 1.96).double().mean())
    assert abs(share - 0.95) < 4 * (0.95 * 0.05 / batch) ** 0.5
    # a twin that takes the errors at draws as independent covers far too seldom
    twin = (found.variance.mean(0) / M).sqrt()
    assert (
        float(((found.mean - f[:, N:].mean(1)).abs() < 1.96 * twin).double().mean())
        < 0.8
    )


def test_a_parameter_that_does_nothing_gets_a_long_lengthscale() -> None:
    g = torch.Generator().manual_seed(4)
    theta = torch.rand(40, 2, generator=g, dtype=torch.float64)
    y = torch.stack([(5 * theta[:, 0]).sin(), 3 + (4 * theta[:, 1]).cos()])
    gp = ParameterGP(theta).fit(y, torch.zeros_like(y))
    assert gp.lengthscale[0, 1] > 3 * gp.lengthscale[0, 0]
    assert gp.lengthscale[1, 0] > 3 * gp.lengthscale[1, 1]
    draws = torch.rand(50, 2, generator=g, dtype=torch.float64)
    found = gp.predict(y, torch.zeros_like(y), draws)
    truth = torch.stack([(5 * draws[:, 0]).sin(), 3 + (4 * draws[:, 1]).cos()], 1)
    assert float((found.values - truth).abs().max()) < 0.05
    assert float(found.explained.min()) > 0.95


def test_averages_of_many_posteriors_are_single_ones() -> None:
    theta, draws = problem(5, 1)
    g = torch.Generator().manual_seed(6)
    y = torch.randn(3, 2, N, generator=g, dtype=torch.float64)
    v = 0.1 * torch.rand(3, 2, N, generator=g, dtype=torch.float64)
    weights = torch.randn(3, M, generator=g, dtype=torch.float64)
    gp = ParameterGP(theta)
    gp.lengthscale = torch.tensor([[0.3, 0.7], [0.5, 0.2]], dtype=torch.float64)
    gp.scale = torch.tensor([1.2, 0.8], dtype=torch.float64)
    found = gp.averages(y, v, draws, weights)
    for c in range(3):
        one = gp.predict(y[c], v[c], draws, weights[c]).mean
        torch.testing.assert_close(found[c], one, atol=1e-9, rtol=1e-9)


def test_constant_values_are_predicted_as_they_are() -> None:
    theta, draws = problem(7, 1)
    y = torch.full((1, N), 4.0, dtype=torch.float64)
    found = ParameterGP(theta).fit(y, 0 * y).predict(y, 0 * y, draws)
    torch.testing.assert_close(found.values, torch.full((M, 1), 4.0).double())
