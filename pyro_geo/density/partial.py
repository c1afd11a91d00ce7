r"""Densities whose data count by weights of their own.

.. math:: \log p_w(q) = \log \pi(q) + \sum_n w_n \log p(y_n \mid q)

A datum of weight 0 is gone, whatever its likelihood; weights between 0 and 1 lead
there. The weights are tensors among the data, so that others need no new graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.density._over import ModelOver, Over
from pyro_geo.density.model import ModelDensity
from pyro_geo.density.protocol import Data, Density, Terms
from pyro_geo.density.target import Target
from pyro_geo.density.tempered import TemperedDensity, TemperedModel
from pyro_geo.errors import UnsupportedError

__all__ = ["WeightedData", "WeightedModel", "data_scales", "reweigh", "weigh"]

_SAME = 1e-6  # relative difference of two sums that is rounding


def weigh(target: Target, weights: Mapping[str, Tensor]) -> Target:
    """Return the density with a weight for each datum.

    Args:
        target: made from a Pyro model or a module, tempered or not.
        weights: observed site to weights of at least 0, shaped like its
            :meth:`~pyro_geo.Target.pointwise_log_likelihood` at one position. Sites
            left out count in full.

    Returns:
        The target. Its first data are the weights, in the order of the names of the
        sites; :func:`reweigh` takes others. Its pointwise log-likelihood is unscaled,
        and zero where the weight is zero.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> target = Target.from_model(model, torch.tensor([0.0, 5.0]))
        >>> without = weigh(target, {"y": torch.tensor([1.0, 0.0])})
        >>> fewer = Target.from_model(model, torch.tensor([0.0]))
        >>> q = torch.ones(1, 1)
        >>> torch.equal(without.log_prob(q), fewer.log_prob(q))
        True
    """
    factors = data_scales(target)
    expected = f"sites among {sorted(factors)}"
    unknown = sorted(set(weights) - set(factors))
    check(not unknown, "weights", unknown, expected)
    names, inner = tuple(sorted(factors)), target.density
    data = target.data
    # weights and temperatures before are part of the factors from here on
    while isinstance(inner, WeightedModel | WeightedData | TemperedModel):
        data, inner = data[inner.count :], inner.inner
    density: WeightedModel | WeightedData
    if isinstance(inner, ModelDensity):
        density = WeightedModel(inner, names)
    else:
        density = WeightedData(inner, names)
    own = _own_weights(factors, weights)
    return Target(density, (*own, *data), dtype=target.dtype, compile=target.compile)


def reweigh(target: Target, base: Target, weights: Mapping[str, Tensor]) -> Target:
    """Return a weighted density with other weights, no graph made anew.

    Args:
        target: made by :func:`weigh`.
        base: the target it was made from.
        weights: as :func:`weigh` takes them.

    Returns:
        The target.
    """
    density = target.density
    good = isinstance(density, WeightedModel | WeightedData)
    check(good, "target", type(density).__name__, "a target made by weigh")
    own = _own_weights(data_scales(base), weights)
    return target.bind((*own, *target.data[len(own) :]))


def data_scales(target: Target) -> dict[str, Tensor]:
    """Factor that the log-likelihood of each datum counts with in the density.

    Args:
        target: made from a Pyro model or a module.

    Returns:
        Observed site to factors, shaped like its pointwise log-likelihood at one
        position: 1, the scale of `poutine.scale`, a temperature, and 0 for data under
        a mask or of weight 0.

    Raises:
        UnsupportedError: the log-likelihood is no such sum.
    """
    q = torch.full((1, target.dim), 0.1, dtype=target.dtype, device=target.device)
    with torch.no_grad():
        pointwise = {n: v[0] for n, v in target.pointwise_log_likelihood(q).items()}
        scales = _scales(target.density, q[0], target.data, pointwise)
        total = target.log_likelihood(q)[0]
        parts = [
            torch.where(scales[n] == 0, 0, scales[n] * v).sum()
            for n, v in pointwise.items()
        ]
        found = torch.stack(parts).sum() if parts else torch.zeros_like(total)
    small = _SAME * (1 + total.abs())
    same = bool((found - total).abs() <= small) or not bool(total.isfinite())
    if not pointwise or not same:
        raise UnsupportedError(
            "the log-likelihood is not a sum over data",
            where="the target",
            found=f"{float(found):.6g} over data and {float(total):.6g} as a whole",
            expected="one sum, of a model's observed sites or a module's losses",
            todo="Use Target.from_model, or a loss of one value for each datum.",
        )
    return scales


def _scales(
    density: Density, q: Tensor, data: Data, like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    if isinstance(density, WeightedModel | WeightedData):
        return dict(zip(density.names, data, strict=False))
    if isinstance(density, ModelDensity) and not density.enumerated:
        sites = density.observations(q, data)
        return {
            name: torch.as_tensor(sites[name].scale).to(value).expand_as(value).clone()
            for name, value in like.items()
        }
    if isinstance(density, TemperedModel | TemperedDensity):
        inner = _scales(density.inner, q, data[density.count :], like)
        return {name: data[0].to(v) * v for name, v in inner.items()}
    return {name: torch.ones_like(v) for name, v in like.items()}


def _own_weights(
    factors: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    own = []
    for name in sorted(factors):
        weight = torch.ones_like(factors[name])
        if name in weights:
            given = weights[name].to(weight)
            check_shape(f"weights[{name!r}]", given.shape, weight.shape)
            good = bool((given >= 0).all())
            check(good, f"weights[{name!r}]", float(given.min()), "at least 0")
            weight = given
        own.append(factors[name] * weight)
    return tuple(own)


class WeightedModel(ModelOver):
    """A model whose data are scaled one by one by the first tensors of its data.

    Args:
        inner: the model as it is.
        names: observed sites, in the order of their weights.
    """

    def __init__(self, inner: ModelDensity, names: tuple[str, ...]) -> None:
        super().__init__(inner, len(names))
        self.names = names

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Log-prior and the weighted log-likelihood of `q`, `(dim,)`."""
        terms = super().terms(q, data)
        if not self.enumerated:
            return terms
        # the unit is the group of data that shares a discrete latent
        pointwise = self.inner.pointwise(q, data[self.count :])
        own = dict(zip(self.names, data, strict=False))
        return terms._replace(log_likelihood=_weighted_sum(pointwise, own))

    def pointwise(
        self, q: Tensor, data: Data, *, steps: bool = False
    ) -> dict[str, Tensor]:
        """Log-likelihood of each datum, unscaled; zero where its weight is zero.

        Args:
            q: position, `(dim,)`.
            data: the weights, and tensors of the arguments.
            steps: whether the steps of a sequence are data of their own.

        Returns:
            Observed site, or sites joined by plus signs, to values.
        """
        found = super().pointwise(q, data, steps=steps)
        own = dict(zip(self.names, data, strict=False))
        return {name: _without_zeros(v, own[name]) for name, v in found.items()}

    def _conditioned(
        self, values: Mapping[str, Tensor], data: Data
    ) -> tuple[poutine.Trace, dict[str, Any]]:
        trace, sites = super()._conditioned(values, data)
        if not self.enumerated:
            for name, weight in zip(self.names, data, strict=False):
                site = sites[name]
                # the weight has the site's own scale in it
                site["scale"] = weight
                mask, there = site["mask"], weight > 0
                site["mask"] = there if mask is None else mask & there
        return trace, sites


