r"""The planner: decentralised cross-entropy search over action sequences."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count, check_number
from pyro_geo.ops.random import substream
from pyro_geo.optim import CEM, DecentCEM
from pyro_geo.planning.environments import Plant
from pyro_geo.planning.mpc.coloured import coloured, truncated
from pyro_geo.planning.mpc.dynamics import Dynamics
from pyro_geo.planning.mpc.objective import PlanObjective
from pyro_geo.planning.mpc.planner import Deadline, Found, Planner
from pyro_geo.planning.mpc.shifting import shifted

__all__ = ["CEMPlanner"]

_MARGIN = 0.2


class _Kept(NamedTuple):
    """What a call leaves to the next, in the unit box."""

    mean: Tensor  # of the winner, (B, D)
    elites: Tensor  # best candidates of the call, (B, E, D)


class CEMPlanner(Planner):
    r"""Plan under draws of a posterior, by several Gaussians that rank their own.

    .. math:: \min_{u_{0:H-1}} \rho_s \Big( \sum_{t=0}^{H-1} \gamma^t
        c(x_t^s, u_t) - \gamma^H V(x_H^s) \Big), \qquad
        x_{t+1}^s = f(\theta_s, x_t^s, u_t, \epsilon_t^s), \quad
        \theta_s \sim p(\theta \mid D)

    with :math:`\rho` the mean over draws or :class:`~pyro_geo.planning.mpc.CVaR`. All
    candidates meet the same draws and the same noise. Where a problem has several good
    ways, one Gaussian averages them; here each instance follows its own.

    The first instance begins at the middle of the box, and from the second call on at
    the winner of the last one, shifted by a step. The others begin at the middle plus
    an offset that is the same at all steps of the plan (`"coloured"`): independent
    offsets of each step cancel each other over a horizon. The best candidates of the
    last call are among those of the first instance.

    Args:
        dynamics: a plant, or other :class:`~pyro_geo.planning.mpc.Dynamics`.
        optimizer: :class:`~pyro_geo.optim.DecentCEM` or :class:`~pyro_geo.optim.CEM`
            with the population and the iterations of a call (`max_iters`). Left out:
            5 instances with 100 candidates each, 5 iterations.
        offsets: `"coloured"`, `"white"` (independent at each step) or `"none"` (all
            instances begin at one place, as in the reference code).
        initial_std: of the candidates, as a share of half the box. It and the exponent
            were chosen on tuning problems of two plants (derived).
        noise_beta: exponent of the spectrum of the candidates' noise along the horizon;
            0 for white noise, as published.
        num_kept: best candidates that are kept for the next call.
        overshoot: how far beyond the box, as a share of half of it, candidates may be
            drawn before they are moved onto its bounds. With 0, as published, no
            candidate leaves the box and the spread goes to zero at its bounds, where
            the best actions often are.
        **options: see :class:`~pyro_geo.planning.mpc.Planner`.

    References:
        Zhang, Jin, Jagersand, Luo and Schuurmans (2022), A Simple Decentralized
        Cross-Entropy Method, arXiv 2212.08235. Coloured offsets, kept candidates, draws
        in one batch and the margin are derived.

    Example:
        >>> from pyro_geo.planning.environments import Pendulum
        >>> draws = torch.tensor([[1.0, 1.0], [1.1, 0.9], [0.9, 1.1]])
        >>> planner = CEMPlanner(Pendulum(), draws=draws, horizon=10, seed=1)
        >>> plan = planner.plan(torch.tensor([-1.0, 0.0, 0.0]))
        >>> plan.actions.shape, plan.states.shape
        (torch.Size([10, 1]), torch.Size([3, 11, 3]))
    """

    citations = ("decent_cem",)

    def __init__(
        self,
        dynamics: Dynamics | Plant,
        *,
        optimizer: CEM | DecentCEM | None = None,
        offsets: str = "coloured",
        initial_std: float = 1.0,
        noise_beta: float = 2.0,
        num_kept: int = 5,
        overshoot: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(dynamics, **options)
        if optimizer is None:
            optimizer = DecentCEM(
                5, layout="uniform", restart=False, pop_size=500, max_iters=5
            )
        good = type(optimizer) in (CEM, DecentCEM)
        check(good, "optimizer", type(optimizer).__name__, "a CEM or DecentCEM")
        kinds = ("coloured", "white", "none")
        check(offsets in kinds, "offsets", repr(offsets), " or ".join(map(repr, kinds)))
        check_number("initial_std", initial_std, strict=True)
        most = optimizer.shares[0]
        check_count("num_kept", num_kept, 0)
        check(num_kept <= most, "num_kept", num_kept, f"at most {most}, a population")
        check_number("overshoot", overshoot)
        check_number("noise_beta", noise_beta)
        self.optimizer = copy.copy(optimizer)
        # a problem without a finite cost is told apart from the others here
        self.optimizer.options = optimizer.options._replace(allow_infeasible=True)
        self.offsets, self.initial_std = offsets, initial_std
        self.num_kept, self.overshoot = num_kept, overshoot
        self.noise_beta = noise_beta
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
        s, count = objective.s, len(objective.s)
        edge, elites = 1.0 + self.overshoot, None
        if self._kept is not None and self.num_kept:
            elites = shifted(self._kept.elites, self.horizon, elapsed)
        search = self.optimizer.start(
            lower=-edge,
            upper=edge,
            mean=self._first_means(objective, generator, elapsed),
            std=s.new_full((count, objective.dim), self.initial_std),
            batch_shape=(count,),
            noise=self._noise(objective, generator),
            candidates=elites,
            generator=generator,
            flat=True,
        )
        best = _Best(count, self.num_kept)
        reason: Literal["iterations", "deadline"] = "iterations"
        while True:
            x, problem = search.ask(), search.problem
            cost = objective(x, problem)
            best.add(x, problem, cost)
            search.tell(cost)
            if search.done:
                break
            if deadline.over():
                reason = "deadline"
                break
        found = search.result()
        own = found.instance.view(-1, 1, 1).expand(-1, 1, objective.dim)
        winner = found.means.gather(1, own)[:, 0]
        self._kept = _Kept(winner.clamp(-1, 1), best.x.clamp(-1, 1))
        return Found(
            u=found.x.clamp(-1, 1),
            fun=found.fun,
            means=found.means.clamp(-1, 1),
            instance=found.instance,
            history=found.history,
            reason=reason,
        )

    def _noise(
        self, objective: PlanObjective, generator: torch.Generator
    ) -> Callable[[int], Tensor] | None:
        """What gives the coloured noise of an iteration, `(B, rows, H m)`."""
        if not self.noise_beta:
            return None
        s, options, horizon = objective.s, self.optimizer.options, self.horizon
        shape = (len(s), options.pop_size, objective.dim // horizon, horizon)
        seed, own = generator.initial_seed(), torch.Generator(s.device)

        def noise(iteration: int) -> Tensor:
            own.manual_seed(substream(seed, iteration))
            white = torch.randn(shape, generator=own, dtype=s.dtype, device=s.device)
            z = coloured(white, self.noise_beta).transpose(-1, -2).flatten(-2)
            return truncated(z, options.trunc)

        return noise

    def _first_means(
        self, objective: PlanObjective, generator: torch.Generator, elapsed: int
    ) -> Tensor:
        """Where instances begin, `(B, M, H m)`."""
        s, dim, horizon = objective.s, objective.dim, self.horizon
        # at the end of the range a mean would have no spread left
        limit = min(1.0, 1 + self.overshoot - _MARGIN)
        count, instances = len(s), self.optimizer.num_instances
        means = s.new_zeros(count, instances, horizon, dim // horizon)
        steps = {"coloured": 1, "white": horizon, "none": 0}[self.offsets]
        if steps and instances > 1:
            shape = (count, instances - 1, steps, dim // horizon)
            z = torch.randn(shape, generator=generator, dtype=s.dtype, device=s.device)
            means[:, 1:] = (self.initial_std * z).clamp(-limit, limit)
        means = means.flatten(2)
        if self._kept is not None:
            kept = shifted(self._kept.mean, horizon, elapsed)
            means[:, 0] = kept.clamp(-limit, limit)
        return means


class _Best:
    """The best candidates of each problem so far.

    Args:
        problems: how many.
        number: of candidates to keep for each.
    """

    def __init__(self, problems: int, number: int) -> None:
        self.problems, self.number = problems, number
        self.x = torch.empty(0)
        self.cost: Tensor | None = None

    def add(self, x: Tensor, problem: Tensor, cost: Tensor) -> None:
        """Take candidates, rows in the order of their problems."""
        if not self.number:
            return
        counts = problem.bincount(minlength=self.problems)
        width = int(counts.max())
        place = torch.arange(len(x), device=x.device)
        place = place - (counts.cumsum(0) - counts)[problem] + problem * width
        wide = cost.new_full((self.problems * width,), torch.inf)
        wide[place] = cost
        rows = x.new_zeros(self.problems * width, x.shape[-1])
        rows[place] = x
        wide, rows = (
            wide.view(self.problems, -1),
            rows.unflatten(0, (self.problems, -1)),
        )
        if self.cost is not None:
            wide, rows = torch.cat([self.cost, wide], 1), torch.cat([self.x, rows], 1)
        order = wide.argsort(dim=1, stable=True)[:, : self.number]
        self.cost = wide.gather(1, order)
        self.x = rows.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))
