"""The step of the tracker on the ladder, run block by block over the reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_geo._compat.torch import load_forward_mode
from pyro_geo._process import Seconds
from pyro_geo.density import GraphSize, Lifted, Rung
from pyro_geo.engine.series import BlockResult
from pyro_geo.filtering.tracker.belief import Belief, Parameters, StepInfo
from pyro_geo.filtering.tracker.reports import Reports
from pyro_geo.filtering.tracker.runs import Runs
from pyro_geo.io.store import FILTERED, REPORTS, Variable

__all__ = ["FLAGS", "STATISTICS", "TrackFilter", "lift_step"]

FLAGS = ("restarted", "nonfinite", "late")
STATISTICS = (
    *("p_nominal", "nis", "severed", "log_evidence"),
    *("mode_prob", "dynamics_prob"),
    *FLAGS,
)


def lift_step(runs: Runs, dtype: torch.dtype) -> Lifted:
    """Put the step of a tracker on the ladder.

    Args:
        runs: its configuration.
        dtype: floating type.

    Returns:
        `step(params, belief, y, observed, dt)` to belief and info.
    """
    load_forward_mode()
    return Lifted(
        lambda data, *inputs: tuple(runs.step(*inputs)),
        name="the step of the tracker",
        dtype=dtype,
    )


class TrackFilter:
    """A tracker with its reports; see :class:`~pyro_geo.engine.series.SeriesFilter`.

    Args:
        runs: configuration of the tracker.
        params: its numbers.
        reports: of all tracks.
        groups: tracks that run side by side; the last group may be smaller, and is
            filled up, so that one graph serves all.
        lifted: the step on the ladder by floating type, made where it is not there.
    """

    state_type = Belief

    def __init__(
        self,
        runs: Runs,
        params: Parameters,
        reports: Reports,
        groups: Sequence[range],
        lifted: dict[torch.dtype, Lifted] | None = None,
    ) -> None:
        self.runs, self.params = runs, params
        self._reports, self._dt = reports, reports.dt
        self.groups = list(groups)
        self.dtype = reports.y.dtype
        self._lifted = {} if lifted is None else lifted

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lifted": {}}  # graphs are made again

    @property
    def dim(self) -> int:
        """Components of the state."""
        motion = self.runs.plan.dynamics[0]
        return motion.orders * motion.axes

    @property
    def lifted(self) -> Lifted:
        """The step on the ladder."""
        if self.dtype not in self._lifted:
            self._lifted[self.dtype] = lift_step(self.runs, self.dtype)
        return self._lifted[self.dtype]

    @property
    def notes(self) -> list[str]:
        """Steps down the ladder."""
        return list(self.lifted.notes)

    @property
    def build_seconds(self) -> Seconds:
        """Time that tracing and compiling have taken."""
        return self.lifted.build_seconds

    @property
    def num_steps(self) -> int:
        """Reports of each track."""
        return self._reports.y.shape[1]

    @property
    def statistics(self) -> list[str]:
        """What a step tells beside the moments; no evidence of an improper floor."""
        proper = self.runs.proper
        return [name for name in STATISTICS if proper or name != "log_evidence"]

    @property
    def variables(self) -> list[Variable]:
        """What a step of a track leaves."""
        n, m = self.dim, self.runs.plan.measurement.size
        real = torch.empty(0, dtype=self.dtype).numpy().dtype
        yes_no, double = np.dtype(bool), np.dtype(np.float64)
        modes = (1 + len(self.runs.plan.faults),)
        kinds = (len(self.runs.plan.dynamics),)
        stats = [
            Variable("sample_stats", name, (), yes_no if name in FLAGS else real)
            for name in self.statistics
            if not name.startswith(("mode", "dynamics"))
        ]
        axes = [("mode_prob", modes, "mode"), ("dynamics_prob", kinds, "dynamics")]
        return [
            Variable(FILTERED, "mean", (n,), real, ("state",)),
            Variable(FILTERED, "cov", (n, n), real, ("state", "state_other")),
            *stats,
            *(Variable("sample_stats", k, s, real, (axis,)) for k, s, axis in axes),
            Variable(REPORTS, "y", (m,), real, ("channel",)),
            Variable(REPORTS, "t", (), double),
        ]

    def reports(self, steps: slice) -> dict[str, Tensor]:
        """The reports of all tracks at some steps, tracks first."""
        return {"y": self._reports.y[:, steps], "t": self._reports.t[:, steps]}

    def graph_size(self) -> GraphSize:
        """Size of the graph of one step, which is traced for it."""
        y, observed, dt = self._inputs(0, slice(0, 1))
        examples = (self.params, self.begin(0), y[0], observed[0], dt[0])
        self.lifted.specialise((), *examples)
        return self.lifted.size

    def begin(self, group: int) -> Belief:
        """Make the belief of a group before its first report."""
        y, observed, _ = self._inputs(group, slice(0, 1))
        nothing = torch.zeros_like(observed[0])
        with torch.no_grad():  # the first step starts the tracks
            return self.runs.init(self.params, y[0], nothing)

    def block(self, group: int, state: Belief, steps: slice, rung: Rung) -> BlockResult:
        """Filter some steps of a group.

        Args:
            group: which.
            state: belief after the last step.
            steps: to filter.
            rung: of the ladder.

        Returns:
            The belief after them, and what each has left.
        """
        y, observed, dt = self._inputs(group, steps)
        first = (self.params, state, y[0], observed[0], dt[0])
        step = self.lifted.specialise((), *first, rung=rung)
        infos: list[StepInfo] = []
        for row in zip(y, observed, dt, strict=True):
            state, info = step(self.params, state, *row)
            infos.append(info)
        count = len(self.groups[group])  # lanes beyond it only fill the group up
        values = {
            name: _tracks_first([getattr(info, name) for info in infos], count)
            for name in ("mean", "cov", *self.statistics)
        }
        return BlockResult(state, values, self.lifted.rung)

    def _inputs(self, group: int, steps: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Reports of a group with time first and tracks last."""
        tracks = self.groups[group]
        rows = slice(tracks.start, tracks.stop)
        y = self._reports.y[rows, steps]
        seen = self._reports.observed[rows, steps]
        dt = self._dt[rows, steps].to(self.dtype)
        # missing reports are any number: NaN would spread through gradients
        y = torch.where(seen[..., None], y, torch.zeros((), dtype=y.dtype))
        empty = len(self.groups[0]) - len(tracks)
        if empty:
            y = torch.cat([y, y.new_zeros(empty, *y.shape[1:])])
            seen = torch.cat([seen, seen.new_zeros(empty, seen.shape[1])])
            dt = torch.cat([dt, dt[:1].expand(empty, -1)])
        return (
            y.permute(1, 2, 0).contiguous(),
            seen.T.contiguous(),
            dt.T.contiguous(),
        )


def _tracks_first(rows: Sequence[Tensor], count: int) -> Tensor:
    """Stack values of steps, lanes last, to `(tracks, steps, *shape)`."""
    stacked = torch.stack(list(rows)).movedim(-1, 0)
    return stacked[:count].contiguous()