class WeightedData(Over[Density]):
    """Any density whose data are scaled one by one by the first tensors of its data.

    Args:
        inner: the density as it is.
        names: observed sites, in the order of their weights.
    """

    def __init__(self, inner: Density, names: tuple[str, ...]) -> None:
        super().__init__(inner, len(names))
        self.names = names

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Log-prior and the weighted log-likelihood of `q`, `(dim,)`."""
        rest = data[self.count :]
        own = dict(zip(self.names, data, strict=False))
        pointwise = self.inner.pointwise(q, rest)
        prior = self.inner.terms(q, rest).log_prior
        return Terms(prior, _weighted_sum(pointwise, own))

    def pointwise(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Log-likelihood of each datum, unscaled; zero where its weight is zero."""
        own = dict(zip(self.names, data, strict=False))
        found = self.inner.pointwise(q, data[self.count :])
        return {name: _without_zeros(v, own[name]) for name, v in found.items()}


def _without_zeros(values: Tensor, weight: Tensor) -> Tensor:
    """Set values to zero where the weight is; steps of a datum share its weight."""
    there = weight > 0
    there = there.reshape(there.shape + (1,) * (values.dim() - there.dim()))
    return torch.where(there, values, 0)


def _weighted_sum(
    pointwise: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Tensor:
    # chosen and not multiplied: minus infinity times zero is no number
    parts = [
        torch.where(weights[name] > 0, weights[name] * values, 0).sum()
        for name, values in pointwise.items()
    ]
    return torch.stack(parts).sum()
