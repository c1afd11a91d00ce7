"""Models whose posteriors are known exactly, with and without some of their data."""

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo import Target
from pyro_geo.results import MemoryDraws, PosteriorDraws

NOISE = 0.5


def linear(x: Tensor, y: Tensor) -> None:
    zero = torch.zeros(x.shape[1], dtype=x.dtype)
    w = pyro.sample("w", dist.Normal(zero, 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, NOISE), obs=y)


def intercepts(y: Tensor) -> None:
    """Subjects with an intercept of their own, rows of `y`."""
    mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
    with pyro.plate("subject", len(y)):
        b = pyro.sample("b", dist.Normal(mean, 0.7))
        pyro.sample("y", dist.Normal(b[:, None], NOISE).to_event(1), obs=y)


class Gaussian(NamedTuple):
    """Mean and precision."""

    loc: Tensor
    precision: Tensor

    @property
    def covariance(self) -> Tensor:
        return torch.linalg.inv(self.precision)

    @property
    def sd(self) -> Tensor:
        return self.covariance.diagonal().sqrt()

    def draws(self, count: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(
            count, len(self.loc), generator=generator, dtype=self.loc.dtype
        )
        return self.loc + noise @ torch.linalg.cholesky(self.covariance).mT


def data(n: int = 60, d: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return x, x @ torch.arange(1.0, d + 1, dtype=torch.float64) + NOISE * noise


def posterior(x: Tensor, y: Tensor) -> Gaussian:
    """Posterior of the weights of :func:`linear`."""
    precision = torch.eye(x.shape[1], dtype=x.dtype) + x.mT @ x / NOISE**2
    return Gaussian(torch.linalg.solve(precision, x.mT @ y / NOISE**2), precision)


def leverage(x: Tensor, y: Tensor, rows: list[int]) -> float:
    whole = posterior(x, y).precision
    part = x[rows].mT @ x[rows] / NOISE**2
    return float(torch.linalg.eigvals(torch.linalg.solve(whole, part)).real.max())


def intercepts_posterior(y: Tensor) -> Gaussian:
    """Joint posterior of all intercepts and their mean, in the order of the names."""
    m, n = y.shape
    precision = torch.zeros(m + 1, m + 1, dtype=y.dtype)
    between, within = 1 / 0.7**2, n / NOISE**2
    precision.diagonal()[:m] = between + within
    precision[m, m] = 1 + m * between
    precision[:m, m] = precision[m, :m] = -between
    pull = torch.cat([y.sum(1) / NOISE**2, torch.zeros(1, dtype=y.dtype)])
    return Gaussian(torch.linalg.solve(precision, pull), precision)


def fit_of(target: Target, q: Tensor, chains: int = 4) -> PosteriorDraws:
    return PosteriorDraws(target, MemoryDraws(target, q.unflatten(0, (chains, -1))))


def linear_fit(
    x: Tensor, y: Tensor, draws: int = 2000, seed: int = 0
) -> PosteriorDraws:
    target = Target.from_model(linear, x, y, dtype=torch.float64)
    return fit_of(target, posterior(x, y).draws(draws, seed))


def error(fit: PosteriorDraws, truth: Gaussian) -> float:
    """Largest error of a mean, in posterior standard deviations."""
    q = fit.positions.flatten(0, 1)
    weights = fit.log_weights
    share = torch.full((len(q),), 1 / len(q), dtype=q.dtype)
    if weights is not None:
        share = weights.softmax(0).to(q)
    return float(((share @ q - truth.loc) / truth.sd).abs().max())


def spread(fit: PosteriorDraws, truth: Gaussian) -> float:
    """Largest relative error of a standard deviation."""
    q = fit.positions.flatten(0, 1)
    weights = fit.log_weights
    share = torch.full((len(q),), 1 / len(q), dtype=q.dtype)
    if weights is not None:
        share = weights.softmax(0).to(q)
    var = share @ (q - share @ q).square()
    return float((var.sqrt() / truth.sd - 1).abs().max())
