"""The result of a hierarchical filter: beliefs of many subjects over trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.checks import check, check_count, check_number, check_shape
from pyro_geo.errors import UnsupportedError
from pyro_geo.filtering.hgf._posterior import draw_beliefs
from pyro_geo.filtering.hgf._rows import Rows, rows_of
from pyro_geo.results import MemorySteps, PosteriorDraws, Series

__all__ = ["Band", "HGFSeries"]

_AXES = ("subject", "trial")
_BAND = 0.9
_BANDED = ("mu", "learning_rate", "prediction")


class Band(NamedTuple):
    """Median and central interval over posterior draws.

    Attributes:
        low: lower end.
        centre: median.
        high: upper end.
    """

    low: Tensor
    centre: Tensor
    high: Tensor


class HGFSeries(Series):
    r"""Beliefs of a hierarchical filter, of many subjects over trials.

    Beside the accessors of :class:`~pyro_geo.results.Series`, with the axes `subject`,
    `trial` and `level`, it has predictions, surprise and learning rates. Made from a
    fit (:meth:`from_posterior`), it has the beliefs at draws of the parameters, and its
    moments are those of the mixture over these draws d:

    .. math::
        \mathrm E[x] = \overline{\mu_d} , \quad
        \mathrm{Var}[x] = \overline{1/\pi_d} + \mathrm{Var}_d[\mu_d] .

    Make one with :meth:`from_trajectory` or :meth:`from_posterior`.

    Args:
        steps: where the values are.
        draws: values at draws, name to `(chains, draws, subjects, T, ...)`, or none.
        **options: of :class:`~pyro_geo.results.Series`.

    Example:
        >>> from pyro_geo.filtering import hgf_filter
        >>> u = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
        >>> zero, one = torch.zeros(2), torch.ones(2)
        >>> beliefs = hgf_filter(u, -3 * one, [1.0], zero, one, kind="binary")
        >>> series = HGFSeries.from_trajectory(beliefs, subjects=["ann", "bob"])
        >>> series
        HGFSeries(2 subjects, 3 steps of each; state level 1, level 2)
        >>> dict(series.to_arviz()["filtered"]["mean"].sizes)
        {'subject': 2, 'trial': 3, 'level': 2}
    """

    def __init__(
        self,
        steps: MemorySteps,
        *,
        draws: Mapping[str, Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(steps, **options)
        self.draws = dict(draws or {})

    # -- makers ---------------------------------------------------------------------

    @classmethod
    def from_trajectory(
        cls,
        trajectory: Any,
        u: Tensor | None = None,
        *,
        subjects: Sequence[object] | None = None,
        attributes: Mapping[str, str | int | float] | None = None,
        seed: int = 0,
    ) -> HGFSeries:
        """Take the beliefs of one run of a filter.

        Args:
            trajectory: of :func:`~pyro_geo.filtering.hgf_filter`, or of a network,
                whose states are the levels; all batch axes together are the subjects.
            u: inputs; from the trajectory if None, which a network's does not tell.
            subjects: labels of the subjects; numbers if None.
            attributes: facts of the run.
            seed: what draws of the state are a function of.

        Returns:
            The series.
        """
        one = pytree.tree_map(lambda value: value.unsqueeze(0), trajectory)
        return cls._of(rows_of(one, u), {}, _BAND, subjects, attributes, seed)

    @classmethod
    def from_posterior(
        cls,
        fit: PosteriorDraws,
        site: str | None = None,
        *,
        num_draws: int | None = None,
        prob: float = _BAND,
        subjects: Sequence[object] | None = None,
    ) -> HGFSeries:
        """Run the filter of a fitted model at draws of its posterior.

        Args:
            fit: of a model that has observed inputs (:class:`~pyro_geo.distributions.
                HGF`) or responses of :mod:`~pyro_geo.filtering.response`.
            site: whose beliefs to take; the only such site, or the first one with
                inputs, if None.
            num_draws: how many draws of all chains together, evenly spaced; 200 if
                None, fewer where the beliefs are very many.
            prob: probability of the bands.
            subjects: labels of the subjects; those of the first plate if None.

        Returns:
            The series; its notes name levels whose scale or origin nothing fixes. A
            model without beliefs is an :class:`~pyro_geo.errors.UnsupportedError`.
        """
        check_number("prob", prob, 0.0, 1.0, strict=True)
        check_count("num_draws", 1 if num_draws is None else num_draws)
        drawn = draw_beliefs(fit, site, num_draws)
        facts: dict[str, str | int | float] = {
            **fit.attributes,
            "site": drawn.site,
            "num_draws": drawn.shape[0] * drawn.shape[1],
            "band": prob,
        }
        facts["kernel"] = f"HGF of a posterior by {facts.get('kernel', 'draws')}"
        rows = rows_of(drawn.trajectory, drawn.u)
        apart = {name: v.unflatten(0, drawn.shape) for name, v in rows.values.items()}
        if subjects is None:
            plate = fit.target.dims[drawn.site][0]
            known = fit.target.coords.get(plate, [])
            subjects = known if len(known) == len(rows.inputs) else None
        series = cls._of(rows, apart, prob, subjects, facts, fit.run_seed)
        series._notes = [*fit.notes, *drawn.notes]
        series._citations = (*series.citations, *fit.citations)
        return series

    @classmethod
    def _of(
        cls,
        rows: Rows,
        draws: Mapping[str, Tensor],
        prob: float,
        subjects: Sequence[object] | None,
        attributes: Mapping[str, str | int | float] | None,
        seed: int,
    ) -> HGFSeries:
        """Make a series of values with a leading axis of draws."""
        mu = rows.values["mu"]
        total = rows.values["pi"].reciprocal().mean(0) + mu.var(0, correction=0)
        values = {"mean": mu.mean(0), "cov": torch.diag_embed(total), "y": rows.inputs}
        for name, value in rows.values.items():
            if name not in ("mu", "pi"):
                values[name] = value.mean(0)
            if draws and name in _BANDED:
                low, high = _quantiles(value, (1 - prob) / 2, (1 + prob) / 2)
                values |= {f"low_{name}": low, f"high_{name}": high}
        axes = {n: _axes(n) for n, v in values.items() if v.dim() == 3}
        axes |= {n: _axes(n) for n, v in draws.items() if v.dim() == 5}
        count, steps = rows.inputs.shape[:2]
        check_shape("subjects", (len(subjects or range(count)),), (count,))
        return cls(
            MemorySteps(values),
            draws=draws,
            dims={**axes, "cov": ["level", "level_other"]},
            coords={
                "subject": list(subjects or range(count)),
                "trial": list(range(steps)),
                "level": rows.levels,
                "level_other": rows.levels,
                "channel": rows.channels,
            },
            sample_dims=_AXES,
            attributes={"kernel": "HGF", **(attributes or {})},
            citations=("hgf", "ghgf", "unbounded_hgf"),
            seed=seed,
        )

    # -- values ---------------------------------------------------------------------

    @property
    def state_names(self) -> list[str]:
        """Names of the levels."""
        labels = self.coords["level"]
        return [n if isinstance(n, str) else f"level {n}" for n in labels]

    @property
    def surprise(self) -> Tensor:
        """Surprise of each input in nats, `(subjects, T)`; over draws its mean."""
        return self._value("surprise")

    @property
    def prediction(self) -> Tensor:
        """Prediction of each input, `(subjects, T)`."""
        return self._value("prediction")

    @property
    def learning_rate(self) -> Tensor:
        """Learning rate of each level, `(subjects, T, L)`.

        See :func:`~pyro_geo.filtering.hgf.features.learning_rates`.
        """
        return self._value("learning_rate")

    @property
    def volatility(self) -> Tensor:
        """Mean of the levels above the first, `(subjects, T, L - 1)`."""
        return self.mean[..., 1:]

    def band(self, name: str = "mu", prob: float | None = None) -> Band:
        """Return the median and a central interval over posterior draws.

        Args:
            name: of what: `mu`, `pi`, `muhat`, `pihat`, `learning_rate`,
                `weighted_error`, `prediction` or `surprise`.
            prob: probability of the interval; that of the series if None.

        Returns:
            Each `(subjects, T, L)`, or `(subjects, T)` of what has no levels.

        Raises:
            UnsupportedError: the series was not made from a fit.
        """
        if not self.draws:
            raise UnsupportedError(
                "there are no draws of the parameters",
                where="HGFSeries.band",
                found="the beliefs of one run of a filter",
                expected="a series of from_posterior",
                todo="Use the standard deviations in cov for what one run knows.",
            )
        check(name in self.draws, "name", name, f"one of {sorted(self.draws)}")
        check_number("prob", prob, 0.0, 1.0, strict=True)
        prob = float(self.attributes["band"]) if prob is None else prob
        value = self.draws[name].flatten(0, 1)
        return Band(*_quantiles(value, (1 - prob) / 2, 0.5, (1 + prob) / 2))

    def _means(self) -> dict[str, Tensor]:
        found = super()._means()
        return {n: v for n, v in found.items() if not n.startswith(("low_", "high_"))}

    def _drawn(self, num_draws: int, seed: int | None) -> dict[str, Tensor]:
        if num_draws:
            return super()._drawn(num_draws, seed)
        return self.draws


def _axes(name: str) -> list[str]:
    """Axes of a value after subject and trial."""
    return ["channel" if name == "y" or name.endswith("prediction") else "level"]


def _quantiles(values: Tensor, *levels: float) -> list[Tensor]:
    """Quantiles along the first axis, of tensors too large for torch's own."""
    ordered = values.sort(0).values
    places = [level * (len(values) - 1) for level in levels]
    return [
        torch.lerp(ordered[math.floor(k)], ordered[math.ceil(k)], k - math.floor(k))
        for k in places
    ]
