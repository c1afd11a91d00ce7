"""Tables of a posterior, one row for each scalar."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import ndtri

from pyro_geo.ops.arrays import to_numpy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["drawn_table", "exact_table", "row_names"]


def row_names(name: str, shape: tuple[int, ...]) -> Iterator[str]:
    """Name the scalars of a site: `w[0, 1]`, or the site's name for a scalar."""
    if not shape:
        yield name
        return
    for index in itertools.product(*map(range, shape)):
        yield f"{name}[{', '.join(map(str, index))}]"


def exact_table(posterior: Any, prob: float) -> pd.DataFrame:
    """Tabulate unconstrained values.

    Args:
        posterior: a `GaussianPosterior`.
        prob: of the interval.

    Returns:
        The table.
    """
    import pandas as pd

    loc, scale = to_numpy(posterior.loc), to_numpy(posterior.scale)
    sites = posterior.layout.sites.values()
    rows = [row for site in sites for row in row_names(site.name, tuple(site.shape))]
    low, high = (1 - prob) / 2, (1 + prob) / 2
    columns = {"mean": loc, "sd": scale, "median": loc}
    columns |= {_percent(p): loc + ndtri(p) * scale for p in (low, high)}
    return pd.DataFrame(columns, index=rows)


def drawn_table(posterior: Any, prob: float, count: int, seed: int) -> pd.DataFrame:
    """Tabulate constrained values by draws.

    Args:
        posterior: a `GaussianPosterior`.
        prob: of the interval.
        count: number of draws.
        seed: of the draws.

    Returns:
        The table.
    """
    import pandas as pd

    generator = torch.Generator().manual_seed(seed)
    draws = posterior.sample((count,), generator=generator)
    rows = [row for name, x in draws.items() for row in row_names(name, x.shape[1:])]
    flat = [to_numpy(x).reshape(count, -1) for x in draws.values()]
    values = np.concatenate(flat, 1).astype(np.float64)
    probs = (0.5, (1 - prob) / 2, (1 + prob) / 2)
    median, low, high = np.quantile(values, probs, axis=0)
    columns = {"mean": values.mean(0), "sd": values.std(0, ddof=1), "median": median}
    columns |= {_percent(probs[1]): low, _percent(probs[2]): high}
    return pd.DataFrame(columns, index=rows)


def _percent(p: float) -> str:
    return f"{100 * p:.4g}%"
