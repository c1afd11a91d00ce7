"""Deletion from conjugate posteriors: the sufficient statistics are taken off."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.errors import LeverageError, NonFiniteDataError, UnsupportedError
from pyro_geo.infer.fits.precisions import factored

__all__ = ["NormalInverseGamma", "conjugate_delete"]


@dataclass(frozen=True)
class NormalInverseGamma:
    r"""Posterior of the mean and the variance of normal data.

    .. math:: \sigma^2 \sim \mathrm{InvGamma}(\alpha, \beta), \qquad
              \mu \mid \sigma^2 \sim N(m, \sigma^2 / \kappa)

    Attributes:
        mean: `m`.
        count: :math:`\kappa`, pseudo-observations of the mean.
        shape: :math:`\alpha`.
        scale: :math:`\beta`.
    """

    mean: Tensor
    count: Tensor
    shape: Tensor
    scale: Tensor


def conjugate_delete(posterior: Any, data: Any, **known: Any) -> Any:
    r"""Delete data from a conjugate posterior, exactly.

    The posterior's parameters are those of the prior plus the data's statistics; those
    of the deleted data are taken off. Nothing else is needed, neither the prior nor the
    data that stay.

    Args:
        posterior: a `Beta` (of data 0 and 1), a `Dirichlet` (of labels), a `Gamma` (of
            Poisson counts), a :class:`NormalInverseGamma` or a `Normal` (of normal
            data), or a `MultivariateNormal` of the coefficients of a linear model.
        data: what goes. Data of the kind named, `(n, *batch)`; for a linear model its
            rows and responses, `(n, dim)` and `(n,)`.
        **known: `exposure=` of counts, `(n, *batch)`, 1 if left out; `noise=`, the
            standard deviation of normal data and of the responses, `()` or `(n,)`.

    Returns:
        The posterior without the data, of the same kind. Data that are not finite are
        refused.

    Raises:
        LeverageError: a parameter would not be positive: these data were not in it.

    References:
        Bernardo & Smith (1994), Bayesian Theory, section 5.2; derived for deletion.

    Example:
        >>> posterior = dist.Beta(torch.tensor(1.0 + 3), torch.tensor(1.0 + 2))
        >>> less = conjugate_delete(posterior, torch.tensor([1.0, 0.0]))
        >>> less.concentration1.item(), less.concentration0.item()
        (3.0, 2.0)
    """
    try:
        return _delete(posterior, data, **known)
    except _NotPositive as reason:
        name, value = reason.args
        raise LeverageError(
            "the data to delete hold more information than the posterior",
            where=f"{type(posterior).__name__}, {name}",
            found=f"{value:.6g}",
            expected="above 0",
            todo="Check that these data were in the posterior, each once.",
        ) from None


class _NotPositive(Exception):
    """A parameter of a posterior that would not be positive."""


def _positive(name: str, value: Tensor) -> Tensor:
    if not bool((value > 0).all()):
        raise _NotPositive(name, float(value.min()))
    return value


def _finite(data: Any, like: Tensor) -> Tensor:
    found = torch.as_tensor(data).to(like)
    check(found.dim() > 0 and len(found) > 0, "data", found.shape, "data to delete")
    if not bool(found.isfinite().all()):
        raise NonFiniteDataError(
            "data to delete are not finite",
            where="argument data",
            found=f"{int((~found.isfinite()).sum())} of {found.numel()}",
            expected="finite numbers",
            todo="Leave missing data out.",
        )
    return found


@singledispatch
def _delete(posterior: Any, data: Any, **known: Any) -> Any:
    raise UnsupportedError(
        "this is no conjugate posterior that is known here",
        where="argument posterior",
        found=type(posterior).__name__,
        expected="Beta, Dirichlet, Gamma, Normal, NormalInverseGamma or "
        "MultivariateNormal",
        todo="Use delete_sites, delete_draws or a refit.",
    )


@_delete.register(torch.distributions.Beta)
def _beta(posterior: Any, data: Any) -> Any:
    ones = posterior.concentration1
    values = _finite(data, ones)
    good = bool(((values == 0) | (values == 1)).all())
    check(good, "data", "other numbers", "0 and 1")
    return dist.Beta(
        _positive("concentration1", ones - values.sum(0)),
        _positive("concentration0", posterior.concentration0 - (1 - values).sum(0)),
    )


@_delete.register(torch.distributions.Dirichlet)
def _dirichlet(posterior: Any, data: Any) -> Any:
    old = posterior.concentration
    labels = _finite(data, old).long()
    inside = bool(((labels >= 0) & (labels < old.shape[-1])).all())
    check(inside, "data", "other labels", f"labels from 0 to {old.shape[-1] - 1}")
    counts = torch.nn.functional.one_hot(labels, old.shape[-1]).sum(0).to(old)
    return dist.Dirichlet(_positive("concentration", old - counts))


@_delete.register(torch.distributions.Gamma)
def _gamma(posterior: Any, data: Any, exposure: Any = 1.0) -> Any:
    shape = posterior.concentration
    counts = _finite(data, shape)
    check(bool((counts >= 0).all()), "data", "negative counts", "counts")
    time = torch.as_tensor(exposure).to(shape).expand_as(counts).sum(0)
    return dist.Gamma(
        _positive("concentration", shape - counts.sum(0)),
        _positive("rate", posterior.rate - time),
    )


@_delete.register(torch.distributions.Normal)
def _normal(posterior: Any, data: Any, noise: Any) -> Any:
    loc, precision = posterior.loc, posterior.scale.square().reciprocal()
    values = _finite(data, loc)
    each = torch.as_tensor(noise).to(loc).square().reciprocal().expand_as(values)
    new = _positive("precision", precision - each.sum(0))
    # the mean moves by what the data pull: precisions of large data would cancel
    loc = loc - (each * (values - loc)).sum(0) / new
    return dist.Normal(loc, new.rsqrt())


@_delete.register(NormalInverseGamma)
def _normal_inverse_gamma(posterior: NormalInverseGamma, data: Any) -> Any:
    old = posterior
    values = _finite(data, old.mean)
    number, average = len(values), values.mean(0)
    count = _positive("count", old.count - number)
    shape = _positive("shape", old.shape - 0.5 * number)
    mean = old.mean - number * (average - old.mean) / count
    # beta grew by the squares around the mean, and by the shift of the mean
    inside = (values - average).square().sum(0)
    between = count * number / old.count * (average - mean).square()
    scale = _positive("scale", old.scale - 0.5 * (inside + between))
    return NormalInverseGamma(mean, count, shape, scale)


@_delete.register(torch.distributions.MultivariateNormal)
def _linear(posterior: Any, data: Any, noise: Any) -> Any:
    loc = posterior.loc
    check(isinstance(data, tuple) and len(data) == 2, "data", type(data), "rows, y")
    x, y = (_finite(part, loc) for part in data)
    check_shape("rows", x.shape, (len(y), len(loc)))
    each = torch.as_tensor(noise).to(loc).square().reciprocal().expand_as(y)
    new = posterior.precision_matrix - x.mT @ (each[:, None] * x)
    least = float(torch.linalg.eigvalsh(new)[0])
    if not least > 0:
        raise _NotPositive("smallest eigenvalue of the precision", least)
    root = factored(new)
    loc = loc - root.solve((x.mT @ (each * (y - x @ loc)))[None])[0]
    return dist.MultivariateNormal(loc, precision_matrix=new)
