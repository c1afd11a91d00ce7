"""Where climbs start: from the prior, from normals of several widths, from modes."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.density.model import ModelDensity
from pyro_geo.errors import InitializationError

__all__ = ["Sources", "tournament"]

_PRIOR_DRAWS = 48
_WIDTHS = (0.33, 1.0, 3.0)  # of the normals, times the standard deviation asked for
_CLOUD = 2.0  # of the spread of the ends that are known


class Sources:
    """Random starts of one density.

    Args:
        target: the density.
        std: standard deviation of the normals.
        noise: randomness.
    """

    def __init__(self, target: Target, std: float, noise: torch.Generator) -> None:
        self.target, self.std, self.noise = target, std, noise
        # raises where the model has no finite start, and names the site
        own = target.initial(8, "uniform", noise)
        self.anchors = own.detach()
        self.prior: Tensor | None = None
        if isinstance(target.density, ModelDensity):
            self.prior = self._prior_draws()

    def _prior_draws(self) -> Tensor | None:
        try:
            draws = self.target.initial(_PRIOR_DRAWS, "prior", self.noise)
        except InitializationError:  # a prior whose draws the likelihood excludes
            return None
        return draws.detach()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, the same for every type and device."""
        x = torch.randn(shape, generator=self.noise, dtype=torch.float64)
        return x.to(self.target.dtype).to(self.target.device)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers on [0, 1)."""
        x = torch.rand(shape, generator=self.noise, dtype=torch.float64)
        return x.to(self.target.dtype).to(self.target.device)

    def pick(self, most: int, *shape: int) -> Tensor:
        """Random indices below `most`."""
        return torch.randint(most, shape, generator=self.noise).to(self.target.device)

    # -- starts that know nothing of the modes -----------------------------------------

    def fresh(self, count: int) -> Tensor:
        """Starts from the prior and from normals, in equal shares, shuffled."""
        dim = self.target.dim
        parts = max(1, count // (6 if self.prior is not None else 4))
        groups = [w * self.std * self.normal(parts, dim) for w in _WIDTHS]
        if self.prior is not None:
            groups += [self._from_prior(parts), self._like_prior(2 * parts)]
        else:
            groups.append(10.0 * self.std * self.normal(parts, dim))
        rest = count - sum(map(len, groups))
        if rest > 0:
            groups.append(self.std * self.normal(rest, dim))
        q = torch.cat(groups)[:count]
        return q[torch.randperm(len(q), generator=self.noise).to(q.device)]

    def _from_prior(self, count: int) -> Tensor:
        """Prior draws with each site from another one: still draws if independent."""
        assert self.prior is not None
        q = self.prior.new_empty(count, self.target.dim)
        for site in self.target.layout.sites.values():
            rows = self.pick(len(self.prior), count)
            q[:, site.slice] = self.prior[rows, site.slice]
        return q

    def _like_prior(self, count: int) -> Tensor:
        """Normal numbers of the centre and the spread of the prior's draws."""
        assert self.prior is not None
        share = torch.tensor([0.16, 0.5, 0.84]).to(self.prior)
        low, middle, high = self.prior.quantile(share, 0)
        return middle + 0.5 * (high - low) * self.normal(count, self.target.dim)

    # -- starts around what is known ---------------------------------------------------

    def cloud(self, q: Tensor, count: int) -> Tensor:
        """Normal numbers over twice the region where climbs ended."""
        dim = self.target.dim
        centre = q.mean(0)
        spread = (q - centre).square().mean(0).sqrt()
        spread = torch.maximum(spread, 0.1 * spread.max().clamp(min=self.std))
        widths = _CLOUD * self.uniform(count, 1) + 0.25
        return centre + widths * spread * self.normal(count, dim)

    def crossed(self, q: Tensor, scale: Tensor, count: int) -> Tensor:
        """Leave modes in some coordinates, for those of another mode or far away.

        Args:
            q: modes, `(modes, dim)`.
            scale: standard deviations of their Laplace densities, `(modes, dim)`.
            count: how many.

        Returns:
            Starts, `(count, dim)`.
        """
        dim = self.target.dim
        first, second = self.pick(len(q), count), self.pick(len(q), count)
        # each start changes its own share of the coordinates, at least one of them
        changed = self.uniform(count, dim) < self.uniform(count, 1)
        changed |= torch.nn.functional.one_hot(self.pick(dim, count), dim).bool()
        other = torch.where(self.uniform(count, 1) < 0.4, q[second], self.fresh(count))
        # jumps of a long tail: from the next mode to far beyond
        jump = self.normal(count, dim) / self.uniform(count, 1).clamp(min=0.02)
        jumped = q[first] + 3.0 * scale[first] * jump
        other = torch.where(self.uniform(count, 1) < 0.4, jumped, other)
        return torch.where(changed, other, q[first])


def tournament(q: Tensor, log_prob: Tensor, winners: int) -> Tensor:
    """Pick starts among candidates: some at random, some that won over many.

    A third of the winners is the best of one, a third the best of few, a third the
    best of many; the candidates are in random order.

    Args:
        q: candidates, `(n, dim)`.
        log_prob: of each, minus infinity where it may not start, `(n,)`.
        winners: how many to pick.

    Returns:
        At most so many starts.
    """
    usable = log_prob.isfinite().nonzero().flatten()
    q, log_prob = q[usable], log_prob[usable]
    if len(q) <= winners:
        return q
    if winners <= 0:
        return q[:0]
    third = winners // 3
    sizes = [1] * third + [4] * third
    left = len(q) - sum(sizes)
    many = winners - len(sizes)
    if left < many:
        return q[:winners]
    chosen = [torch.arange(third, device=q.device)]
    for start, size, number in (
        (third, 4, third),
        (5 * third, left // many, many),
    ):
        group = log_prob[start : start + size * number].reshape(number, size)
        offset = start + size * torch.arange(number, device=q.device)
        chosen.append(offset + group.argmax(-1))
    return q[torch.cat(chosen)]
