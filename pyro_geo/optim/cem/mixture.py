r"""A mixture of Gaussians that is refitted to the elites of one ranking.

Candidates come from :math:`\sum_m \pi_m N(\mu_m, v_m)`. Each elite :math:`x_j` of
weight :math:`w_j \propto q(x_j)^{-\kappa}`, with :math:`q` the density of the mixture,
belongs to the components by

.. math:: r_{jm} \propto \pi_m N(x_j; \mu_m, v_m),

and :math:`\mu_m`, :math:`v_m` and :math:`\pi_m` move to the moments weighted with
:math:`w_j r_{jm}`.

References:
    Okada, Taniguchi (2019), Variational Inference MPC for Bayesian Model-based
    Reinforcement Learning, 1907.04202.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.optim.cem.noise import Noise
from pyro_geo.optim.cem.normal import capped_std
from pyro_geo.optim.cem.starts import Start
from pyro_geo.optim.cem.step import Box, Elites, Rates, elites_of

__all__ = ["Mixture", "MixtureState"]

_EMPTY = 1e-6  # share of the elites below which a component stays where it is


class MixtureState(NamedTuple):
    """Where mixtures are; the fields of `State`, and the weights.

    Attributes:
        mean: centres of the components, one after another, `(searches, comps * dim)`.
        var: variances, likewise.
        best_x: best candidate, `(searches, dim)`.
        best_fun: its cost, `(searches,)`.
        elite_fun: mean cost of the last elites, `(searches,)`.
        age: iterations, `(searches,)`.
        weight: of the components, `(searches, comps)`.
    """

    mean: Tensor
    var: Tensor
    best_x: Tensor
    best_fun: Tensor
    elite_fun: Tensor
    age: Tensor
    weight: Tensor


class Mixture(NamedTuple):
    """The steps of a mixture.

    Attributes:
        rates: numbers of the update.
        num_components: of the mixture.
        kappa: how much elites where the mixture is dense count less.
    """

    rates: Rates
    num_components: int
    kappa: float

    def centres(
        self, start: Start, problem: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draw centres of the components, `(searches, comps * dim)`."""
        each = problem.repeat_interleave(self.num_components)
        return start.centres(each, generator).view(len(problem), -1)

    def begin(self, mean: Tensor, std: Tensor) -> MixtureState:
        """Start mixtures with centres `(searches, comps * dim)`."""
        count = self.num_components
        best_x = mean[:, : std.shape[-1]]
        nothing = torch.full_like(mean[:, 0], math.inf)
        age = torch.zeros_like(nothing, dtype=torch.long)
        weight = torch.full_like(mean[:, :1], 1.0 / count).repeat(1, count)
        var = std.square().repeat(1, count)
        return MixtureState(mean, var, best_x, nothing, nothing, age, weight)

    def spread(self, state: MixtureState) -> Tensor:
        """Give the largest variance of components that hold elites, `(searches,)`."""
        var = state.var.unflatten(-1, (self.num_components, -1)).amax(-1)
        return torch.where(state.weight < _EMPTY, 0.0, var).amax(-1)

    def draw(self, state: MixtureState, noise: Noise, box: Box) -> Tensor:
        """Make candidates from standard noise."""
        # Components get candidates in proportion to their weights. This varies less
        # than drawing a component for each, and needs no further noise.
        z = noise.standard()
        dim = z.shape[-1]
        mean = state.mean.unflatten(-1, (-1, dim))
        var = state.var.unflatten(-1, (-1, dim))
        std = var.sqrt()
        if box.bounded:
            lower, upper = box.lower.unsqueeze(-2), box.upper.unsqueeze(-2)
            std = capped_std(mean, var, lower, upper, self.rates.trunc)
        places = torch.arange(z.shape[1], device=z.device, dtype=z.dtype) + 0.5
        edges = state.weight.cumsum(-1)
        share = (places / z.shape[1]).repeat(len(z), 1)
        which = torch.searchsorted(edges, share).clamp_(max=edges.shape[-1] - 1)
        which = which.unsqueeze(-1).expand(-1, -1, dim)
        return torch.addcmul(mean.gather(1, which), std.gather(1, which), z)

    def refit(
        self, state: MixtureState, x: Tensor, cost: Tensor, num_elites: int
    ) -> tuple[MixtureState, Elites]:
        """Move the mixtures to the elites of one ranking each."""
        elites = elites_of(x, cost, num_elites)
        dim = x.shape[-1]
        mean = state.mean.unflatten(-1, (-1, dim))  # (searches, comps, dim)
        var = state.var.unflatten(-1, (-1, dim))
        tiny = torch.finfo(x.dtype).tiny
        offset = elites.x.unsqueeze(2) - mean.unsqueeze(1)
        spread = var.clamp(min=tiny).unsqueeze(1)
        joint = -0.5 * (offset.square() / spread + spread.log()).sum(-1)
        joint = joint + state.weight.clamp(min=tiny).log().unsqueeze(1)
        share = joint.softmax(-1)  # (searches, elites, comps)
        finite = elites.cost.isfinite()
        sparse = -self.kappa * joint.logsumexp(-1)
        some = finite.any(-1)
        importance = torch.where(finite, sparse, -math.inf).softmax(-1)
        importance = torch.where(some.unsqueeze(-1), importance, 0.0)
        share = share * importance.unsqueeze(-1)
        mass = share.sum(1)  # (searches, comps)
        held = share / mass.clamp(min=tiny).unsqueeze(1)
        new_mean = torch.einsum("sjm,sjd->smd", held, elites.x)
        offset = elites.x.unsqueeze(2) - new_mean.unsqueeze(1)
        new_var = (held.unsqueeze(-1) * offset.square()).sum(1) * self.rates.inflate
        kept = (mass < _EMPTY).unsqueeze(-1)
        alpha = self.rates.alpha
        new_mean = torch.where(kept, mean, torch.lerp(new_mean, mean, alpha))
        new_var = torch.where(kept, var, torch.lerp(new_var, var, alpha))
        weight = torch.lerp(mass, state.weight, alpha)
        weight = torch.where(some.unsqueeze(-1), weight, state.weight)
        best, first = elites.cost.min(-1)
        best_x = elites.x.gather(1, first.view(-1, 1, 1).expand(-1, 1, dim)).squeeze(1)
        better = best < state.best_fun
        fun = torch.where(finite, elites.cost, 0.0).sum(-1) / finite.sum(-1)
        new = MixtureState(
            new_mean.flatten(1),
            new_var.flatten(1),
            torch.where(better.unsqueeze(-1), best_x, state.best_x),
            torch.where(better, best, state.best_fun),
            torch.where(some, fun, math.inf),
            state.age + 1,
            weight,
        )
        return new, elites
