r"""Integrals of powers of densities, :math:`\log \int p^{1 + b}`."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, distributions

from pyro_geo._compat.torch import categorical_of
from pyro_geo.checks import handled_types
from pyro_geo.errors import UnsupportedError

__all__ = ["log_power_integral"]


@singledispatch
def log_power_integral(fn: Any, power: Tensor) -> Tensor:
    """Logarithm of the integral of a density to the power `1 + power`."""
    raise UnsupportedError(
        "no closed form for the integral of a power of a density",
        where="argument base",
        found=type(fn).__name__,
        expected=f"one of {', '.join(handled_types(log_power_integral))}",
        todo="Use BoundedLikelihood, which needs no integral.",
    )


@log_power_integral.register
def _(fn: distributions.Independent, power: Tensor) -> Tensor:
    inner = log_power_integral(fn.base_dist, power)
    axes = tuple(range(-fn.reinterpreted_batch_ndims, 0))
    return inner.sum(axes) if axes else inner


@log_power_integral.register
def _(fn: distributions.Normal, power: Tensor) -> Tensor:
    peak = fn.scale.log() + 0.5 * math.log(2 * math.pi)
    return -power * peak - 0.5 * torch.log1p(power)


@log_power_integral.register
def _(fn: distributions.MultivariateNormal, power: Tensor) -> Tensor:
    dim = fn.loc.shape[-1]
    peak = fn.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    peak = peak + 0.5 * dim * math.log(2 * math.pi)
    return -power * peak - 0.5 * dim * torch.log1p(power)


@log_power_integral.register
def _(fn: distributions.Laplace, power: Tensor) -> Tensor:
    return -power * (2 * fn.scale).log() - torch.log1p(power)


@log_power_integral.register
def _(fn: distributions.Exponential, power: Tensor) -> Tensor:
    return power * fn.rate.log() - torch.log1p(power)


@log_power_integral.register
def _(fn: distributions.StudentT, power: Tensor) -> Tensor:
    half = (fn.df + 1) / 2
    # a power of this density is the density of another number of degrees of freedom
    more = (1 + power) * half
    constant = torch.lgamma(half) - torch.lgamma(fn.df / 2)
    other = torch.lgamma(more) - torch.lgamma(more - 0.5)
    width = 0.5 * (fn.df * math.pi).log() + fn.scale.log()
    return (1 + power) * constant - other - power * width


@log_power_integral.register
def _(fn: distributions.Gamma, power: Tensor) -> Tensor:
    shape = 1 + (1 + power) * (fn.concentration - 1)
    good = shape > 0
    shape = torch.where(good, shape, 1.0)
    value = torch.lgamma(shape) - (1 + power) * torch.lgamma(fn.concentration)
    value = value - shape * torch.log1p(power) + power * fn.rate.log()
    return torch.where(good, value, torch.inf)


@log_power_integral.register
def _(fn: distributions.Beta, power: Tensor) -> Tensor:
    both = torch.stack((fn.concentration1, fn.concentration0), -1)
    new = 1 + (1 + power)[..., None] * (both - 1)
    good = (new > 0).all(-1)
    new = torch.where(good[..., None], new, 1.0)
    value = _log_beta(new) - (1 + power) * _log_beta(both)
    return torch.where(good, value, torch.inf)


def _log_beta(concentration: Tensor) -> Tensor:
    return torch.lgamma(concentration).sum(-1) - torch.lgamma(concentration.sum(-1))


@log_power_integral.register
def _(fn: distributions.Bernoulli, power: Tensor) -> Tensor:
    sigmoid = torch.nn.functional.logsigmoid
    ones, zeros = sigmoid(fn.logits), sigmoid(-fn.logits)
    return torch.logaddexp((1 + power) * ones, (1 + power) * zeros)


@log_power_integral.register
def _(fn: distributions.Categorical, power: Tensor) -> Tensor:
    return ((1 + power)[..., None] * fn.logits.log_softmax(-1)).logsumexp(-1)


@log_power_integral.register
def _(fn: distributions.OneHotCategorical, power: Tensor) -> Tensor:
    return log_power_integral(categorical_of(fn), power)
