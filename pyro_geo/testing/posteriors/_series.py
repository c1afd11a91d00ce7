"""Time series whose recurrences take logarithmically many steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_geo.testing.posteriors._parts import Entry, Restricted, Sites, flat
from pyro_geo.testing.posteriors._scans import affine_scan, log_matrix_product

__all__ = ["MODELS", "autoregression", "garch", "hidden_markov"]

Data = Mapping[str, Any]


def autoregression(lagged: Tensor, y: Tensor) -> None:
    """Autoregression of the order that `lagged` has columns (arK).

    Args:
        lagged: the values before each one, the last first, `(t, order)`.
        y: the values that have enough before them, `(t,)`.
    """
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    zeros = torch.zeros(lagged.shape[-1])
    beta = pyro.sample("beta", dist.Normal(zeros, 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(alpha + lagged @ beta, sigma), obs=y)


def garch(y: Tensor, sigma1: Tensor) -> None:
    r"""Conditional variance that follows the last error and itself (garch11).

    .. math::
        \sigma_t^2 = \alpha_0 + \alpha_1 (y_{t-1} - \mu)^2 + \beta_1 \sigma_{t-1}^2

    with a flat prior where :math:`\alpha_1 + \beta_1 < 1`: on this triangle
    :math:`\alpha_1` alone is Beta(1, 2), and :math:`\beta_1` given it uniform.

    Args:
        y: the series, `(t,)`.
        sigma1: scale of its first value, `()`.
    """
    mu = pyro.sample("mu", flat(constraints.real))
    alpha0 = pyro.sample("alpha0", flat(constraints.positive))
    alpha1 = pyro.sample("alpha1", dist.Beta(1.0, 2.0))
    share = pyro.sample("share", dist.Uniform(0.0, 1.0))
    beta1 = pyro.deterministic("beta1", share * (1 - alpha1))
    errors = (y[:-1] - mu) ** 2
    start = (sigma1**2).expand(1)
    variance = affine_scan(torch.cat([start, alpha0 + alpha1 * errors]), beta1)
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(mu, variance.sqrt()), obs=y)


def _garch_latents(sites: Sites) -> Sites:
    latents = dict(sites)
    beta1 = latents.pop("beta1")
    return latents | {"share": beta1 / (1 - sites["alpha1"])}


def hidden_markov(y: Tensor) -> None:
    """Two hidden states with normal emissions of unit scale (hmm_example).

    Rows of transition probabilities are flat on the simplex, the first state has no
    prior, and the emission means are positive and in order.

    Args:
        y: the series, `(t,)`.
    """
    ones = torch.ones(2)
    theta1 = pyro.sample("theta1", dist.Dirichlet(ones))
    theta2 = pyro.sample("theta2", dist.Dirichlet(ones))
    means = dist.Normal(torch.tensor([3.0, 10.0]), 1.0).to_event(1)
    mu = pyro.sample("mu", Restricted(means, constraints.positive_ordered_vector))
    emission = dist.Normal(mu, 1.0).log_prob(y.unsqueeze(-1))  # (t, state)
    moves = torch.stack([theta1, theta2]).log()  # (from, to)
    paths = log_matrix_product(moves + emission[1:].unsqueeze(-2))
    pyro.factor("y", torch.logsumexp(emission[0].unsqueeze(-1) + paths, (-2, -1)))


def _ark(data: Data, dtype: torch.dtype) -> tuple[Tensor, ...]:
    y = torch.tensor(data["y"], dtype=dtype)
    order = data["K"]
    return y.unfold(0, order, 1)[:-1].flip(-1).contiguous(), y[order:]


def _garch(data: Data, dtype: torch.dtype) -> tuple[Tensor, ...]:
    y = torch.tensor(data["y"], dtype=dtype)
    return y, torch.tensor(data["sigma1"], dtype=dtype)


def _hmm(data: Data, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return (torch.tensor(data["y"], dtype=dtype),)


MODELS = {
    "arK-arK": Entry(autoregression, _ark),
    "garch-garch11": Entry(garch, _garch, _garch_latents),
    "hmm_example-hmm_example": Entry(hidden_markov, _hmm),
}
