"""A hierarchy, a mixture, a Gaussian process and a system of differential equations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_geo.testing.posteriors._parts import (
    Entry,
    Restricted,
    Sites,
    positive_vector,
)
from pyro_geo.testing.posteriors._predation import log_populations

__all__ = [
    "MODELS",
    "eight_schools",
    "gaussian_mixture",
    "gaussian_process",
    "predation",
]

Data = Mapping[str, Any]


def eight_schools(y: Tensor, sigma: Tensor) -> None:
    """Effects of coaching, non-centred (eight_schools_noncentered).

    Args:
        y: estimated effects, `(n,)`.
        sigma: their standard errors, `(n,)`.
    """
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta_trans = pyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * theta_trans)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def _schools_latents(sites: Sites) -> Sites:
    mu, tau, theta = (sites[name] for name in ("mu", "tau", "theta"))
    trans = (theta - mu.unsqueeze(-1)) / tau.unsqueeze(-1)
    return {"mu": mu, "tau": tau, "theta_trans": trans}


def gaussian_mixture(y: Tensor) -> None:
    """Two normal components in the order of their means (low_dim_gauss_mix).

    Args:
        y: the data, `(n,)`.
    """
    means = dist.Normal(torch.zeros(2), 2.0).to_event(1)
    mu = pyro.sample("mu", Restricted(means, constraints.ordered_vector))
    sigma = pyro.sample("sigma", dist.HalfNormal(torch.full((2,), 2.0)).to_event(1))
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    with pyro.plate("data", len(y)):
        # a last axis of two components, as MixtureSameFamily has, takes nine times as
        # long: compiled loops run along the last axis
        first = theta.log() + dist.Normal(mu[0], sigma[0]).log_prob(y)
        second = torch.log1p(-theta) + dist.Normal(mu[1], sigma[1]).log_prob(y)
        less = torch.exp(-(first - second).abs())
        pyro.factor("y", torch.maximum(first, second) + torch.log(1 + less))


def gaussian_process(x: Tensor, y: Tensor) -> None:
    """Gaussian process with a squared exponential kernel (gp_regr).

    Here `sigma` is the variance of the noise, not its scale.

    Args:
        x: places, `(n,)`.
        y: values, `(n,)`.
    """
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    distance = (x.unsqueeze(-1) - x) / rho
    covariance = alpha**2 * torch.exp(-0.5 * distance**2) + sigma * torch.eye(len(x))
    factor = torch.linalg.cholesky(covariance)
    zero = torch.zeros(len(x))
    pyro.sample("y", dist.MultivariateNormal(zero, scale_tril=factor), obs=y)


def predation(ts: Tensor, y_init: Tensor, y: Tensor) -> None:
    r"""Populations of prey :math:`u` and predators :math:`v` (lotka_volterra).

    .. math::
        \dot u = (\theta_1 - \theta_2 v)\,u, \qquad
        \dot v = (-\theta_3 + \theta_4 u)\,v

    Args:
        ts: times of the measurements after 0, `(t,)`.
        y_init: measured populations at time 0, `(2,)`.
        y: measured populations, `(t, 2)`.
    """
    rates = dist.Normal(
        torch.tensor([1.0, 0.05, 1.0, 0.05]), torch.tensor([0.5, 0.05, 0.5, 0.05])
    )
    theta = pyro.sample("theta", Restricted(rates.to_event(1), positive_vector))
    sigma = pyro.sample("sigma", dist.LogNormal(-torch.ones(2), 1.0).to_event(1))
    sizes = dist.LogNormal(torch.full((2,), 10.0).log(), 1.0)
    z_init = pyro.sample("z_init", sizes.to_event(1))
    log_z = log_populations(theta, z_init.log(), ts)
    with pyro.plate("species", 2, dim=-1):
        pyro.sample("y_init", dist.LogNormal(z_init.log(), sigma), obs=y_init)
        with pyro.plate("time", len(ts), dim=-2):
            pyro.sample("y", dist.LogNormal(log_z, sigma), obs=y)


def _tensors(data: Data, dtype: torch.dtype, *names: str) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(data[name], dtype=dtype) for name in names)


MODELS = {
    "eight_schools-eight_schools_noncentered": Entry(
        eight_schools,
        lambda data, dtype: _tensors(data, dtype, "y", "sigma"),
        _schools_latents,
    ),
    "gp_pois_regr-gp_regr": Entry(
        gaussian_process, lambda data, dtype: _tensors(data, dtype, "x", "y")
    ),
    "hudson_lynx_hare-lotka_volterra": Entry(
        predation, lambda data, dtype: _tensors(data, dtype, "ts", "y_init", "y")
    ),
    "low_dim_gauss_mix-low_dim_gauss_mix": Entry(
        gaussian_mixture, lambda data, dtype: _tensors(data, dtype, "y")
    ),
}
