"""The result of a filter: moments of a state over time, for many series at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_geo.checks import check_count
from pyro_geo.citations import citation
from pyro_geo.io.names import SERIES_DIMS, Coords, Dims
from pyro_geo.io.store import FILTERED, REPORTS
from pyro_geo.ops.arrays import to_numpy
from pyro_geo.ops.random import substream
from pyro_geo.results._facts import Facts
from pyro_geo.results._notebook import series_html
from pyro_geo.results.steps import Steps

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Series"]

_STREAM = 5  # of the run's seed
_DRAWS = 100


class Series(Facts):
    r"""Moments of a state over time, :math:`p(x_t \mid y_{1:t})`, for many series.

    It has the accessors of :class:`~pyro_geo.results.PosteriorDraws`, with time as a
    named axis. Draws are made from the moments when they are asked for: each is
    :math:`x_t \sim \mathrm N(m_t, P_t)`, independently from step to step.

    Args:
        steps: where the values are. Those named `mean` and `cov` are the moments, `y`
            and `t` the reports and their times, all others statistics.
        dims: value to names of its axes after series and time.
        coords: labels of axes; those of the series and of `state` among them.
        sample_dims: what a series is called, and `time`.
        attributes: facts of the run, texts and numbers.
        notes: warnings of the run.
        citations: keys of the works behind the result.
        seed: what draws are a function of.

    Example:
        >>> from pyro_geo.results import MemorySteps
        >>> mean = torch.zeros(2, 5, 1)
        >>> steps = MemorySteps({"mean": mean, "cov": torch.ones(2, 5, 1, 1)})
        >>> series = Series(steps, coords={"state": ["level"]})
        >>> series
        Series(2 tracks, 5 steps of each; state level)
        >>> series.get_samples(10)["states"].shape
        torch.Size([10, 2, 5, 1])
    """

    def __init__(
        self,
        steps: Steps,
        *,
        dims: Dims | None = None,
        coords: Coords | None = None,
        sample_dims: tuple[str, str] = SERIES_DIMS,
        attributes: Mapping[str, str | int | float] | None = None,
        notes: Sequence[str] = (),
        citations: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(attributes, notes, citations)
        self._steps = steps
        self.dims = {name: list(axes) for name, axes in (dims or {}).items()}
        self.coords = dict(coords or {})
        self.sample_dims = sample_dims
        self.run_seed = seed

    # -- values ---------------------------------------------------------------------

    @property
    def num_series(self) -> int:
        """How many series there are."""
        return self._steps.num_series

    @property
    def num_steps(self) -> int:
        """Steps of each series that are finished."""
        return self._steps.num_steps

    @property
    def mean(self) -> Tensor:
        """Mean of the state after each report, `(series, time, states)`."""
        return self._value("mean")

    @property
    def cov(self) -> Tensor:
        """Covariance of the state, `(series, time, states, states)`."""
        return self._value("cov")

    @property
    def y(self) -> Tensor:
        """The reports, NaN where one is missing, `(series, time, channels)`."""
        return self._value("y")

    @property
    def t(self) -> Tensor:
        """Time of each report, `(series, time)`."""
        return self._value("t")

    @property
    def stats(self) -> dict[str, Tensor]:
        """Statistics of every step, name to `(series, time, ...)`."""
        return self._steps.read(self._statistics)

    @property
    def values(self) -> dict[str, Tensor]:
        """All values, name to `(series, time, ...)`."""
        return self._steps.read(list(self._steps.shapes))

    @property
    def state_names(self) -> list[str]:
        """Names of the components of the state."""
        names = self.coords.get(self._state_axis)
        if names is None:
            names = range(self._steps.shapes["mean"][0])
        return [str(name) for name in names]

    @property
    def _state_axis(self) -> str:
        """Name of the axis of the state's components."""
        return (self.dims.get("mean") or ["state"])[0] or "state"

    @property
    def labels(self) -> list[object]:
        """Label of each series."""
        return list(self.coords.get(self.sample_dims[0], range(self.num_series)))

    @property
    def _statistics(self) -> list[str]:
        others = ("mean", "cov", "y", "t")
        return [name for name in self._steps.shapes if name not in others]

    def _value(self, name: str) -> Tensor:
        return self._steps.read([name])[name]

    @property
    def _described(self) -> str:
        what, count = self.sample_dims[0], self.num_series
        states = ", ".join(self.state_names)
        return (
            f"{count} {what}{'s' if count != 1 else ''}, {self.num_steps} "
            f"step{'s' if self.num_steps != 1 else ''} of each; state {states}"
        )

    # -- draws ----------------------------------------------------------------------

    def get_samples(
        self,
        num_samples: int | None = None,
        group_by_chain: bool = False,
        *,
        seed: int | None = None,
    ) -> dict[str, Tensor]:
        """Draw the state at every step, from the moments there.

        Draws of different steps are independent of each other, given the moments: they
        show what is known at each time, not how the state moves.

        Args:
            num_samples: how many draws; 100 if None.
            group_by_chain: with a leading axis of one chain.
            seed: what they are a function of; the run's own if None. Torch's global
                state is left alone.

        Returns:
            `states` to `(draws, series, time, states)`.
        """
        check_count("num_samples", num_samples)
        count = _DRAWS if num_samples is None else num_samples
        seed = self.run_seed if seed is None else seed
        generator = torch.Generator().manual_seed(substream(seed, _STREAM))
        mean, factor = self.mean, _factor(self.cov)
        shape = (count, *mean.shape)
        noise = torch.randn(shape, generator=generator, dtype=mean.dtype)
        draws = mean + (factor @ noise[..., None]).squeeze(-1)
        return {"states": draws[None] if group_by_chain else draws}

    # -- tables ---------------------------------------------------------------------

    def summary(self) -> pd.DataFrame:
        """Tabulate the series.

        Returns:
            One row per series: mean and standard deviation of each component of the
            state after the last step, then the mean over time of each statistic.
        """
        import pandas as pd

        columns = self._last() | self._means()
        table = {name: to_numpy(value) for name, value in columns.items()}
        return pd.DataFrame(table, index=pd.Index(self.labels, name=self._axis))

    @property
    def _axis(self) -> str:
        return self.sample_dims[0]

    def _last(self) -> dict[str, Tensor]:
        """Moments after the last step, by name."""
        last = slice(max(self.num_steps - 1, 0), None)
        ends = self._steps.read(["mean", "cov"], last)
        mean, sd = ends["mean"][:, -1], ends["cov"][:, -1].diagonal(0, -2, -1).sqrt()
        pairs = zip(self.state_names, mean.unbind(-1), sd.unbind(-1), strict=True)
        return {k: v for n, m, s in pairs for k, v in ((n, m), (f"{n} sd", s))}

    def _means(self) -> dict[str, Tensor]:
        shapes = self._steps.shapes
        names = [name for name in self._statistics if not shapes[name]]
        values = self._steps.read(names)
        return {name: values[name].double().nanmean(1) for name in names}

    def diagnostics(self) -> dict[str, Any]:
        """Return the mean over time of each statistic, and the steps with a flag.

        Returns:
            Statistic to its mean, `(series,)`; a flag to a dictionary of series to the
            steps that have it.
        """
        flags = {
            name: {
                f"{self._axis} {label}": row.nonzero().flatten().tolist()
                for label, row in zip(self.labels, value, strict=True)
            }
            for name, value in self.stats.items()
            if value.dtype == torch.bool
        }
        return {**self._means(), **flags}

    def _repr_html_(self) -> str:
        """Show the summary in a notebook."""
        return series_html(repr(self), self.num_series, self.summary, self.notes)

    # -- ArviZ and reports ------------------------------------------------------------

    def to_arviz(self, num_draws: int = 0, *, seed: int | None = None) -> Any:
        """Hand the series to ArviZ.

        Args:
            num_draws: also this many draws of the state (:meth:`get_samples`), as one
                chain in the group `posterior`.
            seed: what they are a function of; the run's own if None.

        Returns:
            `InferenceData` with ArviZ 0.23, a `DataTree` with 1.x: the moments in
            `filtered`, statistics in `sample_stats` and reports in `observed_data`,
            all on the axes of the series and of time. Values that live in the store
            alone are opened there and not loaded.
        """
        from pyro_geo.io.series import series_to_arviz
        from pyro_geo.io.store import open_run

        check_count("num_draws", num_draws, 0)
        if self._steps.folder is not None and not num_draws:
            return open_run(self._steps.folder)
        names = set(self._steps.shapes)
        groups: dict[str, Mapping[str, Tensor]] = {
            FILTERED: self._steps.read(["mean", "cov"]),
            "sample_stats": self.stats,
            REPORTS: self._steps.read([n for n in ("y", "t") if n in names]),
        }
        draws = self._drawn(num_draws, seed)
        if draws:
            groups["posterior"] = draws
        arrays = {
            group: {name: to_numpy(value) for name, value in values.items()}
            for group, values in groups.items()
        }
        return series_to_arviz(
            arrays,
            sample_dims=self.sample_dims,
            dims={"states": [self._state_axis], **self.dims},
            coords=self.coords,
            attrs=self.attributes,
        )

    def _drawn(self, num_draws: int, seed: int | None) -> dict[str, Tensor]:
        """Arrays of the group `posterior`, `(chains, draws, series, time, *shape)`."""
        return self.get_samples(num_draws, True, seed=seed) if num_draws else {}

    def report(self, path: str | Path, tables: Mapping[str, Any] | None = None) -> Path:
        """Write a report in one HTML file.

        Args:
            path: where to.
            tables: further tables to show, title to data frame.

        Returns:
            The path.
        """
        from pyro_geo.io.reports import further_tables, page_title, write_report

        facts: dict[str, Any] = self.attributes
        for name in ("notes", "citation"):  # shown apart
            facts.pop(name, None)
        what = f"{self.num_series} {self._axis}{'s' if self.num_series != 1 else ''}"
        return write_report(
            self.to_arviz(),
            path,
            title=page_title(str(facts.get("kernel", "Filter")), what),
            citation=citation(self),
            facts=facts,
            notes=self.notes,
            tables={"Summary": self.summary(), **further_tables(tables)},
            chain_name=self._axis,
            places=self._places(),
        )

    def _places(self) -> Any:
        """Positions that the reports stand for, where they are none themselves."""
        return None


def _factor(cov: Tensor) -> Tensor:
    """Square roots of covariances, of those that are not quite positive too."""
    factor, info = torch.linalg.cholesky_ex(cov)
    bad = info != 0
    if bool(bad.any()):
        values, vectors = torch.linalg.eigh(cov[bad].nan_to_num())
        factor[bad] = vectors * values.clamp_min(0).sqrt()[..., None, :]
    return factor
