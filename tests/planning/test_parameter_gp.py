"""Values between solved draws, against joint normal distributions written out."""

import numpy as np
import torch

from pyro_geo.planning import ParameterGP
from pyro_geo.planning._parameter_process import Lanes, _Evidence

N, M, P = 12, 30, 2


def problem(seed: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    theta = torch.rand(N, P, generator=g, dtype=torch.float64)
    draws = torch.rand(M, P, generator=g, dtype=torch.float64)
    return theta, draws


def kernel(x: np.ndarray, y: np.ndarray, lengthscale: np.ndarray) -> np.ndarray:
    r = 5**0.5 * np.linalg.norm((x[:, None] - y[None]) / lengthscale, axis=-1)
    return (1 + r + r**2 / 3) * np.exp(-r)


def lanes(
    batch: int, scale: torch.Tensor, shift: torch.Tensor, sign: float = 1.0
) -> Lanes:
    """Smoother kernels alone, of lengthscales .3 and .7."""
    one = torch.ones(batch, dtype=torch.float64)
    kind = torch.ones(batch, dtype=torch.long)
    lengthscale = torch.tensor([[0.3, 0.7]], dtype=torch.float64).expand(batch, -1)
    action = torch.arange(batch)
    return Lanes(action, kind, one, lengthscale, scale, shift, sign * one, one)


def test_moments_are_those_of_log_normal_variables() -> None:
    theta, draws = problem(0, 1)
    g = np.random.default_rng(1)
    y, v, w = g.normal(size=N), g.uniform(0.001, 0.02, N), g.dirichlet(np.ones(M))
    gp = ParameterGP(theta)
    shift, widening = 0.8, 1.3
    one = torch.ones(1, dtype=torch.float64)
    gp.lanes = lanes(1, 1.7 * one, shift * one, -1.0)._replace(widening=widening * one)
    found = gp.predict(
        torch.tensor(y)[None], torch.tensor(v)[None], draws, torch.tensor(w).log()
    )
    end, unit = y.max(), y.std(ddof=1)
    inside = (end - y) / unit + shift
    z, s = np.log(inside), np.log(inside).std(ddof=1)
    # a constant of wide variance, in the units of the logarithms
    x = np.concatenate([theta.numpy(), draws.numpy()])
    prior = s**2 * (1.7 * kernel(x, x, np.array([0.3, 0.7])) + 1e6)
    inner = prior[:N, :N] + np.diag(v / (unit * inside) ** 2 + 1e-6 * s**2)
    gain = np.linalg.solve(inner, prior[:N, N:])
    mean = z.mean() + gain.T @ (z - z.mean())
    cov = prior[N:, N:] - prior[N:, :N] @ gain
    own = np.diag(cov)
    size = unit * np.exp(mean + own / 2)
    sd = size * np.sqrt(np.expm1(widening * own))
    values = end + unit * shift - size
    np.testing.assert_allclose(found.values[:, 0], values, atol=2e-5)
    np.testing.assert_allclose(found.variance[:, 0].sqrt(), sd, atol=2e-5)
    np.testing.assert_allclose(float(found.mean), w @ values, atol=2e-5)
    # the variance of the average, not the average of variances
    both = w * sd / np.sqrt(own)
    expected = both @ cov @ both
    np.testing.assert_allclose(float(found.mean_variance), expected, rtol=1e-4)
    assert expected < 0.9 * float(w @ sd**2)
    exact = (w * size) @ np.expm1(widening * cov) @ (w * size)
    assert exact <= expected * (1 + 1e-9) < 1.2 * exact


def test_intervals_of_averages_cover_as_often_as_they_say() -> None:
    batch, (theta, draws) = 400, problem(2, 400)
    g = np.random.default_rng(3)
    x = np.concatenate([theta.numpy(), draws.numpy()])
    inner = kernel(x, x, np.array([0.3, 0.7]))
    lower = np.linalg.cholesky(inner + 1e-9 * np.eye(N + M))
    f = torch.tensor(0.6 * g.normal(size=(batch, N + M)) @ lower.T).exp()
    y = f[:, :N]
    gp = ParameterGP(theta)
    gp.lanes = lanes(batch, 0.36 / y.log().var(-1), y.amin(-1) / y.std(-1))
    found = gp.predict(y, torch.zeros_like(y), draws)
    miss = (found.mean - f[:, N:].mean(1)).abs() / found.mean_variance.sqrt()
    share = float((miss < 1.96).double().mean())
    # sums of log-normal variables are not normal, so that a little less is expected
    assert abs(share - 0.945) < 4 * (0.95 * 0.05 / batch) ** 0.5
    # a twin that takes the errors at draws as independent covers far too seldom
    twin = (found.variance.mean(0) / M).sqrt()
    assert (
        float(((found.mean - f[:, N:].mean(1)).abs() < 1.96 * twin).double().mean())
        < 0.8
    )


def test_intervals_of_values_with_kinks_are_wide_enough() -> None:
    g = torch.Generator().manual_seed(8)
    batch, count = 40, 24
    theta, draws = torch.rand(2, 100, 2, generator=g, dtype=torch.float64)
    theta = theta[:count]
    # the best of three actions, each of smooth value
    wave = torch.randn(3, batch, 50, 2, generator=g, dtype=torch.float64) / 0.6
    phase = 6.3 * torch.rand(3, batch, 1, 50, generator=g, dtype=torch.float64)

    def best(x: torch.Tensor) -> torch.Tensor:
        smooth = (torch.einsum("abkp,np->abnk", wave, x) + phase).cos().sum(-1)
        return 0.2 * smooth.amax(0)

    y = best(theta)
    gp = ParameterGP(theta).fit(y, 0 * y)
    found = gp.predict(y, 0 * y, draws)
    gap = (found.mean - best(draws).mean(1)).abs()
    share = float((gap < 1.96 * found.mean_variance.sqrt()).double().mean())
    assert share > 0.95 - 3 * (0.95 * 0.05 / batch) ** 0.5
    # errors of one sign, where values were left out, widen intervals
    assert gp.lanes is not None
    assert bool((gp.lanes.widening >= 1).all())
    assert float(gp.lanes.widening.max()) > 1.2


def test_a_parameter_that_does_nothing_gets_a_long_lengthscale() -> None:
    g = torch.Generator().manual_seed(4)
    theta = torch.rand(40, 2, generator=g, dtype=torch.float64)
    y = torch.stack([(5 * theta[:, 0]).sin(), 3 + (4 * theta[:, 1]).cos()])
    gp = ParameterGP(theta).fit(y, torch.zeros_like(y))
    assert gp.lanes is not None
    for action, (first, second) in zip(
        gp.lanes.action, gp.lanes.lengthscale, strict=True
    ):
        assert second > 3 * first if action == 0 else first > 3 * second
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
    gp = ParameterGP(theta).fit(y[0], v[0])
    for variance in (v, 0 * v):
        found = gp.averages(y, variance, draws, weights)
        for c in range(3):
            one = gp.predict(y[c], variance[c], draws, weights[c]).mean
            torch.testing.assert_close(found[c], one, atol=1e-9, rtol=1e-9)


def test_constant_values_are_predicted_as_they_are() -> None:
    theta, draws = problem(7, 1)
    y = torch.full((1, N), 4.0, dtype=torch.float64)
    found = ParameterGP(theta).fit(y, 0 * y).predict(y, 0 * y, draws)
    torch.testing.assert_close(found.values, torch.full((M, 1), 4.0).double())


def test_the_evidence_has_the_derivatives_of_differences() -> None:
    g = torch.Generator().manual_seed(6)
    root = torch.randn(2, 5, 5, generator=g, dtype=torch.float64)
    inner = (root @ root.mT + torch.eye(5)).requires_grad_()
    z = torch.randn(2, 5, generator=g, dtype=torch.float64).requires_grad_()

    def evidence(inner: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        # halves, because the derivative is that of symmetric matrices
        return _Evidence.apply(0.5 * (inner + inner.mT), z)

    assert torch.autograd.gradcheck(evidence, (inner, z))
    # one that is not positive-definite is infinitely bad, and spoils no other
    both = torch.stack([torch.zeros(5, 5).double(), inner[1].detach()])
    found: torch.Tensor = evidence(both, z.detach())
    assert found[0] == -torch.inf
    torch.testing.assert_close(found[1], evidence(inner, z)[1].detach())
    # the constant is integrated out: a normal density of contrasts
    contrast = torch.linalg.svd(torch.ones(1, 5).double()).Vh[1:]
    law = torch.distributions.MultivariateNormal(
        torch.zeros(4).double(), contrast @ inner.detach() @ contrast.T
    )
    gap = evidence(inner, z).detach() - law.log_prob(z.detach() @ contrast.T)
    assert float((gap[0] - gap[1]).abs()) < 1e-10
