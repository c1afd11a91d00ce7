"""The summary table of ArviZ, for draws of any size."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pyro_geo.checks import check_number
from pyro_geo.errors import ConfigurationError
from pyro_geo.io._rhat import nested_r_hat
from pyro_geo.io._weighted import (
    arviz_table,
    has_weights,
    tabulated_group,
    weighted_table,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from arviz import InferenceData

    ArvizData: TypeAlias = InferenceData | xr.DataTree

__all__ = ["summary"]

_PIECE = 1 << 29  # bytes of draws tabulated at once


def summary(
    idata: "ArvizData | xr.Dataset",
    *,
    var_names: Sequence[str] | None = None,
    interval: float = 0.9,
    round_to: int | None = None,
) -> "pd.DataFrame":
    r"""Tabulate a posterior: ArviZ's summary, for one chain and for weights too.

    R-hat compares chains, so ArviZ gives NaN for a single one. Here a single chain of
    at least 16 draws is cut in four and R-hat compares the parts; the table's
    `attrs["r_hat"]` says that it was. Effective sizes and the other columns are of the
    whole chain. Degenerate draws (constant, not finite, or very few) give NaN without
    a remark.

    Draws that have weights, in a group `particles` (:func:`to_arviz`), are tabulated
    with them and not by the resampled posterior. The columns are the same and `khat`,
    the tail of the weights, comes last: means are unreliable above 0.7. With the
    normalised weights :math:`w_p`: means, deviations and the interval are those of the
    weighted draws; the Monte Carlo error of the mean is
    :math:`\sqrt{\sum_p w_p^2 (x_p - \bar x)^2}`, that of the deviation likewise;
    `ess_bulk` is the effective number of particles by the weights,
    :math:`1 / \sum_p w_p^2`; `ess_tail` is the number of equally weighted draws that
    would estimate the 5 % and 95 % tails as well, the smaller of the two; R-hat is NaN.
    The draws of one particle count as one.

    Where the posterior's attribute `superchains` counts groups of consecutive chains
    that started at one point, a column `nested_r_hat` is added: the rank-normalised
    :func:`nested_r_hat`, which can be trusted where each chain is short. It is left
    out where `num_chains`, an attribute too, says that chains are missing.

    Draws of a dataset opened lazily are loaded part by part, 512 MB at a time.

    Args:
        idata: a result of :func:`to_arviz`, or the dataset of its posterior or of its
            particles.
        var_names: the sites to tabulate; all of them by default.
        interval: probability of the highest-density interval (the equal-tailed one
            under ArviZ 1.x).
        round_to: number of decimals; the bare numbers by default.

    Returns:
        One row per component, with ArviZ's columns, and `nested_r_hat` last.

    Raises:
        ConfigurationError: there is no posterior.

    Example:
        >>> from pyro_geo.io.arviz import to_arviz
        >>> rng = np.random.default_rng(0)
        >>> idata = to_arviz({"posterior": {"w": rng.normal(size=(1, 400))}})
        >>> table = summary(idata)
        >>> bool(table.loc["w", "r_hat"] < 1.05), table.attrs["r_hat"]
        (True, 'one chain, cut in four')
    """
    import pandas as pd
    import xarray as xr

    check_number("interval", interval, 0.0, 1.0, strict=True)
    posterior = idata if isinstance(idata, xr.Dataset) else tabulated_group(idata)
    if posterior is not None and has_weights(posterior):
        return _rounded(weighted_table(posterior, var_names, interval), round_to)
    if posterior is None or not posterior.sizes.get("draw", 0):
        raise ConfigurationError(
            "Nothing to tabulate",
            "group 'posterior'",
            "no draws",
            "at least one draw",
            "Run the sampler first.",
        )
    if var_names is not None:
        posterior = posterior[list(var_names)]
    pieces = [_table(piece, interval) for piece in _pieces(posterior)]
    table = pieces[0]
    if len(pieces) > 1:
        table = pd.concat(pieces)
        table.attrs = pieces[0].attrs
    return _rounded(table, round_to)


def _rounded(table: "pd.DataFrame", round_to: int | None) -> "pd.DataFrame":
    return table if round_to is None else table.round(round_to)


def _pieces(posterior: "xr.Dataset") -> "Iterator[xr.Dataset]":
    """Cut draws that are many into parts that fit into memory, in the table's order."""
    if posterior.nbytes <= _PIECE:
        yield posterior.compute()
        return
    if len(posterior.data_vars) > 1:
        for name in posterior.data_vars:
            yield from _pieces(posterior[[name]])
        return
    (array,) = posterior.data_vars.values()
    axis = next((d for d in array.dims[2:] if array.sizes[d] > 1), None)
    if axis is None:
        yield posterior.compute()
        return
    size = array.sizes[axis]
    step = max(1, _PIECE * size // posterior.nbytes)
    for first in range(0, size, step):
        part = posterior.isel({axis: slice(first, first + step)})
        if step > 1 or array.ndim == 3:
            yield part.compute()
        else:
            yield from _pieces(part)


def _table(posterior: "xr.Dataset", interval: float) -> "pd.DataFrame":
    table = arviz_table(posterior, interval)
    if posterior.sizes["chain"] == 1 and posterior.sizes["draw"] >= 16:
        table["r_hat"] = arviz_table(_cut_in_four(posterior), interval)["r_hat"]
        table.attrs["r_hat"] = "one chain, cut in four"
    if superchains := _superchains(posterior):
        table["nested_r_hat"] = np.concatenate(
            [
                np.ravel(nested_r_hat(array.values, superchains, ranked=True))
                for array in posterior.data_vars.values()
            ]
        )
    return table


def _superchains(posterior: "xr.Dataset") -> int:
    """Number of superchains; 0 where there are none, or chains were left out."""
    chains = posterior.sizes["chain"]
    complete = int(posterior.attrs.get("num_chains", chains)) == chains
    return int(posterior.attrs.get("superchains", 0)) if complete else 0


def _cut_in_four(posterior: "xr.Dataset") -> "xr.Dataset":
    """Turn one chain into four, leaving out up to three draws at its start."""
    import xarray as xr

    length = posterior.sizes["draw"] // 4
    first = posterior.sizes["draw"] - 4 * length
    parts: list[xr.Dataset] = []
    for k in range(4):
        begin = first + k * length
        part = posterior.isel(draw=slice(begin, begin + length))
        parts.append(part.assign_coords(chain=[k], draw=np.arange(length)))
    return xr.concat(parts, "chain")
