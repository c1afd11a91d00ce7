"""What a controller has decided and observed, for tables and ArviZ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_geo._showing import Shown
from pyro_geo.density import Layout, Target
from pyro_geo.io.arviz import to_arviz
from pyro_geo.planning.posteriors import Knowledge
from pyro_geo.results import MemoryDraws, PosteriorDraws

if TYPE_CHECKING:
    import pandas as pd

    from pyro_geo.io.arviz import ArvizData

__all__ = ["ControlRecord", "StepRecord"]


@dataclass
class StepRecord:
    """One decision.

    Attributes:
        s: the state, or its measurement.
        index: number of the action.
        mean: expected return of each action, `(A,)`.
        sd: standard deviation of its error, `(A,)`.
        p_best: probability that each is the best, `(A,)`.
        coverage: share of the variance over parameters that is explained.
        khat: shape of the tail of the weights.
        ess: effective number of draws.
        reward: that followed; NaN before it is observed.
    """

    s: Tensor
    index: int
    mean: Tensor
    sd: Tensor
    p_best: Tensor
    coverage: float
    khat: float
    ess: float
    reward: float = float("nan")


class ControlRecord(Shown):
    """Steps of a controller, in order."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []

    def _shown_facts(self) -> dict[str, object]:
        known = [x.reward for x in self.steps if x.reward == x.reward]
        return {"steps": len(self), "sum of rewards": float(sum(known))}

    def _shown_table(self) -> pd.DataFrame:
        return self.table()

    def __len__(self) -> int:
        return len(self.steps)

    def decided(self, step: StepRecord) -> None:
        """Add a decision.

        Args:
            step: what was decided.
        """
        self.steps.append(step)

    def rewarded(self, reward: float) -> None:
        """Add the reward of the last decision.

        Args:
            reward: that followed it.
        """
        if self.steps:
            self.steps[-1].reward = reward

    def table(self) -> pd.DataFrame:
        """Tabulate the steps.

        Returns:
            One row for each step.
        """
        import pandas as pd

        rows = [
            {
                "action": step.index,
                "q_mean": float(step.mean[step.index]),
                "q_sd": float(step.sd[step.index]),
                "p_best": float(step.p_best[step.index]),
                "reward": step.reward,
                "coverage": step.coverage,
                "khat": step.khat,
                "ess": step.ess,
            }
            for step in self.steps
        ]
        return pd.DataFrame(rows, index=pd.RangeIndex(len(rows), name="step"))

    def posterior(
        self, known: Knowledge, parameters: Sequence[str], seed: int
    ) -> PosteriorDraws:
        """Make a result of draws of the posterior.

        Args:
            known: the draws.
            parameters: names of the columns.
            seed: what is resampled is a function of it.

        Returns:
            The result; weighted draws count as chains of one draw.
        """
        theta = known.theta.double()
        supports = {name: (torch.Size(), constraints.real) for name in parameters}
        layout = Layout.from_supports(supports)
        target = Target.from_potential(
            _flat, layout, dtype=torch.float64, compile=False
        )
        weights = known.log_weights.double()
        equal = bool((weights - weights[0]).abs().max() < 1e-12)
        if equal:
            return PosteriorDraws(target, MemoryDraws(target, theta[None]), seed=seed)
        draws = MemoryDraws(target, theta[:, None])
        return PosteriorDraws(target, draws, log_weights=weights[:, None], seed=seed)

    def to_arviz(self, draws: PosteriorDraws) -> ArvizData:
        """Put draws and steps into the container of the installed ArviZ.

        Args:
            draws: of the posterior.

        Returns:
            The container.
        """
        sites = draws.get_samples(group_by_chain=True)
        posterior = {name: value.numpy() for name, value in sites.items()}
        data: dict[str, np.ndarray] = {}
        dims: dict[str, list[str]] = {}
        if self.steps:
            for name, field in (
                ("q_mean", "mean"),
                ("q_sd", "sd"),
                ("p_best", "p_best"),
            ):
                data[name] = np.stack([getattr(x, field).numpy() for x in self.steps])
                dims[name] = ["step", "action"]
            for name, field in (
                ("chosen", "index"),
                ("reward", "reward"),
                ("coverage", "coverage"),
                ("khat", "khat"),
                ("ess", "ess"),
            ):
                data[name] = np.array([getattr(step, field) for step in self.steps])
                dims[name] = ["step"]
        groups = {"posterior": posterior}
        if data:
            groups["constant_data"] = data
        return to_arviz(groups, dims=dims)


def _flat(sites: dict[str, Tensor]) -> Tensor:
    """No density is known here: draws were made elsewhere."""
    return sum(sites.values()) * 0.0  # type: ignore[return-value]
