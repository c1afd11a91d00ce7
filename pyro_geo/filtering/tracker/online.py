"""The tracker online: one report after another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.density import Lifted
from pyro_geo.filtering.tracker.belief import Belief, Parameters, StepInfo
from pyro_geo.filtering.tracker.blocks import lift_step
from pyro_geo.filtering.tracker.runs import Runs

__all__ = ["OnlineBelief", "take"]


class OnlineBelief(NamedTuple):
    """What a tracker knows between two reports.

    Attributes:
        state: all hypotheses.
        info: what the last step has told.
    """

    state: Belief
    info: StepInfo

    @property
    def mean(self) -> Tensor:
        """Mean of the state, `(tracks, states)`; NaN before the first report."""
        return self.info.mean.movedim(-1, 0)

    @property
    def cov(self) -> Tensor:
        """Covariance of the state, `(tracks, states, states)`."""
        return self.info.cov.movedim(-1, 0)

    @property
    def mode_prob(self) -> Tensor:
        """Probability of each mode of the sensor, `(tracks, modes)`."""
        return self.info.mode_prob.movedim(-1, 0)

    @property
    def p_nominal(self) -> Tensor:
        """Probability that the sensor is nominal, `(tracks,)`."""
        return self.info.p_nominal

    @property
    def severed(self) -> Tensor:
        """Nats that the last report has cost the nominal sensor, `(tracks,)`."""
        return self.info.severed


def take(
    runs: Runs,
    params: Parameters,
    lifted: dict[torch.dtype, Lifted],
    belief: OnlineBelief | None,
    y: Tensor,
    dt: Tensor | float,
) -> OnlineBelief:
    """Take one report of each track; see :meth:`BoundedTracker.step`.

    Args:
        runs: configuration of the tracker.
        params: its numbers.
        lifted: the step on the ladder by floating type, made where it is not there.
        belief: after the reports so far.
        y: the reports.
        dt: time since the last ones.

    Returns:
        The new belief.
    """
    m = runs.plan.measurement.size
    rows = y[None] if y.dim() == 1 else y
    expected = f"(tracks, {m}), or ({m},) of one track"
    check_shape("y", y.shape, expected, rows.dim() == 2 and rows.shape[1] == m)
    check(rows.is_floating_point(), "y", rows.dtype, "floating numbers")
    times = torch.as_tensor(dt, dtype=rows.dtype, device=rows.device)
    good = times.shape in ((), rows.shape[:1])
    check_shape("dt", times.shape, f"a number or ({len(rows)},)", good)
    params = Parameters(*(param.to(rows) for param in params))
    seen = ~rows.isnan().any(-1)
    lanes = torch.where(seen[:, None], rows, 0.0).T.contiguous()
    if belief is None:
        state = runs.init(params, lanes, torch.zeros_like(seen))
    else:
        state, like = belief.state, belief.info.mean
        check(like.dtype == rows.dtype, "y", rows.dtype, f"{like.dtype} as before")
        check_shape("y", rows.shape, (like.shape[-1], m))
    if rows.dtype not in lifted:
        lifted[rows.dtype] = lift_step(runs, rows.dtype)
    inputs = (params, state, lanes, seen, times.expand(len(rows)).contiguous())
    return OnlineBelief(*lifted[rows.dtype]((), *inputs))
