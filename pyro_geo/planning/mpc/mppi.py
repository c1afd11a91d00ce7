r"""Model-predictive path integral control, as published: a baseline."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from pyro_geo.checks import check_count, check_number
from pyro_geo.planning.environments import Plant
from pyro_geo.planning.mpc.coloured import coloured
from pyro_geo.planning.mpc.dynamics import Dynamics
from pyro_geo.planning.mpc.objective import PlanObjective
from pyro_geo.planning.mpc.planner import Deadline, Found, Planner
from pyro_geo.planning.mpc.shifting import shifted

__all__ = ["MPPIPlanner"]


class MPPIPlanner(Planner):
    r"""Plan by averaging candidates with weights that fall with their cost.

    .. math:: u \leftarrow u + \sum_i w_i \epsilon_i, \qquad
        w_i \propto \exp\Big(-\tfrac1\lambda \big(C(u + \epsilon_i) + \lambda
        (1 - \alpha)\, u^\top \Sigma^{-1} \epsilon_i\big)\Big)

    It moves smoothly from call to call and has no elites to lose. An average of two
    ways around an obstacle goes through it.

    Args:
        dynamics: a plant, or other :class:`~pyro_geo.planning.mpc.Dynamics`.
        pop_size: candidates of an iteration.
        num_iters: updates of a call; one in the paper.
        temperature: :math:`\lambda`, in units of the cost: candidates that cost this
            much more than the best one count a third as much. It has to be tuned.
        alpha: share of the price of control that is taken off, from 0 to 1; with 1
            actions cost what the cost function says.
        initial_std: :math:`\Sigma^{1/2}`, as a share of half the box.
        noise_beta: exponent of the noise's spectrum; 0, as published, is white.
        **options: see :class:`~pyro_geo.planning.mpc.Planner`.

    References:
        Williams, Wagener, Goldfain, Drews, Rehg, Boots and Theodorou (2017),
        Information theoretic MPC for model-based reinforcement learning, ICRA.

    Example:
        >>> from pyro_geo.planning.environments import LinearQuadratic
        >>> plant = LinearQuadratic.double_integrator()
        >>> planner = MPPIPlanner(plant, horizon=10, pop_size=200)
        >>> bool(planner.act(torch.tensor([1.0, 0.0])) < 0)
        True
    """

    citations = ("mppi",)

    def __init__(
        self,
        dynamics: Dynamics | Plant,
        *,
        pop_size: int = 500,
        num_iters: int = 5,
        temperature: float = 1.0,
        alpha: float = 1.0,
        initial_std: float = 0.5,
        noise_beta: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(dynamics, **options)
        check_count("pop_size", pop_size, 2)
        check_count("num_iters", num_iters)
        check_number("temperature", temperature, strict=True)
        check_number("alpha", alpha, 0.0, 1.0 + 1e-12)
        check_number("initial_std", initial_std, strict=True)
        check_number("noise_beta", noise_beta)
        self.pop_size, self.num_iters, self.alpha = pop_size, num_iters, alpha
        self.temperature, self.initial_std = temperature, initial_std
        self.noise_beta = noise_beta
        self._mean: Tensor | None = None

    def _forget(self) -> None:
        self._mean = None

    def _search(
        self,
        objective: PlanObjective,
        generator: torch.Generator,
        deadline: Deadline,
        elapsed: int,
    ) -> Found:
        s, dim, count = objective.s, objective.dim, len(objective.s)
        mean = s.new_zeros(count, dim)
        if self._mean is not None:
            mean = shifted(self._mean, self.horizon, elapsed)
        problem = torch.arange(count, device=s.device)
        each = problem.repeat_interleave(self.pop_size)
        history = []
        reason: Literal["iterations", "deadline"] = "iterations"
        for i in range(self.num_iters):
            # the mean is a candidate, without noise, so that the plan is never unseen
            noise = self._noise(mean, generator)
            noise[:, 0] = 0
            x = (mean[:, None] + noise).clamp(-1, 1)
            cost = objective(x.flatten(0, 1), each).view(count, -1)
            mean = mean + self._step(mean, x - mean[:, None], cost)
            lowest = cost.amin(1, keepdim=True)
            history.append(lowest if not i else torch.minimum(history[-1], lowest))
            if i < self.num_iters - 1 and deadline.over():
                reason = "deadline"
                break
        self._mean = mean
        return Found(
            u=mean,
            fun=objective(mean, problem),
            means=mean[:, None],
            instance=torch.zeros_like(problem),
            history=torch.stack(history),
            reason=reason,
        )

    def _noise(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        count, dim = mean.shape
        m = dim // self.horizon
        white = torch.randn(
            count,
            self.pop_size,
            m,
            self.horizon,
            generator=generator,
            dtype=mean.dtype,
            device=mean.device,
        )
        noise = coloured(white, self.noise_beta) if self.noise_beta else white
        return self.initial_std * noise.transpose(-1, -2).flatten(2)

    def _step(self, mean: Tensor, noise: Tensor, cost: Tensor) -> Tensor:
        """Weighted mean of the perturbations, `(B, D)`."""
        good = cost.isfinite()
        lowest = torch.where(good, cost, torch.inf).amin(1, keepdim=True)
        excess = torch.where(good, cost - lowest, 0.0)
        price = (mean[:, None] * noise).sum(-1) / self.initial_std**2
        total = -excess / self.temperature - (1 - self.alpha) * price
        total = torch.where(good, total, -torch.inf)
        weight = total.softmax(1).nan_to_num(0.0)  # no candidate left: no step
        return (weight[..., None] * noise).sum(1)
