"""Scalar components of a dataset of draws: names, choice, spread and disagreement."""

import heapq
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = [
    "Component",
    "choose",
    "columns",
    "component_name",
    "finite",
    "sites_table",
    "split_rhat",
]

# Beyond this a number cannot be drawn or squared; it is counted as not finite.
_LARGEST = 1e100


class Component(NamedTuple):
    """One scalar of one site, over all chains and draws."""

    name: str
    values: np.ndarray  # (chains, draws)


def finite(values: np.ndarray) -> np.ndarray:
    """Say which values can be drawn: not NaN, infinite or astronomically large.

    Args:
        values: any shape.

    Returns:
        True where a value can be drawn, same shape.

    Example:
        >>> finite(np.array([1.0, np.nan, np.inf])).tolist()
        [True, False, False]
    """
    with np.errstate(invalid="ignore"):
        return np.abs(np.asarray(values, dtype=float)) < _LARGEST


def split_rhat(values: np.ndarray) -> np.ndarray:
    r"""Compute the classic split R-hat of many components at once.

    `\hat R = \sqrt{((n - 1)/n\; W + B/n) / W}`, with `W` the mean variance within and
    `B/n` the variance between half chains of length `n` (quarters of a single chain).
    It serves to rank thousands of components; ArviZ's rank-normalised one is what a
    table shows.

    Args:
        values: draws, `(chains, draws, components)`.

    Returns:
        R-hat of each component, `(components,)`; NaN for constants, for fewer than
        four draws in a part and where a draw is not finite.

    References:
        Gelman, Carlin, Stern, Dunson, Vehtari and Rubin (2013), Bayesian Data
        Analysis, third edition, equation 11.4.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4, 500, 2))
        >>> x[0, :, 1] += 3.0
        >>> (split_rhat(x) > 1.1).tolist()
        [False, True]
    """
    chains, draws, components = values.shape
    pieces = 4 if chains == 1 else 2
    length = draws // pieces
    if length < 4:
        return np.full(components, np.nan)
    parts = np.where(finite(values), values, np.nan)[:, draws - pieces * length :]
    parts = parts.reshape(chains * pieces, length, components)
    with np.errstate(all="ignore"):
        within = parts.var(axis=1, ddof=1).mean(axis=0)
        between = parts.mean(axis=1).var(axis=0, ddof=1)
        ratio = ((length - 1) / length * within + between) / within
    return np.where(within > 0, np.sqrt(ratio), np.nan)


def columns(array: "xr.DataArray") -> np.ndarray:
    """Return a site's draws as floats, one column per component.

    Args:
        array: leading axes chain and draw.

    Returns:
        The draws, `(chains, draws, components)`.
    """
    chains, draws = array.shape[:2]
    size = math.prod(array.shape[2:])
    return np.asarray(array.values, dtype=float).reshape(chains, draws, size)


def _column(array: "xr.DataArray", column: int) -> np.ndarray:
    """Return the draws of one component, `(chains, draws)`."""
    index = np.unravel_index(column, array.shape[2:])
    return np.asarray(array.values[:, :, *index], dtype=float)


def component_name(array: "xr.DataArray", column: int) -> str:
    """Name a component as ArviZ does: by the labels along its axes.

    Args:
        array: leading axes chain and draw.
        column: which component, in row-major order.

    Returns:
        The name, `w[age, 2]` for example.
    """
    if array.ndim == 2:
        return str(array.name)
    index = np.unravel_index(column, array.shape[2:])
    labels = (
        str(array[dim].values[i]) for dim, i in zip(array.dims[2:], index, strict=True)
    )
    return f"{array.name}[{', '.join(labels)}]"


def choose(posterior: "xr.Dataset", limit: int) -> tuple[list[Component], int]:
    """Choose the components to show when there are too many for all of them.

    Scalar sites come first, up to half of the places if others need them. The rest
    are those with the largest :func:`split_rhat`; where it is the same or unknown, the
    first components of each site in turn. The order of the sites is kept.

    Args:
        posterior: arrays with leading axes chain and draw.
        limit: how many to choose at most.

    Returns:
        The chosen components and the number there are in all.
    """
    total = sum(math.prod(a.shape[2:]) for a in posterior.data_vars.values())
    ranked = heapq.nsmallest(limit, _ranking(posterior, scalars=limit // 2))
    picked = sorted((site, column) for *_, site, column in ranked)
    arrays = list(posterior.data_vars.values())
    chosen = [
        Component(component_name(arrays[site], column), _column(arrays[site], column))
        for site, column in picked
    ]
    return chosen, total


def _ranking(
    posterior: "xr.Dataset", scalars: int
) -> Iterator[tuple[bool, float, int, int, int]]:
    """Give each component a sorting key; the smallest is shown first."""
    num_scalars = 0
    for site, array in enumerate(posterior.data_vars.values()):
        rhat = np.nan_to_num(split_rhat(columns(array)), nan=0.0, posinf=1e9)
        num_scalars += array.ndim == 2
        first = array.ndim == 2 and num_scalars <= scalars
        for column, value in enumerate(rhat):
            # Rounded, so that noise in R-hat does not scatter the choice.
            yield not first, -round(float(value), 2), column, site, column


def sites_table(posterior: "xr.Dataset") -> "pd.DataFrame":
    """Tabulate every site: shape, range, spread and disagreement over its components.

    Args:
        posterior: arrays with leading axes chain and draw.

    Returns:
        One row per site.
    """
    import pandas as pd

    rows = {}
    for name, array in posterior.data_vars.items():
        values = columns(array)
        usable = finite(values)
        numbers = values[usable]
        clean = np.where(usable, values, np.nan)
        rhat = split_rhat(values)
        with np.errstate(all="ignore"):
            count = usable.sum(axis=(0, 1))
            mean = np.nansum(clean, axis=(0, 1)) / count
            deviation = np.sqrt(np.nansum((clean - mean) ** 2, axis=(0, 1)) / count)
        spread = deviation[np.isfinite(deviation)]
        known = rhat[np.isfinite(rhat)]
        rows[str(name)] = {
            "shape": " × ".join(map(str, array.shape[2:])) or "scalar",
            "axes": ", ".join(map(str, array.dims[2:])),
            "smallest": numbers.min() if numbers.size else math.nan,
            "largest": numbers.max() if numbers.size else math.nan,
            "smallest sd": spread.min() if spread.size else math.nan,
            "largest sd": spread.max() if spread.size else math.nan,
            "largest split R-hat": known.max() if known.size else math.nan,
            "not finite": int(usable.size - usable.sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
