"""A Pyro model as a regression: residuals of its observed sites over one plate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution

from pyro_geo.density import Target
from pyro_geo.density.batched import BatchedDensity
from pyro_geo.density.model import ModelDensity
from pyro_geo.distributions.bounded.likelihood import BoundedLikelihood
from pyro_geo.errors import ModelError
from pyro_geo.ops.derivatives import value_and_grad

__all__ = ["Regression", "ValueAndGrad"]

ValueAndGrad = Callable[[Tensor], tuple[Tensor, Tensor]]

_MAD = 1.4826  # standard deviations of a normal in its median deviation


class _Parts(NamedTuple):
    """An observed site as location plus noise, event axes and all."""

    value: Tensor
    location: Tensor
    scale: Tensor


class _Site(NamedTuple):
    """An observed site of the plate."""

    axis: int  # of the plate, in the batch
    width: int  # numbers in each datum
    noise: float  # of a fit of few data


class Regression:
    """Residuals and losses of a model, for many positions at once.

    Args:
        target: of a Pyro model with observed sites in a plate.
        tight: noise of a fit of few data, as a share of the spread of the data.

    Raises:
        ModelError: no observed site in a plate has a location.
    """

    def __init__(self, target: Target, tight: float) -> None:
        self.target = target
        self._on_ladder: dict[str, Any] = {}
        density = target.density
        if not isinstance(density, ModelDensity):
            raise _no_regression("no Pyro model")
        q = torch.zeros(target.dim, dtype=target.dtype, device=target.device)
        seen = density.observations(q, target.data)
        self._dims = target.pointwise_dims
        parts = {name: _parts(x.fn, x.value) for name, x in seen.items()}
        located = {name: x for name, x in parts.items() if x is not None}
        plates = target.coords
        sizes = {
            plate: len(plates[plate])
            for name in located
            for plate in self._dims[name]
            if plate in plates
        }
        if not sizes:
            raise _no_regression(f"observed sites {list(seen)}")
        self.plate = max(sizes, key=lambda plate: sizes[plate])
        n = sizes[self.plate]
        self.sites = {}
        counted = torch.zeros(n, dtype=torch.bool, device=target.device)
        for name, part in located.items():
            if self.plate not in self._dims[name]:
                continue
            spread = (part.value - part.value.median()).abs().median() * _MAD
            spread = spread if spread > 0 else part.value.std(unbiased=False) + 1e-30
            axis = self._dims[name].index(self.plate)
            width = max(part.value.numel() // n, 1)
            self.sites[name] = _Site(axis, width, float(tight * spread))
            mask = seen[name].mask
            mask = torch.as_tensor(True if mask is None else mask).expand(
                density.pointwise(q, target.data)[name].shape
            )
            counted |= mask.movedim(axis, 0).reshape(n, -1).any(-1)
        self.index = counted.nonzero()[:, 0]  # data that are not masked
        self.count = len(self.index)
        self.num_data = n
        self.widths = torch.tensor([site.width for site in self.sites.values()])

    def squares(self, q: Tensor) -> Tensor:
        """Squared residuals, `(lanes, sites, data)`, summed within a datum."""
        with torch.no_grad():
            return _squares(self, self.target, q)

    def least_squares(self, weights: Tensor) -> ValueAndGrad:
        """Loss of a fit of some data by least squares under the prior.

        Args:
            weights: of the data, `(lanes, data)`.

        Returns:
            A function of positions `(lanes, dim)` to losses and gradients.
        """
        noise = torch.tensor([site.noise for site in self.sites.values()])
        weights = weights[:, None, :] / (2 * noise.to(weights)[:, None] ** 2)

        return self._lifted("squares", self._loss_of_squares, weights)

    def _loss_of_squares(
        self, density: BatchedDensity, q: Tensor, weights: Tensor
    ) -> Tensor:
        squares = _squares(self, density, q)
        return (weights * squares).sum((-2, -1)) - density.log_prior(q)

    def posterior(self, weights: Tensor) -> ValueAndGrad:
        """Minus the log-posterior given some of the data alone.

        Args:
            weights: of the data, `(lanes, data)`.

        Returns:
            A function of positions `(lanes, dim)` to losses and gradients.
        """
        return self._lifted("posterior", self._potential, weights)

    def _potential(self, density: BatchedDensity, q: Tensor, weights: Tensor) -> Tensor:
        total = density.log_prior(q)
        for name, log_prob in density.pointwise_log_likelihood(q).items():
            if self.plate not in self._dims[name]:
                total = total + log_prob.flatten(1).sum(-1)
                continue
            log_prob = log_prob.movedim(1 + self._dims[name].index(self.plate), -1)
            log_prob = log_prob.reshape(len(q), -1, self.num_data)
            log_prob = log_prob.sum(1)[:, self.index]
            total = total + (weights * log_prob).sum(-1)
        return -total

    def on_plate(self, chosen: Tensor) -> Tensor:
        """Which entries of the plate are chosen, given which data are."""
        whole = torch.zeros(self.num_data, dtype=torch.bool, device=chosen.device)
        whole[self.index] = chosen
        return whole

    def _lifted(
        self, name: str, loss: Callable[..., Tensor], weights: Tensor
    ) -> ValueAndGrad:
        if name not in self._on_ladder:

            def differentiated(density: BatchedDensity, q: Tensor, w: Tensor) -> Any:
                return value_and_grad(lambda x: loss(density, x, w), q)

            # a key of its own: the function is bound to this regression
            key = ("robust_init", name, object())
            self._on_ladder[name] = self.target.lift(key, differentiated, "robust_init")
        lifted = self._on_ladder[name]
        return lambda q: lifted(self.target.data, q, weights)


def _no_regression(found: str) -> ModelError:
    return ModelError(
        "the model is no regression",
        where="argument model",
        found=found,
        expected="observed sites with a location, in a plate",
        todo="Put the data in a plate, with a distribution such as Normal, StudentT or "
        "BoundedLikelihood; pass the starts of another model as initial_params.",
    )


def _squares(regression: Regression, density: Any, q: Tensor) -> Tensor:
    model: ModelDensity = density.density

    def of_one(one: Tensor) -> Tensor:
        seen = model.observations(one, density.data)
        rows = []
        for name in regression.sites:
            parts = _parts(seen[name].fn, seen[name].value)
            assert parts is not None
            # a scale that is itself fitted must not explain the residuals away
            log_scale = parts.scale.detach().log()
            relative = (log_scale - log_scale.mean()).exp()
            squares = ((parts.value - parts.location) / relative) ** 2
            mask = seen[name].mask
            if mask is not None:
                mask = torch.as_tensor(mask)
                axes = squares.dim() - len(regression._dims[name])
                mask = mask.reshape(mask.shape + (1,) * axes)
                squares = torch.where(mask, squares, 0.0)
            rows.append(
                squares.movedim(regression.sites[name].axis, 0)
                .reshape(regression.num_data, -1)
                .sum(-1)[regression.index]
            )
        return torch.stack(rows)

    return density.map(of_one, q)


def _parts(fn: Any, value: Tensor) -> _Parts | None:
    """Take a distribution apart into value, location and scale.

    The logarithm of a log-normal value has a location, the value itself has not.

    Returns:
        The parts; None where there is no location.
    """
    while True:
        if isinstance(fn, Independent | MaskedDistribution):
            fn = fn.base_dist
        elif isinstance(fn, BoundedLikelihood):
            fn = fn.base
        elif isinstance(fn, TransformedDistribution):
            for transform in reversed(fn.transforms):
                inverse: Any = transform.inv(value)
                value = inverse
            fn = fn.base_dist
        else:
            break
    location = getattr(fn, "loc", None)
    if not isinstance(location, Tensor) or not isinstance(value, Tensor):
        return None
    scale = getattr(fn, "scale", None)
    if not isinstance(scale, Tensor):  # a multivariate one has a matrix
        scale = torch.ones_like(location)
    return _Parts(*torch.broadcast_tensors(value, location, scale))
