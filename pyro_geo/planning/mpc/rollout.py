r"""Rollouts: candidates under every draw, side by side, and what they cost."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.density.ladder import Lifted, Rung
from pyro_geo.planning.mpc.dynamics import Dynamics
from pyro_geo.planning.mpc.terminal import TerminalValue

__all__ = ["Rollout", "Scenario", "Trajectories"]


class Scenario(NamedTuple):
    """What all candidates of one plan share.

    Attributes:
        draws: of what is unknown, `(S, ...)` each.
        noise: of the steps, `(H, S, k)`.
    """

    draws: tuple[Tensor, ...]
    noise: Tensor


class Trajectories(NamedTuple):
    """Rollouts with their states.

    Attributes:
        states: `(K, S, H + 1, n)`.
        costs: `(K, S)`.
        steps: cost of each step, undiscounted, `(K, S, H)`.
    """

    states: Tensor
    costs: Tensor
    steps: Tensor


class Rollout:
    r"""Cost of plans under each draw.

    .. math:: C_s(u) = \sum_{t=0}^{H-1} \gamma^t c(x_t^s, u_t, x_{t+1}^s)
        - \gamma^H V(x_H^s), \qquad x_{t+1}^s = f(\theta_s, x_t^s, u_t, \epsilon_t^s)

    The candidates of all problems are rows, and all draws stand beside each other: one
    tensor `(K, S, n)`, and one Python loop, over time. Its step is a pure function of
    tensors on the ladder.

    Args:
        dynamics: what is simulated.
        discount: :math:`\gamma`.
        terminal_value: :math:`V`; nothing follows where it is None.
        rung: of the ladder.
        max_rows: states that are simulated at once; candidates beyond it wait.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        *,
        discount: float,
        terminal_value: TerminalValue | None,
        rung: Rung,
        max_rows: int,
    ) -> None:
        self.dynamics, self.discount = dynamics, discount
        self.terminal_value, self.max_rows = terminal_value, max_rows
        self.rung: Rung = rung
        self.lifted = Lifted(self._step, name="a step of the plan", ceiling=rung)

    def costs(self, s: Tensor, actions: Tensor, scenario: Scenario) -> Tensor:
        """Cost of candidates under each draw.

        Args:
            s: first state of each candidate, `(K, n)`.
            actions: in their own units, `(K, H, m)`.
            scenario: draws and noise.

        Returns:
            Costs, `(K, S)`; not finite where the dynamics failed.
        """
        size = max(1, self.max_rows // scenario.noise.shape[1])
        parts = [
            self._run(*rows, scenario, keep=False).costs
            for rows in zip(s.split(size), actions.split(size), strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def trajectories(
        self, s: Tensor, actions: Tensor, scenario: Scenario
    ) -> Trajectories:
        """Roll candidates out and keep their states.

        Args:
            s: first state of each candidate, `(K, n)`.
            actions: in their own units, `(K, H, m)`.
            scenario: draws and noise.

        Returns:
            States and costs.
        """
        return self._run(s, actions, scenario, keep=True)

    def _step(
        self,
        data: tuple[Tensor, ...],
        s: Tensor,
        a: Tensor,
        noise: Tensor,
        draws: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor]:
        after = self.dynamics.step(draws, s, a, noise)
        cost = self.dynamics.cost(s, a, after)
        return after, cost.expand(after.shape[:-1])

    def _run(
        self, s: Tensor, actions: Tensor, scenario: Scenario, keep: bool
    ) -> Trajectories:
        draws, noise = scenario
        lead = (len(s), noise.shape[1])
        state = s[:, None].expand(*lead, s.shape[-1]).contiguous()
        total = torch.zeros(lead, dtype=s.dtype, device=s.device)
        states, steps = [state], []
        by_time = actions.transpose(0, 1).unsqueeze(2)  # (H, K, 1, m)
        example = (state, by_time[0], noise[0], draws)
        bound = self.lifted.specialise((), *example, rung=self.rung)
        for t, a in enumerate(by_time):
            state, cost = bound(state, a, noise[t], draws)
            total = total + self.discount**t * cost
            if keep:
                states.append(state)
                steps.append(cost)
        if self.terminal_value is not None:
            total = total - self.discount ** len(by_time) * self._value(state)
        if not keep:
            return Trajectories(state, total, total)
        return Trajectories(torch.stack(states, 2), total, torch.stack(steps, -1))

    def _value(self, s: Tensor) -> Tensor:
        assert self.terminal_value is not None
        flat = s.flatten(0, 1)
        finite = flat.isfinite().all(-1)
        # a value model may refuse a state that is not finite
        with torch.no_grad():
            found = self.terminal_value(torch.where(finite[:, None], flat, 0.0))
        good = found.shape in ((len(flat),), (len(flat), 1))
        check_shape("values of end states", found.shape, (len(flat),), good)
        value = torch.where(finite, found.reshape(-1).to(s), torch.nan)
        return value.reshape(s.shape[:-1])
