r"""The improved cross-entropy method, as published: a baseline."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count, check_number
from pyro_geo.errors import ElitesError
from pyro_geo.planning.environments import Plant
from pyro_geo.planning.mpc.coloured import coloured
from pyro_geo.planning.mpc.dynamics import Dynamics
from pyro_geo.planning.mpc.objective import PlanObjective
from pyro_geo.planning.mpc.planner import Deadline, Found, Planner
from pyro_geo.planning.mpc.shifting import shifted

__all__ = ["ICEMPlanner"]


class _Kept(NamedTuple):
    """What a call leaves to the next: the mean and the elites, in the unit box."""

    mean: Tensor  # (B, D)
    elites: Tensor  # (B, E, D)


class ICEMPlanner(Planner):
    r"""Plan by one Gaussian with coloured noise that keeps its elites.

    Candidates are :math:`\mathrm{clip}(\mu + \sigma \circ \epsilon)` with noise of
    spectrum :math:`1 / f^\beta` along the horizon. The population shrinks by a factor
    from one iteration to the next, but never below two for each elite. A share of the
    elites stays among the candidates, also from one call to the next, shifted by a
    step. The last iteration evaluates the mean too. The plan is the best candidate of
    the last iteration.

    Take it where one Gaussian is enough: it needs fewer evaluations than
    :class:`CEMPlanner` there. Its means all lie in one basin.

    Args:
        dynamics: a plant, or other :class:`~pyro_geo.planning.mpc.Dynamics`.
        pop_size: candidates of the first iteration.
        num_iters: iterations of a call.
        num_elites: candidates that the Gaussian is fitted to.
        alpha: weight of the old mean and standard deviation.
        initial_std: of the candidates, as a share of half the box.
        noise_beta: exponent of the noise's spectrum; 0 for white noise.
        decay: factor by which the population shrinks, at least 1.
        keep_frac: share of the elites that is kept.
        **options: see :class:`~pyro_geo.planning.mpc.Planner`.

    References:
        Pinneri, Sawant, Blaes, Achterhold, Stueckler, Rolinek and Martius (2020),
        Sample-efficient cross-entropy method for real-time planning, arXiv 2008.06389.

    Example:
        >>> from pyro_geo.planning.environments import LinearQuadratic
        >>> plant = LinearQuadratic.double_integrator()
        >>> planner = ICEMPlanner(plant, horizon=10, pop_size=60, num_iters=3)
        >>> plan = planner.plan(torch.tensor([1.0, 0.0]))
        >>> plan.n_evals, bool(plan.action < 0)
        (146, True)
    """

    citations = ("icem",)

    def __init__(
        self,
        dynamics: Dynamics | Plant,
        *,
        pop_size: int = 500,
        num_iters: int = 5,
        num_elites: int = 10,
        alpha: float = 0.1,
        initial_std: float = 0.5,
        noise_beta: float = 1.0,
        decay: float = 1.25,
        keep_frac: float = 0.3,
        **options: Any,
    ) -> None:
        super().__init__(dynamics, **options)
        check_count("pop_size", pop_size)
        check_count("num_iters", num_iters)
        check_count("num_elites", num_elites)
        enough = num_elites <= pop_size
        check(
            enough, "num_elites", num_elites, f"at most {pop_size}", error=ElitesError
        )
        check_number("alpha", alpha, 0.0, 1.0)
        check_number("initial_std", initial_std, strict=True)
        check_number("noise_beta", noise_beta)
        check_number("decay", decay, 1.0)
        check_number("keep_frac", keep_frac, 0.0, 1.0)
        self.pop_size, self.num_iters, self.num_elites = pop_size, num_iters, num_elites
        self.alpha, self.initial_std, self.noise_beta = alpha, initial_std, noise_beta
        self.decay, self.keep_frac = decay, keep_frac
        self._kept: _Kept | None = None

    def _forget(self) -> None:
        self._kept = None

    def _search(
        self,
        objective: PlanObjective,
        generator: torch.Generator,
        deadline: Deadline,
        elapsed: int,
    ) -> Found:
        s, dim = objective.s, objective.dim
        count = len(s)
        std = torch.full((count, dim), self.initial_std).to(s)
        mean, carried = torch.zeros_like(std), None
        keep = int(self.num_elites * self.keep_frac)
        if self._kept is not None:
            mean = shifted(self._kept.mean, self.horizon, elapsed)
            carried = shifted(self._kept.elites[:, :keep], self.horizon, elapsed)
            # the steps that have come in sight are those of fresh candidates
            fresh = self._candidates(mean, std, keep, generator)
            new = min(elapsed, self.horizon) * (dim // self.horizon)
            carried[..., dim - new :] = fresh[..., dim - new :]
        elites = mean.new_empty(count, 0, dim)
        costs = mean.new_empty(count, 0)
        size, history = self.pop_size, []
        reason: Literal["iterations", "deadline"] = "iterations"
        for i in range(self.num_iters):
            if i:
                size = max(2 * self.num_elites, int(size / self.decay))
            x = self._candidates(mean, std, size, generator)
            if i == self.num_iters - 1:
                x[:, 0] = mean
            if carried is not None:
                x, carried = torch.cat([x, carried], 1), None
            problem = torch.arange(count, device=s.device).repeat_interleave(x.shape[1])
            found = objective(x.flatten(0, 1), problem).view(count, -1)
            # elites of the last iteration keep their costs: the noise is the same
            x = torch.cat([x, elites[:, :keep]], 1)
            found = torch.cat([found, costs[:, :keep]], 1)
            order = found.argsort(dim=1, stable=True)[:, : self.num_elites]
            costs = found.gather(1, order)
            elites = x.gather(1, order[..., None].expand(-1, -1, dim))
            mean, std = self._fitted(mean, std, elites, costs)
            lowest = costs[:, :1]
            history.append(lowest if not i else torch.minimum(history[-1], lowest))
            if i < self.num_iters - 1 and deadline.over():
                reason = "deadline"
                break
        self._kept = _Kept(mean, elites)
        return Found(
            u=elites[:, 0],
            fun=costs[:, 0],
            means=mean[:, None],
            instance=torch.zeros(count, dtype=torch.long, device=s.device),
            history=torch.stack(history),
            reason=reason,
        )

    def _candidates(
        self, mean: Tensor, std: Tensor, size: int, generator: torch.Generator
    ) -> Tensor:
        """Coloured candidates in the unit box, `(B, size, D)`."""
        count, dim = mean.shape
        m = dim // self.horizon
        white = torch.randn(
            count,
            size,
            m,
            self.horizon,
            generator=generator,
            dtype=mean.dtype,
            device=mean.device,
        )
        noise = coloured(white, self.noise_beta).transpose(-1, -2).flatten(2)
        return (mean[:, None] + std[:, None] * noise).clamp(-1, 1)

    def _fitted(
        self, mean: Tensor, std: Tensor, elites: Tensor, costs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Move to the elites with a finite cost; without any, stay."""
        weight = costs.isfinite().to(mean)
        some = weight.sum(1, keepdim=True) > 0
        weight = (weight / weight.sum(1, keepdim=True).clamp_min(1))[..., None]
        centre = (weight * elites).sum(1)
        spread = (weight * (elites - centre[:, None]) ** 2).sum(1).sqrt()
        new_mean = torch.lerp(centre, mean, self.alpha)
        new_std = torch.lerp(spread, std, self.alpha)
        return torch.where(some, new_mean, mean), torch.where(some, new_std, std)
