"""A plan: actions, what they are predicted to lead to, and how they were found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pyro_geo._showing import notebook
from pyro_geo.ops.arrays import to_numpy

if TYPE_CHECKING:
    from pyro_geo.io.arviz import ArvizData

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """A plan for one problem, or for a batch of them.

    Attributes:
        actions: in their own units, `(*batch, H, m)`.
        cost: what was minimised, the risk of the plan, `(*batch,)`.
        costs: of the plan under each draw, `(*batch, S)`.
        states: predicted under each draw, `(*batch, S, H + 1, n)`.
        step_costs: of each step under each draw, undiscounted, `(*batch, S, H)`.
        history: lowest cost so far of each instance after each iteration,
            `(iterations, *batch, M)`.
        means: where each instance has got to, `(*batch, M, H, m)`.
        instance: that found the plan, `(*batch,)`.
        n_evals: plans that were evaluated for each problem; each is rolled out under
            every draw.
        n_non_finite: of these, those whose cost was not finite, `(*batch,)`.
        lost: problems without a single finite cost, `(*batch,)`; their actions are
            those that the search began with.
        reason: `"iterations"`, or `"deadline"` where it ended the search.
        method: name of the planner.
    """

    actions: Tensor
    cost: Tensor
    costs: Tensor
    states: Tensor
    step_costs: Tensor
    history: Tensor
    means: Tensor
    instance: Tensor
    n_evals: int
    n_non_finite: Tensor
    lost: Tensor
    reason: Literal["iterations", "deadline"]
    method: str

    @property
    def action(self) -> Tensor:
        """The action of now, `(*batch, m)`."""
        return self.actions[..., 0, :]

    @property
    def iterations(self) -> int:
        """Iterations that were made."""
        return len(self.history)

    def quantiles(self, level: float = 0.9) -> Tensor:
        """Interval of the predicted states over draws.

        Args:
            level: probability of the interval.

        Returns:
            Lower end, median and upper end, `(3, *batch, H + 1, n)`.
        """
        ends = [(1 - level) / 2, 0.5, (1 + level) / 2]
        q = torch.tensor(ends, dtype=self.states.dtype, device=self.states.device)
        return self.states.quantile(q, dim=-3)

    def to_arviz(self) -> ArvizData:
        """Hand the search and the predictions to ArviZ.

        Returns:
            Groups `optimization` (lowest costs by iteration and instance) and
            `predictions` (states, actions and costs by draw).
        """
        import xarray as xr

        from pyro_geo._compat.arviz import to_container

        axes = [f"problem_{i}" for i in range(self.cost.dim())]

        def named(value: Tensor, *own: str, first: str = "") -> tuple[Any, Any]:
            lead = [first] if first else []
            return [*lead, *axes, *own], to_numpy(value)

        search = {
            "best_fun": named(self.history, "instance", first="iteration"),
            "n_non_finite": named(self.n_non_finite),
            "winner": named(self.instance),
        }
        plan = {
            "state": named(self.states, "draw", "time", "number"),
            "cost": named(self.costs, "draw"),
            "step_cost": named(self.step_costs, "draw", "step"),
            "action": named(self.actions, "step", "action_number"),
        }
        facts = {"reason": self.reason, "method": self.method, "n_evals": self.n_evals}
        return to_container(
            {
                "optimization": xr.Dataset(search, attrs=facts),
                "predictions": xr.Dataset(plan, attrs=facts),
            }
        )

    def _repr_html_(self) -> str:
        """Show the actions in a notebook, or the costs of several plans."""
        import pandas as pd

        if self.cost.dim():
            table = pd.DataFrame({"cost": to_numpy(self.cost).reshape(-1)})
            return notebook(repr(self), table.rename_axis("problem"))
        names = [f"action {i}" for i in range(self.actions.shape[-1])]
        table = pd.DataFrame(to_numpy(self.actions), columns=pd.Index(names))
        bad = int(self.n_non_finite.sum())
        notes = [f"{bad:,} plans had no finite cost."] * (bad > 0)
        return notebook(repr(self), table.rename_axis("step"), notes)

    def __repr__(self) -> str:
        """Say how large it is and what it costs."""
        batch = tuple(self.cost.shape)
        many = f"{batch} problems, " if batch else ""
        horizon, m = self.actions.shape[-2:]
        return (
            f"Plan({many}{horizon} steps of {m} numbers, cost "
            f"{float(self.cost.mean()):.4g}, {self.costs.shape[-1]} draws, "
            f"{self.n_evals} evaluations by {self.method})"
        )
