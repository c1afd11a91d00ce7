"""Posterior predictive checks: does the model make data like those observed?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from pyro_geo.checks import check_shape

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["predictive_checks"]

STATISTICS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda y: y.mean(-1),
    "sd": lambda y: y.std(-1),
    "smallest": lambda y: y.amin(-1),
    "largest": lambda y: y.amax(-1),
}


def predictive_checks(
    observed: Tensor,
    replicated: Tensor,
    statistics: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> pd.DataFrame:
    r"""Hold statistics of the data against those of data made by the fitted model.

    .. math:: p = P(T(y^{rep}) \ge T(y) \mid y)

    A `p` near 0 or 1 says that the model does not make such data. It is not uniform
    under a true model: the data were used twice, so that it is rarely extreme.

    Args:
        observed: the data of one site, any shape.
        replicated: data of `fit.posterior_predictive()`, `(draws, *shape)` or
            `(chains, draws, *shape)`.
        statistics: name to a function of `(..., n)` that leaves `(...)`; mean, standard
            deviation, smallest and largest if None.

    Returns:
        A row for each statistic: that of the data, the middle 90 % of the
        replications, and `p` (ties count one half).

    References:
        Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness
        via realized discrepancies.

    Example:
        >>> import torch
        >>> made = torch.arange(12.0).reshape(4, 3)
        >>> table = predictive_checks(torch.tensor([3.0, 4.0, 5.0]), made)
        >>> float(table.loc["mean", "observed"]), float(table.loc["mean", "p"])
        (4.0, 0.625)
    """
    import pandas as pd

    shape = tuple(replicated.shape)
    lead = replicated.dim() - observed.dim()
    good = lead > 0 and shape[lead:] == tuple(observed.shape)
    check_shape("replicated", shape, f"(draws, *{tuple(observed.shape)})", good)
    one = observed.double().flatten()
    many = replicated.double().reshape(-1, one.numel())
    rows: dict[str, dict[str, float]] = {}
    for name, statistic in (STATISTICS if statistics is None else statistics).items():
        seen, made = statistic(one), statistic(many)
        above = (made > seen).double() + 0.5 * (made == seen).double()
        rows[name] = {
            "observed": float(seen),
            "5 %": float(made.quantile(0.05)),
            "95 %": float(made.quantile(0.95)),
            "p": float(above.mean()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
