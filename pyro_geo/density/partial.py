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
from pyro_geo.density.layout import Layout
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
    if isinstance(inner, WeightedModel | WeightedData):  # its own are replaced
        data, inner = data[len(inner.names) :], inner.inner
    if isinstance(inner, TemperedModel):
        # the temperature is part of the weights from here on
        data, inner = data[1:], _plain(inner)
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
        scales = _scales(target, q[0], pointwise)
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


def _scales(target: Target, q: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    density, data = target.density, target.data
    if isinstance(density, WeightedModel | WeightedData):
        return dict(zip(density.names, data, strict=False))
    if isinstance(density, ModelDensity) and not density.enumerated:
        sites = density.observations(q, data)
        return {
            name: torch.as_tensor(sites[name].scale).to(value).expand_as(value).clone()
            for name, value in like.items()
        }
    tempered = isinstance(density, TemperedModel | TemperedDensity)
    beta = data[0] if tempered else torch.ones(())
    return {name: beta.to(v).expand_as(v).clone() for name, v in like.items()}


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


def _plain(tempered: TemperedModel) -> ModelDensity:
    """The model itself, without its temperature."""
    model = ModelDensity.__new__(ModelDensity)
    model.__dict__.update(tempered.__dict__)
    return model


class WeightedModel(ModelDensity):
    """A model whose data are scaled one by one by the first tensors of its data.

    It stays a model: its sites, their names and its curvature are there as before.

    Args:
        inner: the model as it is.
        names: observed sites, in the order of their weights.
    """

    def __init__(self, inner: ModelDensity, names: tuple[str, ...]) -> None:
        # what is known about the model holds with every weight
        self.__dict__.update(inner.__dict__)
        self.inner = inner
        self.names = names

    def rebind(self, *args: Any, **kwargs: Any) -> Data:
        """Take the weights, and the tensors out of new arguments.

        Args:
            *args: the weights first, then the model's arguments.
            **kwargs: the model's keyword arguments.

        Returns:
            The tensors in this order.
        """
        count = len(self.names)
        own = tuple(torch.as_tensor(x) for x in args[:count])
        return (*own, *super().rebind(*args[count:], **kwargs))

    def arguments(self, data: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the model's arguments; the weights are none of them."""
        return super().arguments(data[len(self.names) :])

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Log-prior and the weighted log-likelihood of `q`, `(dim,)`."""
        terms = super().terms(q, data)
        if not self.enumerated:
            return terms
        # the unit is the group of data that shares a discrete latent
        pointwise = self.inner.pointwise(q, data[len(self.names) :])
        own = dict(zip(self.names, data, strict=False))
        return terms._replace(log_likelihood=_weighted_sum(pointwise, own))

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


class WeightedData:
    """Any density whose data are scaled one by one by the first tensors of its data.

    Args:
        inner: the density as it is.
        names: observed sites, in the order of their weights.
    """

    def __init__(self, inner: Density, names: tuple[str, ...]) -> None:
        self.inner = inner
        self.names = names
        self.layout: Layout = inner.layout
        self.own_memory = inner.own_memory

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Log-prior and the weighted log-likelihood of `q`, `(dim,)`."""
        rest = data[len(self.names) :]
        own = dict(zip(self.names, data, strict=False))
        pointwise = self.inner.pointwise(q, rest)
        prior = self.inner.terms(q, rest).log_prior
        return Terms(prior, _weighted_sum(pointwise, own))

    def pointwise(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Log-likelihood of each datum, unscaled; zero where its weight is zero."""
        own = dict(zip(self.names, data, strict=False))
        found = self.inner.pointwise(q, data[len(self.names) :])
        return {name: torch.where(own[name] > 0, v, 0) for name, v in found.items()}

    def rebind(self, *args: Any, **kwargs: Any) -> Data:
        """Take the weights, and those of the density out of new arguments.

        Args:
            *args: the weights first, then the density's arguments.
            **kwargs: the density's keyword arguments.

        Returns:
            The tensors in this order.
        """
        count = len(self.names)
        own = tuple(torch.as_tensor(x) for x in args[:count])
        return (*own, *self.inner.rebind(*args[count:], **kwargs))

    def check_data(self, data: Data) -> None:
        """Refuse what the density refuses."""
        self.inner.check_data(data[len(self.names) :])


def _weighted_sum(
    pointwise: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Tensor:
    # chosen and not multiplied: minus infinity times zero is no number
    parts = [
        torch.where(weights[name] > 0, weights[name] * values, 0).sum()
        for name, values in pointwise.items()
    ]
    return torch.stack(parts).sum()
