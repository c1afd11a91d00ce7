"""The reports that a tracker is given, checked and laid out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_geo.checks import check, check_number, check_shape
from pyro_geo.errors import ConfigurationError

__all__ = ["Reports", "as_reports"]

_FLOATS = (torch.float32, torch.float64)


class Reports(NamedTuple):
    """Reports of all tracks, tracks first.

    Attributes:
        y: the reports, NaN where one is missing, `(tracks, time, m)`.
        t: their times, `(tracks, time)`, in double precision.
        observed: whether there is a report, `(tracks, time)`.
    """

    y: Tensor
    t: Tensor
    observed: Tensor

    @property
    def dt(self) -> Tensor:
        """Time since the report before, `(tracks, time)`; negative for a late one."""
        return self.t.diff(dim=1, prepend=self.t[:, :1])

    def then(self, more: Reports) -> Reports:
        """Append later reports of the same tracks."""
        joined = (torch.cat(pair, 1) for pair in zip(self, more, strict=True))
        return Reports(*joined)


def as_reports(
    y: Any,
    t: Any,
    mask: Any,
    dt: Any,
    *,
    size: int,
    dtype: torch.dtype | None,
    first: float = 0.0,
) -> Reports:
    """Check the reports of a call, and bring them to one layout.

    Args:
        y: reports, `(tracks, time, m)`, or `(time, m)` of one track; `(time,)` too
            where a report is one number. NaN is a missing report.
        t: their times, `(tracks, time)` or `(time,)`.
        mask: True where there is a report, `(tracks, time)` or `(time,)`.
        dt: time between reports where there are no times, a number.
        size: numbers in a report, `m`.
        dtype: floating type; that of the reports if None.
        first: time of the first report where there are no times.

    Returns:
        The reports. Shapes that do not fit are a
        :class:`~pyro_geo.errors.ShapeError`.

    Raises:
        ConfigurationError: all reports are missing. Other mistakes are one too; it
            names the argument.
    """
    reports = _tensor("y", y)
    if dtype is None:
        whole = not reports.dtype.is_floating_point
        dtype = torch.get_default_dtype() if whole else reports.dtype
    check(dtype in _FLOATS, "dtype", dtype, "torch.float32 or torch.float64")
    reports = _tracks_first(reports.to(dtype), size)
    lead = reports.shape[:2]
    observed = ~reports.isnan().any(-1)
    if mask is not None:
        chosen = _expanded("mask", _tensor("mask", mask), lead)
        check(chosen.dtype == torch.bool, "mask", chosen.dtype, "True and False")
        observed = observed & chosen
    if not bool(observed.any()):
        raise ConfigurationError(
            "there is no report at all",
            where="argument y" if mask is None else "arguments y and mask",
            found="NaN everywhere",
            expected="a report of some track at some time",
            todo="Look at how the reports were read; NaN stands for a missing one.",
        )
    reports = torch.where(observed[..., None], reports, torch.nan)
    return Reports(reports, _times(t, dt, lead, first), observed)


def _tensor(name: str, value: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(
            value if isinstance(value, Tensor) else np.array(value)
        )
    except (TypeError, ValueError):
        tensor = torch.empty(0, dtype=torch.complex64)
    check(not tensor.is_complex(), name, type(value).__name__, "an array of numbers")
    return tensor.detach()


def _tracks_first(y: Tensor, size: int) -> Tensor:
    if size == 1 and y.dim() == 1:
        y = y[:, None]
    if y.dim() == 2:
        y = y[None]
    expected = f"(tracks, time, {size}), or (time, {size}) of one track"
    good = y.dim() == 3 and y.shape[-1] == size and 0 not in y.shape
    check_shape("y", y.shape, expected, good)
    return y


def _expanded(name: str, value: Tensor, lead: torch.Size) -> Tensor:
    good = value.shape in (lead, lead[1:])
    check_shape(name, value.shape, f"{tuple(lead)} or {tuple(lead[1:])}", good)
    return value.expand(lead)


def _times(t: Any, dt: Any, lead: torch.Size, first: float) -> Tensor:
    given = (t is not None) + (dt is not None)
    check(given < 2, "dt", dt, "None beside t")
    check(given > 0, "t", None, "the times of the reports, or dt=")
    if t is None:
        check_number("dt", dt, strict=True)
        return (first + dt * torch.arange(lead[1]).double()).expand(lead)
    times = _expanded("t", _tensor("t", t).double(), lead)
    bad = int((~times.isfinite()).sum())
    check(not bad, "t", f"{bad} times that are not finite", "a time for each report")
    return times


def shaped_reports(y: Tensor, t: Tensor | None, dt: float | None, *, size: int) -> Any:
    """Lay the reports of a model out, whose values may not be looked at.

    A model is traced with its data as inputs of a graph, so that nothing here may
    depend on their values.

    Args:
        y: reports, as of :func:`as_reports`.
        t: their times.
        dt: time between reports where there are no times.
        size: numbers in a report.

    Returns:
        The reports.
    """
    reports = _tracks_first(torch.as_tensor(y), size)
    check(reports.dtype in _FLOATS, "y", reports.dtype, "float32 or float64")
    lead = reports.shape[:2]
    check((t is None) != (dt is None), "t", t, "the times of the reports, or dt=")
    if t is None:
        steps = torch.arange(lead[1], dtype=torch.float64)
        times = (float(dt or 0.0) * steps).expand(lead)
    else:
        times = _expanded("t", torch.as_tensor(t).double(), lead)
    return Reports(reports, times, ~reports.isnan().any(-1))
