"""Logarithm of the overlap of two members of one exponential family."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, distributions
from torch.nn.functional import logsigmoid

from pyro_geo._compat.torch import categorical_of
from pyro_geo.checks import handled_types
from pyro_geo.errors import UnsupportedError

__all__ = ["log_overlap", "supported_families"]

_Parameters = tuple[Tensor, ...]


class _Member(NamedTuple):
    """A distribution as a member of a family: what identifies it there."""

    family: str
    parameters: _Parameters


def log_overlap(p: Any, q: Any, delta: Tensor) -> Tensor:
    r"""Logarithm of :math:`\int p^\delta q^{1-\delta}`.

    Returns:
        The logarithm, of the batch shape; infinite where the blended natural
        parameter leaves its domain.
    """
    if isinstance(p, distributions.Independent):
        _check_same(p, q, isinstance(q, distributions.Independent))
        ndims = p.reinterpreted_batch_ndims
        _check_same(p, q, ndims == q.reinterpreted_batch_ndims)
        inner = delta.reshape(delta.shape + (1,) * ndims)
        total = log_overlap(p.base_dist, q.base_dist, inner)
        return total.sum(tuple(range(-ndims, 0))) if ndims else total
    first, second = member(p), member(q)
    _check_same(p, q, first.family == second.family)
    delta = delta.to(first.parameters[-1])
    return _OVERLAPS[first.family](first.parameters, second.parameters, delta)


def _check_same(p: Any, q: Any, good: bool) -> None:
    if not good:
        raise UnsupportedError(
            "two distributions of different families have no separation",
            where="argument q",
            found=type(q).__name__,
            expected=f"the family of p, {type(p).__name__}",
            todo="Write both as members of one family.",
        )


def supported_families() -> list[str]:
    """Names of the classes that have an overlap."""
    return handled_types(member)


# -- families --------------------------------------------------------------------------


@singledispatch
def member(fn: Any) -> _Member:
    """Read a distribution's family and parameters."""
    raise UnsupportedError(
        "no overlap is known for a distribution",
        where="arguments p and q",
        found=type(fn).__name__,
        expected=f"one of {', '.join(supported_families())}",
        todo="Use a family in the list, or transform the variable to one.",
    )


@member.register
def _(fn: distributions.Normal) -> _Member:
    return _Member("normal", (fn.loc, fn.scale))


@member.register
def _(fn: distributions.LogNormal) -> _Member:
    return _Member("log-normal", (fn.loc, fn.scale))


@member.register
def _(fn: distributions.HalfNormal) -> _Member:
    return _Member("half-normal", (torch.zeros_like(fn.scale), fn.scale))


@member.register
def _(fn: distributions.MultivariateNormal) -> _Member:
    return _Member("multivariate normal", (fn.loc, fn.covariance_matrix))


@member.register
def _(fn: distributions.LowRankMultivariateNormal) -> _Member:
    return _Member("multivariate normal", (fn.loc, fn.covariance_matrix))


@member.register
def _(fn: distributions.Gamma) -> _Member:
    return _Member("gamma", (fn.concentration, fn.rate))


@member.register
def _(fn: distributions.Exponential) -> _Member:
    return _Member("gamma", (torch.ones_like(fn.rate), fn.rate))


@member.register
def _(fn: dist.InverseGamma) -> _Member:
    return _Member("inverse gamma", (fn.concentration, fn.rate))


@member.register
def _(fn: distributions.Beta) -> _Member:
    both = (fn.concentration1, fn.concentration0)
    return _Member("beta", (torch.stack(both, -1),))


@member.register
def _(fn: distributions.Dirichlet) -> _Member:
    return _Member("dirichlet", (fn.concentration,))


@member.register
def _(fn: distributions.Poisson) -> _Member:
    return _Member("poisson", (fn.rate,))


@member.register
def _(fn: distributions.Geometric) -> _Member:
    # failures before a success: a negative binomial of one success
    counts = torch.ones_like(fn.logits)
    return _Member("negative binomial", (counts, logsigmoid(-fn.logits)))


@member.register
def _(fn: distributions.NegativeBinomial) -> _Member:
    return _Member("negative binomial", (fn.total_count, logsigmoid(fn.logits)))


@member.register
def _(fn: distributions.Bernoulli) -> _Member:
    return _Member("binomial", (torch.ones_like(fn.logits), fn.logits))


@member.register
def _(fn: distributions.Binomial) -> _Member:
    return _Member("binomial", (fn.total_count, fn.logits))


@member.register
def _(fn: distributions.Categorical) -> _Member:
    return _Member("categorical", (fn.logits,))


@member.register
def _(fn: distributions.OneHotCategorical) -> _Member:
    return _Member("categorical", (categorical_of(fn).logits,))


# -- overlaps --------------------------------------------------------------------------


def _blend(p: Tensor, q: Tensor, delta: Tensor) -> Tensor:
    return delta * p + (1 - delta) * q


def _inside(good: Tensor, value: Tensor) -> Tensor:
    return torch.where(good, value, torch.inf)


