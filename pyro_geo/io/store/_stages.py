"""The store of an annealed run: its stages, arranged as ArviZ data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pyro_geo.io.names import PARTICLE_DIMS
from pyro_geo.io.naming import RENAMED

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["STAGES", "STAGE_STATS", "arrange_stages"]

STAGES, STAGE_STATS = "stages", "stage_stats"


def arrange_stages(groups: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Arrange the stages of an annealed run as other runs are.

    A folder that takes one stage after another cannot hold the last of them as its
    posterior and be valid at every instant, so that this is done on reading.

    Args:
        groups: those of the store: `stages` and `stage_stats`, both with the axes
            particle and stage, and others.

    Returns:
        `posterior` and `sample_stats`: the last stage, resampled to one chain of equal
        weights; `particles`: its particles and their `log_weights`; `stages` and
        `stage_stats`: all stages before it, `(stages, particles, *shape)`; the others
        as they are. Before the first stage the posterior has no draws.
    """
    sites, stats = groups[STAGES], groups[STAGE_STATS]
    rest = {n: g for n, g in groups.items() if n not in (STAGES, STAGE_STATS)}
    num_stages = sites.sizes["stage"]
    if not num_stages:
        empty = sites.transpose("particle", "stage", ...).rename(
            particle="chain", stage="draw"
        )
        return {"posterior": empty, **rest}
    last = {"stage": num_stages - 1}
    rows = stats["equal_rows"].isel(last).values.astype(int)
    final = stats.drop_vars("equal_rows").isel(last)
    particles = sites.isel(last).assign(log_weights=final["log_weights"])
    own = final[["acceptance_rate"]].assign(tilt=final["beta"] * final["loss"])
    facts = {k: value for k, value in sites.attrs.items() if k != RENAMED}
    arranged = {
        "posterior": _equal(sites.isel(last), rows),
        "sample_stats": _equal(own, rows).assign_attrs(facts),
        "particles": _apart(particles),
    }
    if num_stages > 1:
        before = {"stage": slice(num_stages - 1)}
        past = stats.drop_vars("equal_rows").isel(before)
        past = past.assign(beta=past["beta"].isel(particle=0))
        axes = ("stage", "particle", ...)
        arranged[STAGES] = sites.isel(before).transpose(*axes)
        arranged[STAGE_STATS] = past.transpose(*axes)
    return {**arranged, **rest}


def _equal(stage: xr.Dataset, rows: np.ndarray) -> xr.Dataset:
    """Draws of equal weight, as one chain."""
    drawn = stage.drop_vars(["stage", "particle"]).isel(particle=rows)
    drawn = drawn.rename(particle="draw").expand_dims("chain").transpose("chain", ...)
    return drawn.assign_coords(chain=[0], draw=np.arange(len(rows)))


def _apart(stage: xr.Dataset) -> xr.Dataset:
    """Particles, one draw of each."""
    apart = stage.drop_vars("stage").expand_dims(draw=[0])
    return apart.transpose(*PARTICLE_DIMS, ...)
