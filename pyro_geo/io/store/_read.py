"""A run's store, opened for reading."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_geo._compat.arviz import to_container
from pyro_geo.io.store._committed import CommittedRun
from pyro_geo.io.store._folder import read_root
from pyro_geo.io.store._metadata import HEADER
from pyro_geo.io.store._series import FILTERED, arrange_series
from pyro_geo.io.store._stages import STAGES, arrange_stages

if TYPE_CHECKING:
    import xarray as xr

    from pyro_geo._compat.arviz import ArvizData

__all__ = ["check_run", "open_run"]


def open_run(path: str | os.PathLike[str]) -> ArvizData:
    """Open the draws of a run, finished or not, without loading them.

    What is read is the run at its last commit; open it again to see more. Arrays are
    Dask's where Dask is installed, and are loaded when they are used otherwise.

    Of an annealed run, whose draws have weights, the last finished stage is the
    `posterior`, resampled to one chain of equal weights; its particles and their
    `log_weights` are the group `particles`, the stages before it the group `stages`
    with the axes stage and particle, and their statistics `stage_stats`.

    Of a filter the moments of the state are the group `filtered`, on the axes of the
    series and of time, and its reports are `observed_data`.

    Args:
        path: the folder that a run was given as `store`.

    Returns:
        An `InferenceData` under ArviZ 0.23, a `DataTree` under 1.x. A folder that is
        not a store is a :class:`~pyro_geo.errors.CheckpointError`.

    Example:
        >>> import tempfile
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro_geo.infer import HMC, MCMC
        >>> from pyro_geo.io.arviz import get_group
        >>> def model():
        ...     pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/run.zarr"
        ...     options = {"store": path, "progress_bar": False}
        ...     fit = MCMC(HMC(model), 100, 100, 4, seed=1, **options).run()
        ...     print(dict(get_group(open_run(path), "posterior")["mean"].sizes))
        {'chain': 4, 'draw': 100}
    """
    import xarray as xr

    path = Path(path)
    store = CommittedRun(path, read_root(path))
    store.check()
    tree: Any = xr.open_datatree(
        path,
        engine="zarr",
        consolidated=True,
        chunks={} if importlib.util.find_spec("dask") else None,
    )
    shown = store.header["names"]["shown"]
    groups = {
        name: _renamed(child.to_dataset(), shown.get(name, {}))
        for name, child in tree.children.items()
    }
    if STAGES in groups:
        groups = arrange_stages(groups)
    if FILTERED in groups:
        groups = arrange_series(groups)
    return to_container(groups)


def _renamed(group: xr.Dataset, shown: Mapping[str, str]) -> xr.Dataset:
    """Give arrays and axes their names, where their folders have others."""
    group = group.rename(shown)
    for array in group.variables.values():
        array.encoding = {}  # of the store's files, not of those it is copied to
    return group


def check_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Tell how far the run of a store is.

    Args:
        path: the folder.

    Returns:
        What the run has recorded of itself: `num_draws`, `planned_draws`,
        `finished`, its settings and more.

    Example:
        >>> import tempfile, torch
        >>> from pyro_geo import Target
        >>> from pyro_geo.infer import HMC, MCMC
        >>> bowl = Target.from_potential(lambda q: 0.5 * q.square().sum(-1), 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     options = {"store": f"{folder}/run.zarr", "progress_bar": False}
        ...     _ = MCMC(HMC(bowl), 20, 30, num_chains=4, seed=1, **options).run()
        ...     check_run(options["store"])["finished"]
        True
    """
    return dict(read_root(Path(path))["attributes"][HEADER])
