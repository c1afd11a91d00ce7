"""The steps of a filter to ArviZ objects."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

import pyro_geo
from pyro_geo._compat.arviz import to_container
from pyro_geo.io.names import (
    SAMPLE_DIMS,
    Coords,
    Dims,
    label_group,
    name_groups,
    plain_facts,
)
from pyro_geo.io.store import FILTERED, REPORTS, arrange_series

if TYPE_CHECKING:
    from pyro_geo._compat.arviz import ArvizData

__all__ = ["series_to_arviz"]


def series_to_arviz(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    *,
    sample_dims: tuple[str, str],
    dims: Dims,
    coords: Coords,
    attrs: Mapping[str, str | int | float],
) -> "ArvizData":
    """Put the steps of a filter into the container of the installed ArviZ.

    Args:
        groups: `filtered`, `sample_stats` and `reports` to arrays `(series, time,
            *shape)`; `posterior` to `(chains, draws, series, time, *shape)`.
        sample_dims: what a series is called, and `time`.
        dims: array to names of the axes after series and time.
        coords: labels of axes.
        attrs: facts of the run.

    Returns:
        An `InferenceData` under ArviZ 0.23, a `DataTree` under 1.x. Groups without
        arrays are left out.

    Example:
        >>> from pyro_geo.io.arviz import get_group
        >>> idata = series_to_arviz(
        ...     {"filtered": {"mean": np.zeros((2, 5, 1))}},
        ...     sample_dims=("track", "time"),
        ...     dims={"mean": ["state"]},
        ...     coords={"state": ["level"]},
        ...     attrs={"seed": 1},
        ... )
        >>> dict(get_group(idata, "filtered")["mean"].sizes)
        {'track': 2, 'time': 5, 'state': 1}
    """
    import xarray as xr

    stored = {group: dict(arrays) for group, arrays in groups.items() if arrays}
    leads = {
        group: (*SAMPLE_DIMS, *sample_dims) if group == "posterior" else sample_dims
        for group in stored
    }
    naming = name_groups(stored, dims, leads, {*SAMPLE_DIMS, *sample_dims})
    facts = plain_facts({"inference_library": "pyro_geo", **attrs})
    facts.setdefault("inference_library_version", pyro_geo.__version__)
    facts["created_at"] = datetime.now(UTC).isoformat()
    datasets = {}
    for group, arrays in stored.items():
        lead = leads[group]
        labels = label_group(group, arrays, naming[group], dims, coords, lead=lead)
        sizes = zip(lead, next(iter(arrays.values())).shape, strict=False)
        axes = {name: np.asarray(coords.get(name, np.arange(n))) for name, n in sizes}
        names = naming[group].sites
        content = {
            names[name]: (labels.dims[names[name]], array)
            for name, array in arrays.items()
        }
        own = {} if group == REPORTS else facts
        datasets[group] = xr.Dataset(content, {**axes, **labels.coords}, own)
    if REPORTS in datasets and FILTERED in datasets:
        datasets = arrange_series(datasets)
    return to_container(datasets)
