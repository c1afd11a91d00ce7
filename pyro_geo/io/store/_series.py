"""The steps of a filter, arranged as ArviZ data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FILTERED", "LABELS", "REPORTS", "arrange_series"]

FILTERED, REPORTS = "filtered", "reports"
LABELS = "labels"
"""Attribute with the labels of axes as JSON: the arrays of a store hold no text."""


def arrange_series(groups: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Arrange the steps of a filter, whose reports grow with them, as ArviZ data.

    Args:
        groups: `filtered`, `sample_stats` and `reports`, on the axes of the series and
            of time, and others.

    Returns:
        The groups, the reports as `observed_data`. Where all series have their reports
        at the same times, these are the labels of the axis time; else they stand
        beside the reports, as `t`.
    """
    labels = _labels(groups[FILTERED])
    groups = {name: _labelled(group, labels) for name, group in groups.items()}
    reports = groups[REPORTS]
    rest = {name: group for name, group in groups.items() if name != REPORTS}
    if "t" not in reports:
        return {**rest, "observed_data": reports}
    times = reports["t"].values
    if len(times) and np.array_equal(times, np.broadcast_to(times[:1], times.shape)):
        reports = reports.drop_vars("t").assign_coords(time=times[0])
        rest = {
            name: group.assign_coords(time=times[0]) if "time" in group.dims else group
            for name, group in rest.items()
        }
    return {**rest, "observed_data": reports}


def _labels(group: xr.Dataset) -> dict[str, list[Any]]:
    """Labels of axes; none where the text is not what we write."""
    try:
        found = json.loads(str(group.attrs.get(LABELS, "{}")))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, list)}


def _labelled(group: xr.Dataset, labels: Mapping[str, list[Any]]) -> xr.Dataset:
    new = {k: v for k, v in labels.items() if group.sizes.get(k) == len(v)}
    group = group.assign_coords(new)
    group.attrs = {k: v for k, v in group.attrs.items() if k != LABELS}
    return group
