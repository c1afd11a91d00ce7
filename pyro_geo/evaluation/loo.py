"""Leave-one-out cross-validation of a fit, by subject or any other axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_geo._compat.arviz import get_group, smoothed_weights
from pyro_geo.checks import check
from pyro_geo.errors import UnsupportedError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["loo_table"]

_SAME = 1e-12
_NUMBERS = 1 << 22  # looked at together
_LIMIT = 0.7  # shapes of tails above it are those of estimates not to be trusted


def loo_table(idata: Any, by: str | None = None) -> pd.DataFrame:
    r"""Tabulate leave-one-out cross-validation of a fit by site, or along an axis.

    .. math::
        \mathrm{elpd} = \sum_i \log p(y_i \mid y_{-i})

    by Pareto-smoothed importance sampling of ArviZ, as `arviz.loo` does. Two things are
    different: data that are missing, whose log-likelihood is zero at all draws, are no
    data, and the sum may be taken for each label of an axis, such as each subject.

    What is left out is what has a likelihood of its own: a trial by
    `fit.to_arviz()`, a whole sequence by `fit.to_arviz(log_likelihood="datum")`. Trials
    of responses are independent given the parameters, and so are left out as in any
    regression. Trials of inputs are not: later ones are still predicted from the one
    that is left out.

    Args:
        idata: ArviZ data with a group `log_likelihood`.
        by: name of an axis; None for one row per site.

    Returns:
        One row per site, or per site and label: `elpd` in nats and its standard error
        `se`, the effective number of parameters `p_loo`, the number of `data`, the
        largest shape `k` of a tail and how many are above 0.7, where the estimate is
        not to be trusted.

    Raises:
        UnsupportedError: there is no log-likelihood.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using
        leave-one-out cross-validation and WAIC.

    Example:
        >>> from pyro_geo.io.arviz import to_arviz
        >>> draws = np.random.default_rng(0).normal(size=(4, 100, 5))
        >>> groups = {"log_likelihood": {"y": -0.1 * draws**2}}
        >>> loo_table(to_arviz(groups))[["data", "k > 0.7"]].to_dict("records")
        [{'data': 5, 'k > 0.7': 0}]
    """
    import pandas as pd

    group = get_group(idata, "log_likelihood")
    if group is None:
        raise UnsupportedError(
            "there is no log-likelihood",
            where="loo_table",
            found="ArviZ data without the group log_likelihood",
            expected="fit.to_arviz() of a Pyro model",
            todo="Leave log_likelihood of to_arviz at its default.",
        )
    rows: dict[Any, dict[str, float | int]] = {}
    for name, array in group.data_vars.items():
        if by is None:
            rows[name] = _row(*_each(array))
            continue
        good = by in array.dims[2:]
        check(good, "by", repr(by), f"an axis among {list(array.dims[2:])} of {name!r}")
        for label in array[by].values:
            part = array.sel({by: label})
            rows[name, label] = _row(*_each(part))
    table = pd.DataFrame.from_dict(rows, orient="index")
    if by is not None:
        table.index = pd.MultiIndex.from_tuples(table.index, names=["site", by])
    return table


def _each(array: xr.DataArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elpd, log of the mean likelihood and shape of the tail of each datum."""
    values = np.asarray(array.values, dtype=float)
    data = values.reshape(values.shape[0] * values.shape[1], -1).T
    data = data[(data != 0).any(1)]
    if not len(data):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    size = max(1, _NUMBERS // data.shape[1])
    parts = [_chunk(data[k : k + size]) for k in range(0, len(data), size)]
    elpd, inside, shapes = map(np.concatenate, zip(*parts, strict=True))
    return elpd, inside, shapes


def _chunk(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights, shapes = smoothed_weights(-data)
    # what is the same at all draws, such as a first trial's, has no tail
    shapes = np.where(np.ptp(data, 1) < _SAME, -np.inf, shapes)
    inside = np.logaddexp.reduce(data, axis=1) - np.log(data.shape[1])
    return np.logaddexp.reduce(weights + data, axis=1), inside, shapes


def _row(
    elpd: np.ndarray, inside: np.ndarray, shapes: np.ndarray
) -> dict[str, float | int]:
    return {
        "elpd": float(elpd.sum()),
        "se": float(np.sqrt(len(elpd) * elpd.var())) if len(elpd) else 0.0,
        "p_loo": float((inside - elpd).sum()),
        "data": len(elpd),
        "largest k": float(shapes.max(initial=-np.inf)),
        f"k > {_LIMIT}": int((shapes > _LIMIT).sum()),
    }
