"""The bounded tracker as a Pyro module."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import pyro
import torch
from pyro.nn import PyroModule, pyro_method
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.checks import check, check_shape, known_options
from pyro_geo.filtering.tracker.belief import Parameters
from pyro_geo.filtering.tracker.dynamics import Dynamics
from pyro_geo.filtering.tracker.evidence import Evidence, TrackReports
from pyro_geo.filtering.tracker.measurements import Measurement
from pyro_geo.filtering.tracker.numbers import covariance, fixed_numbers, numbers_of
from pyro_geo.filtering.tracker.online import OnlineBelief, take
from pyro_geo.filtering.tracker.presets import preset
from pyro_geo.filtering.tracker.reports import as_reports, shaped_reports
from pyro_geo.filtering.tracker.review import check_proper
from pyro_geo.filtering.tracker.running import RunOptions, extend, run
from pyro_geo.filtering.tracker.runs import Runs
from pyro_geo.filtering.tracker.sensors import Biased, Random, SensorMode, Stuck
from pyro_geo.filtering.tracker.track import Track

__all__ = ["BoundedTracker"]


class BoundedTracker(PyroModule):
    r"""Track moving things with a sensor that may lie.

    Each hypothesis is one run of one mode of the sensor, with an IMM filter of motions
    inside. A report carries a bounded number of nats, so that none can drag a track
    away, and what was refused is written down, report by report.

    Its numbers are attributes: `q` of the motions, the covariance `R` of a nominal
    report, and the rates `p_fault`, `recover`, `share`, `stay` and more (see
    :class:`~pyro_geo.filtering.tracker.belief.Parameters`). Put a `PyroParam` or a
    `PyroSample` in the place of one to fit it: the module itself is the Pyro model
    (:meth:`forward`), with the proper evidence of the reports as its likelihood.

    Args:
        dynamics: motions of the target, all with the same state; one, or a list.
        measurement: what a nominal sensor reports of a state.
        R: covariance of a nominal report, `(m, m)`, or the variance of each number.
        faults: ways in which the sensor fails; none for a plain IMM filter.
        keep: runs kept of each mode in which the state learns; 4 where a wrong start
            must be undone.
        p_fault: chance that a nominal sensor fails at the next report.
        speed: least and largest speed of the target, a bound that a hovering decoy
            breaks.
        linearisation: `"ekf"` or `"ukf"`, for a measurement that is not linear.
        residual_fn: subtracts a prediction from a report, both `(m, *lanes)`, in place
            of the measurement's own: for angles.
        recover: chance that a fault that ends leaves a nominal sensor, not another
            fault.
        hold: chance that the target keeps its motion from one report to the next.

    Raises:
        ShapeError: `R` is no matrix of the size of a report.
        ConfigurationError: `R` is not positive definite. A bad option is one too.

    References:
        Rodriguez (2026), Robust sequential tracking via bounded information geometry
        and non-parametric field actions, arXiv:2603.13613, for the setting; the
        equations are derived here.
        Blom and Bar-Shalom (1988), The interacting multiple model algorithm for
        systems with Markovian switching coefficients.

    Example:
        >>> from pyro_geo.filtering import BoundedTracker, Level, Position
        >>> tracker = BoundedTracker(Level(0.01), Position(1), 1.0)
        >>> y = torch.zeros(1, 30, 1)
        >>> y[0, 20] = 1e6  # a lie
        >>> track = tracker.filter(y, dt=1.0, progress_bar=False)
        >>> bool(track.mean.abs().max() < 0.1), track.ledger.totals()["refused"].item()
        (True, 1)
    """

    citations = ("bounded", "imm")

    @renamed(linearization="linearisation")
    @known_options
    def __init__(
        self,
        dynamics: Dynamics | Sequence[Dynamics],
        measurement: Measurement,
        R: Tensor | float,
        *,
        faults: Sequence[SensorMode] | None = None,
        keep: int = 2,
        p_fault: float = 0.05,
        speed: tuple[float, float] | None = None,
        linearisation: Literal["ekf", "ukf"] = "ekf",
        residual_fn: Any = None,
        recover: float = 0.8,
        hold: float = 0.95,
    ) -> None:
        super().__init__()
        motions = [dynamics] if isinstance(dynamics, Dynamics) else list(dynamics)
        good = bool(motions) and all(isinstance(d, Dynamics) for d in motions)
        check(good, "dynamics", dynamics, "Dynamics, or a list of them")
        good = isinstance(measurement, Measurement)
        check(good, "measurement", measurement, "a Measurement, such as Position()")
        if residual_fn is not None:
            check(callable(residual_fn), "residual_fn", residual_fn, "a function")
            measurement = copy.copy(measurement)
            measurement.residual = residual_fn  # type: ignore[method-assign]
        modes = (Random(), Biased(), Stuck()) if faults is None else tuple(faults)
        self.runs = Runs(
            motions,
            measurement,
            covariance(R, measurement.size),
            faults=modes,
            keep=keep,
            p_fault=p_fault,
            recover=recover,
            hold=hold,
            speed=speed,
            linearisation=linearisation,
        )
        for name, value in self.runs.parameters()._asdict().items():
            self.register_buffer(name, value)
        self._lifted: dict[torch.dtype, Any] = {}
        self._evidence: dict[tuple[torch.dtype, bool], Evidence] = {}

    @classmethod
    def preset(
        cls, name: str, noise: float | tuple[float, ...] = 1.0, **options: Any
    ) -> Self:
        """Make a tracker for a kind of target, with no tuning.

        Args:
            name: `"terminal"`, `"en_route"`, `"lidar"`, `"rover"` or `"level"`.
            noise: standard deviation of a nominal report; for `"lidar"` that of the
                distance and of the angle.
            **options: of the constructor, in place of those of the preset.

        Returns:
            The tracker. A preset that there is not is a
            :class:`~pyro_geo.errors.ConfigurationError`.

        Example:
            >>> from pyro_geo.filtering import BoundedTracker
            >>> BoundedTracker.preset("terminal", noise=30.0).R.diagonal().tolist()
            [900.0, 900.0]
        """
        found = preset(name, noise)
        sd = torch.tensor(found.noise, dtype=torch.float64)
        chosen = {k: v for k, v in found._asdict().items() if k != "noise"}
        return cls(**{"R": torch.diag(sd * sd), **chosen, **options})

    # -- numbers --------------------------------------------------------------------

    @pyro_method  # outside of one a prior is drawn from without a site
    def parameters_now(self, dtype: torch.dtype | None = None) -> Parameters:
        """Read the numbers of the tracker.

        Args:
            dtype: floating type; as they are if None.

        Returns:
            The numbers; those that are `PyroSample` are drawn.
        """
        return numbers_of(self, self.runs.parameters(), dtype)

    def given(self, values: Mapping[str, Any]) -> Self:
        """Fix numbers of the tracker at values, such as those of a fit.

        Args:
            values: name to value: the median of a guide, or the mean of draws.

        Returns:
            A copy with these values in place of what was there.

        Example:
            >>> from pyro_geo.filtering import BoundedTracker
            >>> tracker = BoundedTracker.preset("level").given({"p_fault": 0.2})
            >>> round(tracker.p_fault.item(), 3)
            0.2
        """
        other, fields = copy.deepcopy(self), Parameters._fields
        # the step is the same, and so are its graphs
        other.runs, other._lifted = self.runs, self._lifted
        other._evidence = self._evidence
        unknown = sorted(set(values) - set(fields))
        check(not unknown, "values", unknown, f"some of {list(fields)}")
        plain = self.runs.parameters()._asdict()
        for name, value in values.items():
            like = plain[name]
            fixed = torch.as_tensor(value).detach().to(like)
            check_shape(f"values[{name!r}]", fixed.shape, tuple(like.shape))
            delattr(other, name)
            other.register_buffer(name, fixed.clone())
        return other

    def _fixed(self) -> Parameters:
        """The numbers, none of which may be random."""
        return fixed_numbers(self)

    # -- online ---------------------------------------------------------------------

    def step(
        self, belief: OnlineBelief | None, y: Tensor, dt: Tensor | float = 0.0
    ) -> OnlineBelief:
        """Take one report of each track.

        Args:
            belief: after the reports so far; None before the first.
            y: the reports, `(tracks, m)`, or `(m,)` of one track; NaN where missing.
            dt: time since the last ones, a number or `(tracks,)`.

        Returns:
            The new belief.

        Example:
            >>> from pyro_geo.filtering import BoundedTracker
            >>> tracker = BoundedTracker.preset("level")
            >>> belief = tracker.step(None, torch.zeros(3, 1))
            >>> belief = tracker.step(belief, torch.ones(3, 1), dt=1.0)
            >>> belief.mean.shape
            torch.Size([3, 1])
        """
        lifted = self._lifted
        return take(self.runs, self._fixed(), lifted, belief, torch.as_tensor(y), dt)

    # -- all reports ----------------------------------------------------------------

    def filter(
        self,
        y: Any,
        t: Any = None,
        mask: Any = None,
        *,
        dt: float | None = None,
        store: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Track:
        """Filter the reports of all tracks.

        An interrupt ends the run with the blocks that are finished.

        Args:
            y: reports, `(tracks, time, m)`, or `(time, m)` of one track; NaN where one
                is missing.
            t: their times, `(tracks, time)` or `(time,)`. A report that is older than
                the one before it is left out.
            mask: True where there is a report, `(tracks, time)` or `(time,)`.
            dt: time between reports where there are no times.
            store: a folder that takes each finished block, so that the run can be gone
                on with (:meth:`resume`) and be read from elsewhere
                (:func:`~pyro_geo.io.store.open_run`); in memory alone if None.
            **options: of the run, see
                :class:`~pyro_geo.filtering.tracker.running.RunOptions`: `dtype`,
                `compile`, `n_jobs`, `track_batch_size`, `block_steps`, `labels`,
                `progress_bar`, `memory_limit`, `seed`.

        Returns:
            The result. Bad reports and options are a
            :class:`~pyro_geo.errors.ConfigurationError` or a
            :class:`~pyro_geo.errors.ShapeError` that names the argument.

        Warns:
            NonFiniteMeasurementWarning: reports were infinite, and were left out.
            DegenerateCovarianceWarning: a covariance degenerated, and its track began
                anew.
            TrackLostWarning: more than 25 reports of a track were refused in a row.
        """
        chosen = RunOptions.of(options)
        reports = self._reports(y, t, mask, dt, chosen.dtype)
        return run(self, reports, chosen, store, resume=False)

    def resume(
        self,
        y: Any,
        t: Any = None,
        mask: Any = None,
        *,
        dt: float | None = None,
        store: str | os.PathLike[str],
        **options: Any,
    ) -> Track:
        """Continue the run in a store as if it had never stopped, bit for bit.

        Reports that the store has must be those of now; later ones are filtered. So a
        stream goes on: pass what there is by now. :meth:`Track.extend` takes the new
        reports alone.

        Args:
            y: all reports from the first on, as :meth:`filter` takes them.
            t: their times.
            mask: True where there is a report.
            dt: time between reports where there are no times.
            store: the folder of the run.
            **options: of the run, as of :meth:`filter`.

        Returns:
            The result with all steps. A store of another run, or of other reports, is
            a :class:`~pyro_geo.errors.CheckpointError`, and stays as it is.

        Example:
            >>> import tempfile
            >>> from pyro_geo.filtering import BoundedTracker
            >>> tracker = BoundedTracker.preset("level")
            >>> y = torch.zeros(1, 20, 1)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     options = {"store": f"{folder}/run.zarr", "progress_bar": False}
            ...     track = tracker.filter(y[:, :10], dt=1.0, **options)
            ...     longer = tracker.resume(y, dt=1.0, **options)
            >>> longer.num_steps, bool((longer.mean[:, :10] == track.mean).all())
            (20, True)
        """
        chosen = RunOptions.of(options)
        reports = self._reports(y, t, mask, dt, chosen.dtype)
        return run(self, reports, chosen, store, resume=True)

    def _reports(
        self, y: Any, t: Any, mask: Any, dt: Any, dtype: torch.dtype | None
    ) -> Any:
        size = self.runs.plan.measurement.size
        return as_reports(y, t, mask, dt, size=size, dtype=dtype)

    def _extend(self, track: Track, y: Any, t: Any, mask: Any, dt: Any) -> Track:
        return extend(self, track, y, t, mask, dt)

    # -- the model ------------------------------------------------------------------

    @pyro_method
    def forward(
        self,
        y: Tensor,
        t: Tensor | None = None,
        *,
        dt: float | None = None,
        compile: bool = False,
    ) -> Tensor:
        """Be a Pyro model of the reports, whose likelihood is their evidence.

        Use the tracker itself as the model of `SVI`, of an autoguide or of
        :class:`~pyro_geo.infer.HMC`. One gradient costs about five times a run.

        Args:
            y: reports, `(tracks, time, m)`; NaN where one is missing.
            t: their times, `(tracks, time)` or `(time,)`.
            dt: time between reports where there are no times.
            compile: whether to compile the step and its derivative, which takes up to
                some minutes once; it pays from some ten thousand steps on.

        Returns:
            The reports. A mode of the sensor without a proper density is an
            :class:`~pyro_geo.errors.ImproperFloorError`.

        Example:
            >>> import pyro.distributions as dist
            >>> from pyro import poutine
            >>> from pyro.nn import PyroSample
            >>> from pyro_geo.filtering import BoundedTracker, Level, Position
            >>> tracker = BoundedTracker(Level(0.1), Position(1), 1.0, faults=())
            >>> prior = dist.LogNormal(torch.zeros(1, 1), 1.0)
            >>> tracker.R = PyroSample(prior.to_event(2))
            >>> trace = poutine.trace(tracker).get_trace(torch.zeros(1, 9, 1), dt=1.0)
            >>> trace.stochastic_nodes, trace.observation_nodes
            (['R', 'track'], ['y'])
        """
        check_proper(self.runs.proper, "BoundedTracker as a model")
        size = self.runs.plan.measurement.size
        reports = shaped_reports(y, t, dt, size=size)
        device, dtype = reports.y.device, reports.y.dtype
        params = Parameters(*(param.to(device) for param in self.parameters_now()))
        key = dtype, compile
        if key not in self._evidence:
            self._evidence[key] = Evidence(self.runs, dtype, compile)
        likelihood = TrackReports(
            self._evidence[key], params, reports.observed, reports.dt, size
        )
        with pyro.plate("track", reports.y.shape[0]):
            return pyro.sample("y", likelihood, obs=reports.y)

    # -- copies and looks -------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # graphs and compiled code are made again where they are needed
        return {**self.__dict__, "_lifted": {}, "_evidence": {}}

    def __repr__(self) -> str:
        """Show motions, sensor and faults."""
        motions = ", ".join(type(d).__name__ for d in self.runs.plan.dynamics)
        faults = ", ".join(type(f).__name__ for f in self.runs.plan.faults) or "none"
        sensor = type(self.runs.plan.measurement).__name__
        return f"BoundedTracker({motions}; {sensor}; faults {faults})"
