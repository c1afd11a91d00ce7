r"""One iteration of independent cross-entropy searches, pure in its tensors.

Each search has a diagonal Gaussian. Candidates are

.. math:: x = \mu + \min\!\left(\sqrt v, \tfrac{\mu - l}{a}, \tfrac{u - \mu}{a}\right) z

with :math:`z` a standard normal truncated to :math:`[-a, a]`, so that they lie in the
box by construction. The :math:`E` candidates of lowest cost of each search are its
elites, and

.. math::

    \mu \leftarrow \alpha \mu + (1 - \alpha) \operatorname{mean}(x_{1:E}), \qquad
    v \leftarrow \alpha v + (1 - \alpha) \operatorname{var}(x_{1:E}).

References:
    Zhang, Jin, Jagersand, Luo, Schuurmans (2022), A Simple Decentralized Cross-Entropy
    Method, 2212.08235.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_geo.optim.cem.noise import Noise
from pyro_geo.optim.cem.normal import capped_std
from pyro_geo.optim.cem.starts import Start

__all__ = [
    "Box",
    "Elites",
    "Gaussians",
    "Rates",
    "State",
    "draw",
    "elites_of",
    "refit",
]


class Box(NamedTuple):
    """Bounds of every search, `(searches, dim)` or `(1, dim)`; they may be infinite."""

    lower: Tensor
    upper: Tensor
    bounded: bool


class Rates(NamedTuple):
    """The numbers of an update.

    Attributes:
        alpha: weight of the old mean and variance.
        trunc: standard deviations at which draws are cut.
        inflate: what variances of elites are multiplied by.
    """

    alpha: float = 0.1
    trunc: float = 2.0
    inflate: float = 1.0


class State(NamedTuple):
    """Where searches are.

    Attributes:
        mean: centre of each, `(searches, dim)`.
        var: variances, `(searches, dim)`.
        best_x: best candidate since the search started, `(searches, dim)`.
        best_fun: its cost, `(searches,)`; infinity before there is one.
        elite_fun: mean cost of the last elites, `(searches,)`.
        age: iterations since the search started, `(searches,)`.
    """

    mean: Tensor
    var: Tensor
    best_x: Tensor
    best_fun: Tensor
    elite_fun: Tensor
    age: Tensor


class Elites(NamedTuple):
    """Candidates that a search was refitted to, in the order in which they were drawn.

    Attributes:
        x: of each search, `(searches, elites, dim)`.
        cost: of each, `(searches, elites)`; infinity where too few costs are finite.
    """

    x: Tensor
    cost: Tensor


def draw(state: State, noise: Noise, box: Box, rates: Rates) -> Tensor:
    """Make candidates from standard noise.

    Args:
        state: of the searches.
        noise: within `rates.trunc`.
        box: bounds.
        rates: numbers of the update.

    Returns:
        Candidates, `(searches, pop_size, dim)`.
    """
    if box.bounded:
        std = capped_std(state.mean, state.var, box.lower, box.upper, rates.trunc)
    else:
        std = state.var.sqrt()
    return noise.placed(state.mean, std)


def elites_of(x: Tensor, cost: Tensor, num_elites: int) -> Elites:
    """Choose the candidates of lowest cost; of equal ones the first.

    Args:
        x: candidates, `(searches, pop_size, dim)`.
        cost: of each, `(searches, pop_size)`, without NaN.
        num_elites: how many.

    Returns:
        The elites of every search.

    Example:
        >>> x = torch.arange(4.0).view(1, 4, 1)
        >>> elites_of(x, torch.tensor([[2.0, 0.0, 2.0, 5.0]]), 2).x.flatten()
        tensor([0., 1.])
    """
    elite = cost <= _highest_of_lowest(cost, num_elites)
    if int(elite.count_nonzero()) != len(cost) * num_elites:
        # more candidates than places have the cost of the last elite
        tied = (elite.sum(-1) > num_elites).nonzero().squeeze(-1)
        order = cost[tied].sort(dim=-1, stable=True).indices[:, :num_elites]
        elite[tied] = torch.zeros_like(elite[tied]).scatter_(1, order, True)
    rows = elite.flatten().nonzero().squeeze(-1)
    shape = (len(cost), num_elites)
    return Elites(
        x.flatten(0, 1).index_select(0, rows).view(*shape, x.shape[-1]),
        cost.flatten().index_select(0, rows).view(shape),
    )


def _highest_of_lowest(cost: Tensor, count: int) -> Tensor:
    """Give the cost of the last elite of each search, `(searches, 1)`."""
    if cost.device.type == "cpu" and cost.dtype in (torch.float32, torch.float64):
        # NumPy's partition is vectorised, several times faster than torch's selection
        ordered = np.partition(cost.numpy(), count - 1, axis=-1)
        return torch.from_numpy(ordered[:, count - 1 : count])
    return cost.topk(count, dim=-1, largest=False).values[:, -1:]


def refit(
    state: State, x: Tensor, cost: Tensor, num_elites: int, rates: Rates
) -> tuple[State, Elites]:
    """Move each search to its elites.

    With fewer finite costs than elites the finite ones are used; without any, the mean
    and the variance stay.

    Args:
        state: of the searches.
        x: candidates, `(searches, pop_size, dim)`.
        cost: of each, `(searches, pop_size)`, infinity for one that cannot be used.
        num_elites: how many are used.
        rates: numbers of the update.

    Returns:
        The next state, and the elites.
    """
    elites = elites_of(x, cost, num_elites)
    total = elites.cost.sum(-1)
    if bool(total.sum().isfinite()):
        mean = elites.x.mean(1)
        # about the mean, in two passes: elites are close to each other
        var = (elites.x - mean.unsqueeze(1)).square_().mean(1)
        fun = total / num_elites
    else:
        mean, var, fun = _moments_of_finite(state, elites)
    if rates.inflate != 1.0:
        var = var * rates.inflate
    best, first = elites.cost.min(-1)
    rows = torch.arange(len(x), device=x.device) * num_elites + first
    best_x = elites.x.flatten(0, 1).index_select(0, rows)
    better = best < state.best_fun
    new = State(
        torch.lerp(mean, state.mean, rates.alpha),
        torch.lerp(var, state.var, rates.alpha),
        torch.where(better.unsqueeze(-1), best_x, state.best_x),
        torch.where(better, best, state.best_fun),
        fun,
        state.age + 1,
    )
    return new, elites


def _moments_of_finite(state: State, elites: Elites) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and mean cost of elites, of which some have no finite cost."""
    finite = elites.cost.isfinite()
    count = finite.sum(-1, keepdim=True)
    weight = (finite / count.clamp(min=1)).to(elites.x).unsqueeze(-1)
    mean = (weight * elites.x).sum(1)
    var = (weight * (elites.x - mean.unsqueeze(1)).square()).sum(1)
    fun = torch.where(finite, elites.cost, 0.0).sum(-1) / count.squeeze(-1)
    some = count > 0
    fun = torch.where(some.squeeze(-1), fun, math.inf)
    return torch.where(some, mean, state.mean), torch.where(some, var, state.var), fun


class Gaussians(NamedTuple):
    """The steps of searches that have a Gaussian each.

    Attributes:
        rates: numbers of the update.
    """

    rates: Rates

    def centres(
        self, start: Start, problem: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draw centres, `(searches, dim)`."""
        return start.centres(problem, generator)

    def begin(self, mean: Tensor, std: Tensor) -> State:
        """Start searches with centres `(searches, dim)` and spreads like them."""
        nothing = torch.full_like(mean[:, 0], math.inf)
        age = torch.zeros_like(nothing, dtype=torch.long)
        return State(mean, std.square(), mean, nothing, nothing, age)

    def spread(self, state: State) -> Tensor:
        """Give the largest variance of each search, `(searches,)`."""
        return state.var.amax(-1)

    def draw(self, state: State, noise: Noise, box: Box) -> Tensor:
        """Make candidates from standard noise, see :func:`draw`."""
        return draw(state, noise, box, self.rates)

    def refit(
        self, state: State, x: Tensor, cost: Tensor, num_elites: int
    ) -> tuple[State, Elites]:
        """Move the searches to their elites, see :func:`refit`."""
        return refit(state, x, cost, num_elites, self.rates)