def _normal(p: _Parameters, q: _Parameters, delta: Tensor) -> Tensor:
    # the natural parameters would lose a far mean to cancellation
    (mean_p, scale_p), (mean_q, scale_q) = p, q
    variance = (1 - delta) * scale_p**2 + delta * scale_q**2
    good = variance > 0
    variance = torch.where(good, variance, 1.0)
    scales = _blend(scale_q.log(), scale_p.log(), delta) - 0.5 * variance.log()
    means = delta * (1 - delta) * (mean_p - mean_q) ** 2 / (2 * variance)
    return _inside(good, scales - means)


def _multivariate_normal(p: _Parameters, q: _Parameters, delta: Tensor) -> Tensor:
    (mean_p, cov_p), (mean_q, cov_q) = p, q
    weight = delta[..., None, None]
    cov = (1 - weight) * cov_p + weight * cov_q
    tril, info = torch.linalg.cholesky_ex(cov.detach())
    good = info == 0
    identity = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    tril = torch.linalg.cholesky(torch.where(good[..., None, None], cov, identity))
    gap = torch.linalg.solve_triangular(tril, (mean_p - mean_q)[..., None], upper=False)
    quadratic = 0.5 * delta * (1 - delta) * gap.square().sum((-2, -1))
    logdets = _blend(_half_logdet(cov_q), _half_logdet(cov_p), delta)
    return _inside(good, logdets - _log_diagonal(tril) - quadratic)


def _half_logdet(cov: Tensor) -> Tensor:
    return _log_diagonal(torch.linalg.cholesky(cov))


def _log_diagonal(tril: Tensor) -> Tensor:
    return tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _gamma(p: _Parameters, q: _Parameters, delta: Tensor) -> Tensor:
    shape, rate = (_blend(one, other, delta) for one, other in zip(p, q, strict=True))
    good = (shape > 0) & (rate > 0)
    blended = torch.where(good, shape, 1.0), torch.where(good, rate, 1.0)
    normalisers = _blend(_gamma_normaliser(*p), _gamma_normaliser(*q), delta)
    return _inside(good, _gamma_normaliser(*blended) - normalisers)


def _gamma_normaliser(shape: Tensor, rate: Tensor) -> Tensor:
    return torch.lgamma(shape) - torch.xlogy(shape, rate)


def _dirichlet(p: _Parameters, q: _Parameters, delta: Tensor) -> Tensor:
    concentration = _blend(p[0], q[0], delta[..., None])
    good = (concentration > 0).all(-1)
    concentration = torch.where(good[..., None], concentration, 1.0)
    normalisers = _blend(_beta_function(p[0]), _beta_function(q[0]), delta)
    return _inside(good, _beta_function(concentration) - normalisers)


def _beta_function(concentration: Tensor) -> Tensor:
    return torch.lgamma(concentration).sum(-1) - torch.lgamma(concentration.sum(-1))


def _poisson(p: _Parameters, q: _Parameters, delta: Tensor) -> Tensor:
    blended = torch.xlogy(delta, p[0]) + torch.xlogy(1 - delta, q[0])
    return blended.exp() - _blend(p[0], q[0], delta)


def _binomial(p: _Parameters, q: _Parameters, delta: Tensor) -> Tensor:
    (count_p, logits_p), (count_q, logits_q) = p, q
    ones = _blend(logsigmoid(logits_p), logsigmoid(logits_q), delta)
    zeros = _blend(logsigmoid(-logits_p), logsigmoid(-logits_q), delta)
    return _same_count(count_p, count_q, count_p * torch.logaddexp(ones, zeros))


def _negative_binomial(p: _Parameters, q: _Parameters, delta: Tensor) -> Tensor:
    (count_p, log_p), (count_q, log_q) = p, q
    blended = _blend(log_p, log_q, delta)
    good = blended < 0
    blended = torch.where(good, blended, -1.0)
    normalisers = _blend(_log_rest(log_p), _log_rest(log_q), delta)
    total = count_p * (normalisers - _log_rest(blended))
    return _same_count(count_p, count_q, _inside(good, total))


def _log_rest(log_chance: Tensor) -> Tensor:
    return torch.log(-torch.expm1(log_chance))


def _same_count(first: Tensor, second: Tensor, value: Tensor) -> Tensor:
    """With different counts the two are no members of one exponential family."""
    return torch.where(first == second, value, torch.nan)


def _categorical(p: _Parameters, q: _Parameters, delta: Tensor) -> Tensor:
    logits = _blend(p[0].log_softmax(-1), q[0].log_softmax(-1), delta[..., None])
    return logits.logsumexp(-1)


_OVERLAPS: dict[str, Callable[[_Parameters, _Parameters, Tensor], Tensor]] = {
    "normal": _normal,
    "log-normal": _normal,
    "half-normal": _normal,
    "multivariate normal": _multivariate_normal,
    "gamma": _gamma,
    "inverse gamma": _gamma,
    "beta": _dirichlet,
    "dirichlet": _dirichlet,
    "poisson": _poisson,
    "binomial": _binomial,
    "negative binomial": _negative_binomial,
    "categorical": _categorical,
}
