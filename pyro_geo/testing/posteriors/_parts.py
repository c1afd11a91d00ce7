"""What the models are built of: their records, and priors on part of a space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_geo.errors import InitializationError

__all__ = ["Entry", "Restricted", "Sites", "flat", "positive_vector"]

Sites = dict[str, Tensor]

_TRIES = 10_000

positive_vector = constraints.independent(constraints.positive, 1)


class Entry(NamedTuple):
    """A model, how it is fed, and how published draws become values of its sites.

    Args:
        model: the Pyro model.
        arguments: from the JSON data and a floating type to the model's arguments.
        latents: from draws of the published parameters to those of the latent sites.

    Example:
        >>> from pyro_geo.testing.posteriors import MODELS
        >>> data = {"N": 2, "y": [0.5, -1.0]}
        >>> entry = MODELS["low_dim_gauss_mix-low_dim_gauss_mix"]
        >>> entry.arguments(data, torch.float64)
        (tensor([ 0.5000, -1.0000], dtype=torch.float64),)
    """

    model: Callable[..., Any]
    arguments: Callable[[Mapping[str, Any], torch.dtype], tuple[Tensor, ...]]
    latents: Callable[[Sites], Sites] = dict


def flat(support: constraints.Constraint, *shape: int) -> dist.ImproperUniform:
    """Prior of constant density on a support, of one event of the given shape."""
    return dist.ImproperUniform(support, torch.Size(), torch.Size(shape))


class Restricted(TorchDistribution):
    """A distribution cut down to part of its space, its density not renormalised.

    This is what a prior on a variable declared with bounds, or as ordered, means in
    Stan. The constant that is left out depends on the cut alone, so nothing that the
    base distribution depends on may be latent.

    Args:
        base: the whole distribution; an event is cut or kept as one.
        support: the part to keep, with a map to the reals.

    Example:
        >>> prior = Restricted(dist.Normal(1.0, 0.5), constraints.positive)
        >>> bool(prior.sample((100,)).min() > 0)
        True
    """

    def __init__(
        self, base: TorchDistribution, support: constraints.Constraint
    ) -> None:
        self.base_dist = base
        self._support = support
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """No parameters but those of the base distribution."""
        return {}

    @property
    def support(self) -> constraints.Constraint:
        """The part that was kept."""
        return self._support

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the base distribution."""
        return self.base_dist.log_prob(value)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw from the base distribution until every event is inside.

        Returns:
            Draws, `(*sample_shape, *batch_shape, *event_shape)`.

        Raises:
            InitializationError: an event was outside in every one of 10,000 tries.
        """
        shape = torch.Size(sample_shape)
        value = self.base_dist.sample(shape)
        for _ in range(_TRIES):
            inside = self._support.check(value)
            if bool(inside.all()):
                return value
            inside = inside.reshape(inside.shape + (1,) * self.event_dim)
            value = torch.where(inside, value, self.base_dist.sample(shape))
        raise InitializationError(
            "no prior draw inside the support",
            where=type(self.base_dist).__name__,
            found=f"all of {_TRIES} draws outside",
            expected="a draw with a fair share of the mass inside",
            todo="Start from values of your own.",
        )
