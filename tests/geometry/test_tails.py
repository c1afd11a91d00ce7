"""Log-tails against scipy, deep in both tails, and the separation they give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro.distributions
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_geo.errors import UnsupportedError
from pyro_geo.geometry.separation import tail
from pyro_geo.geometry.tails import log_outside, log_tails

dist: Any = pyro.distributions
DOUBLE = torch.float64


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


PAIRS: dict[str, tuple[Any, Any]] = {
    "normal": (dist.Normal(scalar(0.3), scalar(2.0)), stats.norm(0.3, 2.0)),
    "laplace": (dist.Laplace(scalar(0.3), scalar(2.0)), stats.laplace(0.3, 2.0)),
    "cauchy": (dist.Cauchy(scalar(0.3), scalar(2.0)), stats.cauchy(0.3, 2.0)),
    "student": (
        dist.StudentT(scalar(2.5), scalar(0.3), scalar(2.0)),
        stats.t(2.5, 0.3, 2.0),
    ),
    "exponential": (dist.Exponential(scalar(2.0)), stats.expon(scale=0.5)),
    "gamma": (dist.Gamma(scalar(2.3), scalar(1.7)), stats.gamma(2.3, scale=1 / 1.7)),
    "beta": (dist.Beta(scalar(2.3), scalar(0.7)), stats.beta(2.3, 0.7)),
    "half-normal": (dist.HalfNormal(scalar(2.0)), stats.halfnorm(scale=2.0)),
    "half-Cauchy": (dist.HalfCauchy(scalar(2.0)), stats.halfcauchy(scale=2.0)),
    "uniform": (dist.Uniform(scalar(-1.0), scalar(3.0)), stats.uniform(-1, 4)),
    "Gumbel": (dist.Gumbel(scalar(0.3), scalar(2.0)), stats.gumbel_r(0.3, 2.0)),
    "log-normal": (
        dist.LogNormal(scalar(0.3), scalar(0.7)),
        stats.lognorm(0.7, scale=math.exp(0.3)),
    ),
    "Weibull": (
        dist.Weibull(scalar(2.0), scalar(1.5)),
        stats.weibull_min(1.5, scale=2.0),
    ),
    "inverse gamma": (
        dist.InverseGamma(scalar(2.3), scalar(1.7)),
        stats.invgamma(2.3, scale=1.7),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_tails_are_those_of_scipy(name: str) -> None:
    base, other = PAIRS[name]
    p = np.array([1e-9, 1e-3, 0.2, 0.5, 0.8])
    x = np.concatenate((other.ppf(p), other.isf(p)))
    found = log_tails(base, torch.as_tensor(x))
    for one, expected in zip(found, (other.logcdf(x), other.logsf(x)), strict=True):
        torch.testing.assert_close(
            one, torch.as_tensor(expected), rtol=1e-7, atol=1e-12
        )
    # a tail is minus the logarithm of twice the smaller one, and smooth in x
    lower, upper = found
    smaller = torch.minimum(lower, upper) + math.log(2)
    torch.testing.assert_close(tail(base, torch.as_tensor(x)), -smaller.clamp(max=0))
    inner = torch.as_tensor(other.ppf([0.3, 0.9])).requires_grad_()
    (slope,) = torch.autograd.grad(log_tails(base, inner)[0].exp().sum(), inner)
    torch.testing.assert_close(slope, base.log_prob(inner).exp(), rtol=1e-9, atol=1e-12)


def test_far_tails_do_not_underflow() -> None:
    _, upper = log_tails(dist.Normal(scalar(0.0), 1.0), scalar(100.0))
    assert abs(float(upper) + 5005.524208694205) < 1e-9
    lower, upper = log_tails(dist.Gamma(scalar(500.0), 1.0), scalar(5.0))
    assert lower < -1700
    assert upper == 0


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_vectors_lie_outside_an_ellipsoid(dim: int) -> None:
    generator = torch.Generator().manual_seed(dim)
    a = torch.randn(dim, dim, generator=generator, dtype=DOUBLE)
    tril = torch.linalg.cholesky(a @ a.mT + 0.1 * torch.eye(dim, dtype=DOUBLE))
    loc = torch.randn(dim, generator=generator, dtype=DOUBLE)
    z = torch.randn(4, dim, generator=generator, dtype=DOUBLE)
    x = loc + z @ tril.mT
    square = z.square().sum(-1).numpy()
    normal = dist.MultivariateNormal(loc, scale_tril=tril)
    expected = torch.as_tensor(stats.chi2.logsf(square, dim))
    torch.testing.assert_close(log_outside(normal, x), expected)
    student = dist.MultivariateStudentT(scalar(3.0), loc, tril)
    expected = torch.as_tensor(stats.f.logsf(square / dim, dim, 3.0))
    torch.testing.assert_close(log_outside(student, x), expected)
    if dim == 1:
        flat = dist.Normal(loc[0], tril[0, 0])
        torch.testing.assert_close(tail(flat, x[:, 0]), tail(normal, x))


def test_unknown_bases_are_refused() -> None:
    for base in (dist.Poisson(1.0), dist.VonMises(0.0, 1.0)):
        with pytest.raises(UnsupportedError, match="Gamma.*InverseGamma"):
            log_tails(base, torch.tensor(1.0))
    vectors = dist.TransformedDistribution(
        dist.Normal(torch.zeros(2), 1.0).to_event(1),
        [torch.distributions.ExpTransform()],
    )
    with pytest.raises(UnsupportedError, match="vector"):
        log_tails(vectors, torch.ones(2))
