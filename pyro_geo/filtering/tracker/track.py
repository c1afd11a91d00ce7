"""The result of a tracker: states over time, and what was refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_geo._process import Seconds
from pyro_geo.checks import check_shape
from pyro_geo.engine.attributes import RunTimes
from pyro_geo.engine.series_session import SeriesState
from pyro_geo.filtering.tracker.ledger import RefusalLedger
from pyro_geo.filtering.tracker.review import check_proper
from pyro_geo.ops.arrays import to_numpy
from pyro_geo.results import Series, Steps

if TYPE_CHECKING:
    import pandas as pd

    from pyro_geo.filtering.tracker.tracker import BoundedTracker

__all__ = ["Track"]

_LEVELS = (0.5, 0.9, 0.95, 0.99)
_LONGEST_TABLE = 2_000  # rows of the ledger in a report


class Track(Series, RunTimes):
    r"""What a tracker knows after each report, of many tracks at once.

    Beside the accessors of :class:`~pyro_geo.results.Series`, of which the mean and the
    covariance of the state are the first, it has the probability of each mode of the
    sensor and the :attr:`ledger` of what was refused. NaN stands for what is not known:
    before the first report of a track nothing is.

    Args:
        steps: where the values are.
        tracker: that has made them.
        end: where the run ended, to go on from.
        options: of the run.
        timings: seconds by phase.
        interrupted: whether the run was cut short.
        **options_of_series: see :class:`~pyro_geo.results.Series`.
    """

    def __init__(
        self,
        steps: Steps,
        *,
        tracker: BoundedTracker,
        end: SeriesState,
        options: Mapping[str, Any],
        timings: Mapping[str, Seconds],
        interrupted: bool = False,
        **options_of_series: Any,
    ) -> None:
        super().__init__(steps, **options_of_series)
        self.tracker, self.end = tracker, end
        self._options = dict(options)
        self.timings = dict(timings)
        self.interrupted = interrupted

    # -- values ---------------------------------------------------------------------

    @property
    def mode_prob(self) -> Tensor:
        """Probability of each mode of the sensor, `(tracks, time, modes)`."""
        return self._value("mode_prob")

    @property
    def dynamics_prob(self) -> Tensor:
        """Probability of each motion, `(tracks, time, dynamics)`."""
        return self._value("dynamics_prob")

    @property
    def p_nominal(self) -> Tensor:
        """Probability that the sensor is nominal, `(tracks, time)`."""
        return self._value("p_nominal")

    @property
    def nis(self) -> Tensor:
        """Normalised innovation squared under a nominal sensor, `(tracks, time)`."""
        return self._value("nis")

    @property
    def severed(self) -> Tensor:
        """Nats that each report has cost the nominal sensor, `(tracks, time)`."""
        return self._value("severed")

    @property
    def log_evidence(self) -> Tensor:
        """Log-density of each report given those before it, `(tracks, time)`.

        Its sum over time is the log-evidence of a track. Where the floor of a sensor
        mode is no density, an :class:`~pyro_geo.errors.ImproperFloorError` says so.
        """
        check_proper("log_evidence" in self._steps.shapes, "Track.log_evidence")
        return self._value("log_evidence")

    @property
    def restarted(self) -> Tensor:
        """Where the covariance degenerated and a track began anew, `(tracks, time)`."""
        return self._value("restarted")

    @property
    def nonfinite(self) -> Tensor:
        """Where a report was not finite and was left out, `(tracks, time)`."""
        return self._value("nonfinite")

    @property
    def position(self) -> Tensor:
        """Mean of the position, `(tracks, time, axes)`."""
        return self.mean[..., self._place]

    @property
    def _place(self) -> list[int]:
        """Components of the state that are the position."""
        return list(range(self.tracker.runs.plan.dynamics[0].axes))

    @property
    def late(self) -> Tensor:
        """Where a report was older than one before it, `(tracks, time)`."""
        return self._value("late")

    @property
    def mode_names(self) -> list[str]:
        """Names of the modes of the sensor."""
        return [str(name) for name in self.coords["mode"]]

    @property
    def ledger(self) -> RefusalLedger:
        """What was refused, report by report."""
        names = ("y", "t", "p_nominal", "severed", "mode_prob")
        values = self._steps.read(names)
        return RefusalLedger(
            **values,
            left_out=self.nonfinite | self.late,
            modes=self.mode_names,
            channels=[str(name) for name in self.coords["channel"]],
            labels=self.labels,
        )

    # -- tables ---------------------------------------------------------------------

    def summary(self) -> pd.DataFrame:
        """Tabulate the tracks.

        Returns:
            One row per track: the totals of the ledger, the mean NIS over its
            dimension of the reports that were not refused (one, where the noise is what
            it is said to be), and the state after the last step.
        """
        ledger = self.ledger
        table = ledger.totals()
        taken = ledger.observed & ~ledger.refused
        nis = torch.where(taken, self.nis, torch.nan).double().nanmean(1)
        table["NIS"] = to_numpy(nis / self.tracker.runs.plan.measurement.size)
        for name, value in self._last().items():
            table[name] = to_numpy(value)
        return table

    def calibration(self) -> pd.DataFrame:
        """Compare the NIS of reports that were not refused with its distribution.

        Returns:
            One row per level: the share of reports whose NIS is below that quantile of
            the chi-squared distribution, over all tracks.
        """
        import pandas as pd
        from scipy.stats import chi2

        ledger = self.ledger
        nis = self.nis[ledger.observed & ~ledger.refused]
        nis = nis[nis.isfinite()]
        limits = chi2.ppf(_LEVELS, self.tracker.runs.plan.measurement.size)
        shares = [float((nis <= limit).double().mean()) for limit in limits]
        return pd.DataFrame(
            {"expected": _LEVELS, "found": shares, "reports": len(nis)},
            index=pd.Index([f"{level:.0%}" for level in _LEVELS], name="NIS within"),
        )

    def score(self, truth: Tensor, level: float = 0.95) -> pd.DataFrame:
        """Compare the positions with true ones.

        Args:
            truth: true positions, `(tracks, time, axes)`, or `(time, axes)` of one
                track; NaN where they are not known.
            level: probability of the ellipses that are counted.

        Returns:
            One row per track: root mean square error, share of steps whose ellipse
            holds the truth, and mean normalised squared error over its dimension.
        """
        import pandas as pd
        from scipy.stats import chi2

        mean = self.position.double()
        axes = mean.shape[-1]
        truth = torch.as_tensor(truth).to(mean).reshape(-1, *truth.shape[-2:])
        check_shape("truth", truth.shape, tuple(mean.shape))
        place = self._place
        cov = self.cov.double()[..., place, :][..., place]
        error = mean - truth
        known = error.isfinite().all(-1) & cov.isfinite().all(-1).all(-1)
        safe = torch.where(known[..., None, None], cov, torch.eye(axes).to(cov))
        aim = torch.where(known[..., None], error, 0.0)
        nees = (torch.linalg.solve(safe, aim) * aim).sum(-1)
        inside = nees <= float(chi2.ppf(level, axes))
        square = aim.square().sum(-1)
        columns = {
            "rmse": _mean(square, known).sqrt(),
            f"coverage {level:.0%}": _mean(inside.double(), known),
            "NEES": _mean(nees / axes, known),
        }
        table = {name: to_numpy(value) for name, value in columns.items()}
        return pd.DataFrame(table, index=pd.Index(self.labels, name=self._axis))

    # -- going on -------------------------------------------------------------------

    def extend(
        self, y: Any, t: Any = None, mask: Any = None, *, dt: float | None = None
    ) -> Track:
        """Go on with later reports of the same tracks, as if they had come at once.

        Where the run has a store, it is continued there.

        Args:
            y: the new reports, as :meth:`BoundedTracker.filter` takes them.
            t: their times.
            mask: True where there is a report.
            dt: time between reports where there are no times; the first comes so long
                after the last one.

        Returns:
            The longer track; this one stays as it is.
        """
        return self.tracker._extend(self, y, t, mask, dt)

    # -- reports --------------------------------------------------------------------

    def report(
        self,
        path: str | Path,
        tables: Mapping[str, Any] | None = None,
        *,
        truth: Tensor | None = None,
    ) -> Path:
        """Write a report in one HTML file.

        Args:
            path: where to.
            tables: further tables to show, title to data frame.
            truth: true positions, which are scored; see :meth:`score`.

        Returns:
            The path.
        """
        from pyro_geo.io.reports import further_tables

        ledger = self.ledger.table()
        shown = ledger.head(_LONGEST_TABLE)
        cut = "" if len(shown) == len(ledger) else f" (the first {len(shown):,})"
        own = {
            "Calibration of the reports that were not refused": self.calibration(),
            f"Ledger: {len(ledger):,} refused reports{cut}": shown.set_index("track"),
        }
        if truth is not None:
            own = {"Against the truth": self.score(truth), **own}
        return super().report(path, {**own, **further_tables(tables)})

    def _places(self) -> Any:
        """Positions that the reports stand for, where one report tells it."""
        sensor = self.tracker.runs.plan.measurement
        if sensor.identity or sensor.size < len(self._place):
            return None
        y = self._value("y").movedim(-1, 0)
        place = torch.where(y.isfinite().all(0), sensor.locate(y), torch.nan)
        return to_numpy(place.movedim(0, -1))


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, 0.0).sum(1) / where.sum(1)
