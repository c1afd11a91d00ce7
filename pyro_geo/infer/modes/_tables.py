"""A set of modes as a table, a page and a group of ArviZ."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from pyro_geo._compat.arviz import ArvizData
    from pyro_geo.infer.modes.mode_set import ModeSet

__all__ = ["summary", "to_arviz", "write"]

_MOST_COLUMNS = 12  # numbers of sites in the table


def summary(modes: ModeSet) -> pd.DataFrame:
    """Tabulate a set of modes, one row for each."""
    import pandas as pd

    columns: dict[str, Any] = {
        "weight": modes.weights.tolist(),
        "laplace_weight": modes.log_laplace.softmax(0).tolist(),
        "log_prob": modes.log_prob.tolist(),
        "found": modes.counts.tolist(),
        "copy_of": modes.copies.tolist(),
        "pareto_k": modes.pareto_k.tolist(),
        "flat": modes.flat.tolist(),
        "converged": modes.converged.tolist(),
    }
    left = _MOST_COLUMNS
    for name, values in modes.values().items():
        rows = values.reshape(len(modes), -1)
        if (left := left - rows.shape[1]) < 0:
            break
        scalar = values.dim() == 1
        for i, index in enumerate(_indices(values.shape[1:])):
            label = name if scalar else f"{name}[{', '.join(map(str, index))}]"
            columns[label] = rows[:, i].tolist()
    return pd.DataFrame(columns).rename_axis("mode")


def _indices(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    import itertools

    return list(itertools.product(*map(range, shape)))


def write(modes: ModeSet, path: str | os.PathLike[str]) -> Path:
    """Write a page of HTML on a set of modes."""
    import pandas as pd

    from pyro_geo.citations import citation
    from pyro_geo.io.reports import page_title, write_report

    tables = {"Modes": summary(modes)}
    if modes.symmetries:
        tables["Symmetries"] = pd.DataFrame({"symmetry": list(modes.symmetries)})
    return write_report(
        to_arviz(modes),
        path,
        title=page_title("Search for modes", sites=list(modes.layout.sites)),
        facts=modes.searched,
        citation=citation(modes),
        notes=modes.notes,
        tables=tables,
    )


def to_arviz(modes: ModeSet) -> ArvizData:
    """Put a set of modes into a group `modes`."""
    import numpy as np
    import xarray as xr

    from pyro_geo._compat.arviz import to_container

    def numbers(x: Any) -> Any:
        return np.asarray(x.detach().cpu())

    facts = {
        "log_prob": modes.log_prob,
        "log_weight": modes.log_weights,
        "log_laplace": modes.log_laplace,
        "pareto_k": modes.pareto_k,
        "found": modes.counts,
        "copy_of": modes.copies,
        "flat": modes.flat,
        "converged": modes.converged,
    }
    variables: dict[str, Any] = {
        name: (("mode",), numbers(x)) for name, x in facts.items()
    }
    for name, x in modes.values().items():
        own = modes.layout.sites[name].dims
        axes = [
            own[axis] if axis < len(own) else f"{name}_dim_{axis}"
            for axis in range(x.dim() - 1)
        ]
        # a site may have the name of one of the facts
        label = name if name not in variables else f"{name}_site"
        variables[label] = (("mode", *axes), numbers(x))
    dataset = xr.Dataset(variables, coords={"mode": np.arange(len(modes))})
    dataset.attrs.update(
        {
            **{f"searched_{name}": str(x) for name, x in modes.searched.items()},
            "symmetries": "; ".join(modes.symmetries),
            "notes": "; ".join(modes.notes),
        }
    )
    return to_container({"modes": dataset})
