r"""Tempered densities: the prior times a power of the likelihood.

.. math:: p_\beta(q) \propto \pi(q)\, p(y \mid q)^\beta

The inverse temperature is a tensor among the data, so that another one needs no new
graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_geo.density._over import ModelOver, Over
from pyro_geo.density.model import ModelDensity
from pyro_geo.density.protocol import Data, Density, Terms

__all__ = ["Localisation", "Prior", "TemperedDensity", "TemperedModel", "temper"]


class Localisation(NamedTuple):
    r"""A prior that pulls to a point, :math:`-\tfrac{\gamma}{2} |q - q_0|^2`.

    Attributes:
        centre: the point, `(dim,)`.
        strength: of the pull.
    """

    centre: Tensor
    strength: float | Tensor


Prior = Literal["model"] | None | Localisation


class TemperedModel(ModelOver):
    """A model whose observed sites are scaled by the first tensor of its data.

    Args:
        inner: the model as it is.
    """

    def __init__(self, inner: ModelDensity) -> None:
        super().__init__(inner, 1)

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Log-prior and the tempered log-likelihood of `q`, `(dim,)`."""
        if not self.enumerated:
            return super().terms(q, data)
        # a power of a sum over discrete values is no sum of powers
        terms = self.inner.terms(q, data[1:])
        return terms._replace(log_likelihood=data[0] * terms.log_likelihood)

    def _conditioned(
        self, values: Mapping[str, Tensor], data: Data
    ) -> tuple[poutine.Trace, dict[str, Any]]:
        trace, sites = super()._conditioned(values, data)
        if not self.enumerated:
            # each datum is scaled before the sum, as by `poutine.scale`
            for name, site in sites.items():
                if name not in self.latents and site["is_observed"]:
                    site["scale"] = site["scale"] * data[0]
        return trace, sites


class TemperedDensity(Over[Density]):
    """Any density with its likelihood to a power, and perhaps another prior.

    Its data are the inverse temperature, the centre and strength of a localisation if
    there is one, and those of the density itself.

    Args:
        inner: the density as it is.
        prior: `"model"` for its own, `"none"`, or `"pull"` for a localisation.
    """

    def __init__(self, inner: Density, prior: Literal["model", "none", "pull"]) -> None:
        super().__init__(inner, 3 if prior == "pull" else 1)
        self.prior = prior

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Log-prior and the tempered log-likelihood of `q`, `(dim,)`."""
        terms = self.inner.terms(q, data[self.count :])
        log_prior = terms.log_prior
        if self.prior == "none":
            log_prior = torch.zeros_like(log_prior)
        elif self.prior == "pull":
            log_prior = -0.5 * data[2] * (q - data[1]).square().sum()
        return Terms(log_prior, data[0] * terms.log_likelihood)

    def pointwise(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Log-likelihood of each datum by observed site, unscaled and not tempered."""
        return self.inner.pointwise(q, data[self.count :])


def temper(density: Density, prior: Prior) -> TemperedModel | TemperedDensity:
    """Make the tempered form of a density.

    Args:
        density: as it is.
        prior: see :meth:`pyro_geo.Target.tempered`.

    Returns:
        The density whose first tensor of data is the inverse temperature.
    """
    if isinstance(prior, Localisation):
        return TemperedDensity(density, "pull")
    if prior is None:
        return TemperedDensity(density, "none")
    if isinstance(density, ModelDensity):
        return TemperedModel(density)
    return TemperedDensity(density, "model")
