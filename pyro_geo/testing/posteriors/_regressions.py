"""Linear regressions with normal noise, told apart by their priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_geo.testing.posteriors._parts import Entry, flat

__all__ = ["MODELS", "cauchy_scale", "flat_priors", "given_priors", "normal_priors"]

Data = Mapping[str, Any]


def flat_priors(x: Tensor, y: Tensor) -> None:
    """Flat coefficients and a flat scale (logearn_height, logmesquite_logvolume, nes).

    Args:
        x: predictors, the column of ones included, `(n, d)`.
        y: responses, `(n,)`.
    """
    beta = pyro.sample("beta", flat(constraints.real_vector, x.shape[-1]))
    sigma = pyro.sample("sigma", flat(constraints.positive))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def cauchy_scale(x: Tensor, y: Tensor) -> None:
    """Flat coefficients and a half-Cauchy scale (kidscore_momiq, -_interaction).

    Args:
        x: predictors, the column of ones included, `(n, d)`.
        y: responses, `(n,)`.
    """
    beta = pyro.sample("beta", flat(constraints.real_vector, x.shape[-1]))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def normal_priors(x: Tensor, y: Tensor) -> None:
    """Normal coefficients and a half-normal scale, all of scale 10 (blr).

    Args:
        x: predictors, `(n, d)`.
        y: responses, `(n,)`.
    """
    beta = pyro.sample("beta", dist.Normal(torch.zeros(x.shape[-1]), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def given_priors(x: Tensor, y: Tensor, alpha_prior: Tensor, beta_prior: Tensor) -> None:
    """Straight line whose normal priors come with the data (kilpisjarvi).

    Args:
        x: years, `(n,)`.
        y: temperatures, `(n,)`.
        alpha_prior: mean and scale of the intercept, `(2,)`.
        beta_prior: mean and scale of the slope, `(2,)`.
    """
    alpha = pyro.sample("alpha", dist.Normal(alpha_prior[0], alpha_prior[1]))
    beta = pyro.sample("beta", dist.Normal(beta_prior[0], beta_prior[1]))
    sigma = pyro.sample("sigma", flat(constraints.positive))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)


def _columns(data: Data, names: Sequence[str], dtype: torch.dtype) -> list[Tensor]:
    return [torch.tensor(data[name], dtype=dtype) for name in names]


def _design(*columns: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(columns[0]), *columns], -1)


def _earnings(data: Data, dtype: torch.dtype) -> tuple[Tensor, ...]:
    height, earn = _columns(data, ["height", "earn"], dtype)
    return _design(height), earn.log()


def _mesquite(data: Data, dtype: torch.dtype) -> tuple[Tensor, ...]:
    names = ["diam1", "diam2", "canopy_height", "weight"]
    *sides, weight = _columns(data, names, dtype)
    volume = sides[0] * sides[1] * sides[2]
    return _design(volume.log()), weight.log()


def _nes(data: Data, dtype: torch.dtype) -> tuple[Tensor, ...]:
    before = _columns(data, ["real_ideo", "race_adj"], dtype)
    after = _columns(data, ["educ1", "gender", "income"], dtype)
    age, party = _columns(data, ["age_discrete", "partyid7"], dtype)
    groups = [(age == group).to(dtype) for group in (2, 3, 4)]
    return _design(*before, *groups, *after), party


def _momiq(data: Data, dtype: torch.dtype) -> tuple[Tensor, ...]:
    iq, score = _columns(data, ["mom_iq", "kid_score"], dtype)
    return _design(iq), score


def _interaction(data: Data, dtype: torch.dtype) -> tuple[Tensor, ...]:
    school, iq, score = _columns(data, ["mom_hs", "mom_iq", "kid_score"], dtype)
    return _design(school, iq, school * iq), score


def _blr(data: Data, dtype: torch.dtype) -> tuple[Tensor, ...]:
    x, y = _columns(data, ["X", "y"], dtype)
    return x, y


def _kilpisjarvi(data: Data, dtype: torch.dtype) -> tuple[Tensor, ...]:
    x, y = _columns(data, ["x", "y"], dtype)
    alpha = torch.tensor([data["pmualpha"], data["psalpha"]], dtype=dtype)
    beta = torch.tensor([data["pmubeta"], data["psbeta"]], dtype=dtype)
    return x, y, alpha, beta


MODELS = {
    "earnings-logearn_height": Entry(flat_priors, _earnings),
    "kidiq-kidscore_interaction": Entry(cauchy_scale, _interaction),
    "kidiq-kidscore_momiq": Entry(cauchy_scale, _momiq),
    "kilpisjarvi_mod-kilpisjarvi": Entry(given_priors, _kilpisjarvi),
    "mesquite-logmesquite_logvolume": Entry(flat_priors, _mesquite),
    "nes1972-nes": Entry(flat_priors, _nes),
    "sblri-blr": Entry(normal_priors, _blr),
}
