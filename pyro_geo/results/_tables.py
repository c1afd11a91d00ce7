"""Tables and diagnostics of a result's draws."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_geo.checks import check_number
from pyro_geo.density import Target
from pyro_geo.results._groups import arrays
from pyro_geo.results.draws import Draws
from pyro_geo.results.weights import Weights

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["describe", "diagnose", "tabulate"]

_SHOWN_SITES = 6  # in a representation


def tabulate(
    target: Target,
    draws: Draws,
    weights: Weights | None,
    prob: float,
    *,
    facts: Mapping[str, str | int | float],
    sample_dims: Sequence[str],
) -> pd.DataFrame:
    """Tabulate the sites of a result, with the weights where there are any.

    Args:
        target: the density.
        draws: to tabulate; those in a store alone are read part by part.
        weights: of the draws.
        prob: probability of the interval.
        facts: attributes that the table depends on.
        sample_dims: names of the sample axes.

    Returns:
        ArviZ's table.
    """
    from pyro_geo.io.arviz import get_group, summary, to_arviz, true_names
    from pyro_geo.io.store import open_run

    check_number("prob", prob, 0.0, 1.0, strict=True)
    names = list(draws.shapes)
    if draws.folder is not None:
        opened = open_run(draws.folder)
        posterior = get_group(opened, "posterior")
        assert posterior is not None
        stored = {true: name for name, true in true_names(posterior.attrs).items()}
        chosen = [stored.get(name, name) for name in names]
        return summary(opened, var_names=chosen, interval=prob)
    group = "posterior" if weights is None else "particles"
    groups = {group: arrays(draws.sites(names))}
    idata = to_arviz(
        groups,
        dims=target.dims,
        coords=target.coords,
        attrs=facts,
        sample_dims=sample_dims,
        log_weights=None if weights is None else weights.array,
    )
    return summary(idata, interval=prob)


def describe(draws: Draws, chain_name: str, weighted: bool) -> str:
    """Say in a few words how many draws of which sites there are.

    Args:
        draws: to describe; their values are not read.
        chain_name: what a chain is called.
        weighted: whether they have weights.

    Returns:
        A text of one line.
    """
    chains, each = draws.num_chains, draws.num_draws
    shapes = list(draws.shapes.items())
    sites = [f"{name} {tuple(shape)}" for name, shape in shapes[:_SHOWN_SITES]]
    if len(shapes) > _SHOWN_SITES:
        sites.append(f"{len(shapes) - _SHOWN_SITES} more sites")
    return (
        f"{chains} {chain_name}{'s' if chains != 1 else ''}, "
        f"{each} draw{'s' if each != 1 else ''} of each"
        f"{', with weights' if weighted else ''}; {', '.join(sites)}"
    )


def diagnose(table: pd.DataFrame, draws: Draws) -> dict[str, Any]:
    """Arrange a table by site, and list divergences and acceptance by chain.

    Args:
        table: of the sites, in their order.
        draws: that were tabulated.

    Returns:
        Site to `n_eff`, `r_hat` and `nested_r_hat`; chain to divergent draws and mean
        acceptance rate, as far as there are such columns and statistics.
    """
    columns = {"n_eff": "ess_bulk", "r_hat": "r_hat"}
    if "nested_r_hat" in table:
        columns["nested_r_hat"] = "nested_r_hat"
    result: dict[str, Any] = {}
    row = 0  # rows come site by site, each in C order
    for name, shape in draws.shapes.items():
        rows = slice(row, row + shape.numel())
        result[name] = OrderedDict(
            (key, _column(table, column)[rows].reshape(shape))
            for key, column in columns.items()
        )
        row = rows.stop
    stats = draws.stats()
    if "diverging" in stats:
        result["divergences"] = {
            f"chain {i}": row.nonzero().flatten().tolist()
            for i, row in enumerate(stats["diverging"])
        }
    if "acceptance_rate" in stats:
        means = stats["acceptance_rate"].double().mean(1)
        result["acceptance rate"] = {
            f"chain {i}": mean for i, mean in enumerate(means.tolist())
        }
    return result


def _column(table: pd.DataFrame, name: str) -> Tensor:
    return torch.from_numpy(np.array(table[name], dtype=float))
