"""What a planner minimises: the risk of candidates, counted and guarded."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.errors import NoFeasibleSampleError
from pyro_geo.planning.mpc.dynamics import Box
from pyro_geo.planning.mpc.risk import Risk
from pyro_geo.planning.mpc.rollout import Rollout, Scenario, Trajectories

__all__ = ["PlanObjective"]


class PlanObjective:
    """Risk of action sequences for a batch of first states, under one scenario.

    Candidates are in the unit box `[-1, 1]` and are scaled to the box of the actions.

    Args:
        s: first states, `(B, n)`.
        horizon: steps of a plan.
        box: bounds of the actions.
        rollout: simulates.
        scenario: draws and noise, the same for all candidates.
        risk: of the costs under each draw; their mean where it is None.

    Attributes:
        n_evals: candidates evaluated for each problem, `(B,)`.
        n_non_finite: of these, those without a finite cost, `(B,)`.
    """

    def __init__(
        self,
        s: Tensor,
        horizon: int,
        box: Box,
        rollout: Rollout,
        scenario: Scenario,
        risk: Risk | None,
    ) -> None:
        self.s, self.horizon, self.rollout = s, horizon, rollout
        self.scenario, self.risk = scenario, risk
        self.lower, self.upper = box.lower.to(s), box.upper.to(s)
        self.n_evals = torch.zeros(len(s), dtype=torch.long, device=s.device)
        self.n_non_finite = torch.zeros_like(self.n_evals)

    @property
    def dim(self) -> int:
        """Numbers in a candidate, `H m`."""
        return self.horizon * len(self.lower)

    def actions(self, u: Tensor) -> Tensor:
        """Scale candidates to the box.

        Args:
            u: in the unit box, `(..., H m)`.

        Returns:
            Actions in their own units, `(..., H, m)`.
        """
        u = u.unflatten(-1, (self.horizon, -1))
        centre, half = (self.lower + self.upper) / 2, (self.upper - self.lower) / 2
        # rounding may leave the box by one digit
        return (centre + half * u).clamp(self.lower, self.upper)

    def __call__(self, u: Tensor, problem: Tensor) -> Tensor:
        """Evaluate candidates.

        Args:
            u: in the unit box, `(K, H m)`.
            problem: of each, `(K,)`.

        Returns:
            Their risk, `(K,)`; infinity where a cost under a draw is not finite.
        """
        costs = self.rollout.costs(self.s[problem], self.actions(u), self.scenario)
        risk = self.judge(costs)
        good = costs.isfinite().all(-1) & risk.isfinite()
        self.n_evals += problem.bincount(minlength=len(self.s))
        self.n_non_finite += problem[~good].bincount(minlength=len(self.s))
        return torch.where(good, risk, torch.inf)

    def judge(self, costs: Tensor) -> Tensor:
        """Risk of costs, `(K,)` of `(K, S)`."""
        if self.risk is None:
            return costs.mean(-1)
        found = self.risk(costs)
        check_shape("what the risk returns", found.shape, costs.shape[:-1])
        return found

    def trajectories(self, u: Tensor) -> Trajectories:
        """Roll one plan of each problem out and keep its states.

        Args:
            u: in the unit box, `(B, H m)`.

        Returns:
            States and costs.
        """
        return self.rollout.trajectories(self.s, self.actions(u), self.scenario)

    def refuse(self, u: Tensor) -> None:
        """Say where the dynamics fail, when every candidate is lost.

        Args:
            u: one candidate of each problem, `(B, H m)`.

        Raises:
            NoFeasibleSampleError: always.
        """
        found = self.trajectories(u)
        raise NoFeasibleSampleError(
            "no candidate plan has a finite cost",
            where=_place(found),
            found=f"{int(self.n_non_finite.sum())} of {int(self.n_evals.sum())} costs "
            "that are NaN or infinite",
            expected="at least one finite cost for each problem",
            todo="Look at the dynamics and the cost there; draws far in a tail may be "
            "outside the range where the model can be simulated.",
        )


def _place(found: Trajectories) -> str:
    """Problem, draw and step of the first number that is not finite."""
    states, steps = ~found.states.isfinite(), ~found.steps.isfinite()
    bad = states.any(-1)[..., 1:] | steps  # (B, S, H)
    if not bool(bad.any()):
        lost = (~found.costs.isfinite()).nonzero()
        if not len(lost):
            return "the first population"
        problem, draw = lost[0].tolist()
        return f"problem {problem}, draw {draw}, value of the end state"
    # the earliest step of all
    step = int(bad.flatten(0, 1).any(0).nonzero()[0])
    problem, draw = bad[..., step].nonzero()[0].tolist()
    text = f"problem {problem}, draw {draw}, step {step}"
    number = states[problem, draw, step + 1].nonzero()
    if len(number):
        return f"{text}, number {int(number[0])} of the next state"
    return f"{text}, cost"
