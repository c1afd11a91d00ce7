"""The part of a report about the draws."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_geo.io._report import html
from pyro_geo.io._report.components import (
    Component,
    choose,
    columns,
    component_name,
    finite,
    sites_table,
)
from pyro_geo.io._report.pictures import FEW_CHAINS, marginals, pair
from pyro_geo.io._report.style import shorten
from pyro_geo.io._summary import summary
from pyro_geo.io.names import PARTICLE_DIMS, SAMPLE_DIMS

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["add_posterior", "component_table", "principal_plane"]

_TABLE_ROWS = 40
_PICTURED = 6
_PLANE_DRAWS = 1000
_RHAT_LIMIT = 1.01
_KHAT_LIMIT = 0.7


def add_posterior(
    page: html.Page,
    posterior: "xr.Dataset",
    stats: "xr.Dataset | None",
    chain_name: str,
    particles: "xr.Dataset | None" = None,
) -> None:
    """Add summary, distributions and the plane of largest spread.

    Args:
        page: the page to add to.
        posterior: at least one draw; the draws have equal weight.
        stats: the draws' statistics, for marking divergences.
        chain_name: what a chain is called.
        particles: draws with weights that the posterior was resampled from.
    """
    tabulated = posterior
    if particles is not None:
        tabulated = particles.drop_vars("log_weights")
    page.card(
        f"{chain_name}s", tabulated.sizes["chain" if particles is None else "particle"]
    )
    page.card(f"draws per {chain_name}", tabulated.sizes["draw"])
    chosen, total = choose(tabulated, _TABLE_ROWS)
    page.card("scalar components", total)
    if not chosen:
        page.notes.append("The sites have no components.")
        return
    sites = sites_table(posterior)
    if count := int(sites["not finite"].to_numpy().sum()):
        page.notes.append(f"{count:,} numbers among the draws are not finite.")
    scope = " (tabulated)" if len(chosen) < total else ""
    ranked = "those with the largest split R-hat (to two decimals), "
    if particles is None:
        frame = component_table(chosen, posterior.attrs)
        _judge(page, frame, chain_name, scope)
        treatment = frame.attrs.get("r_hat")  # of a single chain
        caption = "ArviZ summary" + (f"; R-hat of {treatment}" if treatment else "")
    else:
        frame = component_table(chosen, particles.attrs, particles["log_weights"])
        _judge_weights(page, frame, particles.attrs)
        # a resampled posterior has no chains to compare
        sites = sites.drop(columns="largest split R-hat")
        caption = f"Summary of the {chain_name}s with their weights"
        ranked, chain_name = "", "chain"
    cut = (
        f"{len(chosen)} of {total:,} components are shown: scalar sites, {ranked}"
        "then the first of each site. The second table covers all of them, site by "
        "site."
    )
    page.add(
        "Summary",
        html.paragraph(cut, cut=True) if len(chosen) < total else "",
        html.table(frame, caption),
        html.table(sites, "Sites: range and spread over their components", limit=60),
    )
    page.add("Distributions", _marginals(posterior, total, chain_name))
    page.add("Largest spread", _pair(posterior, stats, chain_name))


def component_table(
    chosen: Sequence[Component],
    attrs: Mapping[Hashable, Any] | None = None,
    log_weights: "xr.DataArray | None" = None,
) -> "pd.DataFrame":
    """Tabulate components with ArviZ's summary.

    Args:
        chosen: the components.
        attrs: facts of the run, which say how chains are grouped.
        log_weights: of the draws, where they have some.

    Returns:
        One row each, under the components' names.
    """
    import xarray as xr

    # Neutral names: a component's own may hold what xarray takes for a path.
    dims = SAMPLE_DIMS if log_weights is None else PARTICLE_DIMS
    arrays: dict[str, Any] = {
        f"c{i}": (dims, part.values) for i, part in enumerate(chosen)
    }
    if log_weights is not None:
        arrays["log_weights"] = (dims, log_weights.values)
    sizes = zip(dims, chosen[0].values.shape, strict=True)
    coords = {name: np.arange(size) for name, size in sizes}
    table = summary(xr.Dataset(arrays, coords=coords, attrs=attrs))
    table.index = [part.name for part in chosen]
    return table


def _judge(page: html.Page, frame: "pd.DataFrame", chain_name: str, scope: str) -> None:
    """Show R-hat and effective sizes, and warn where they are bad."""
    who = f"{chain_name}s disagree".capitalize()
    if treatment := frame.attrs.get("r_hat"):
        who = f"Parts of the run disagree ({treatment})"
    _judge_rhat(page, frame, "r_hat", f"R-hat{scope}", who)
    if "nested_r_hat" in frame:
        who = f"Groups of {chain_name}s with one start disagree"
        _judge_rhat(page, frame, "nested_r_hat", f"nested R-hat{scope}", who)
    size = frame["ess_bulk"].to_numpy(dtype=float)
    if np.isfinite(size).any():
        page.card(f"smallest effective size{scope}", round(float(np.nanmin(size))))


def _judge_weights(
    page: html.Page, frame: "pd.DataFrame", attrs: Mapping[Hashable, Any]
) -> None:
    """Show the effective size of the weights, and warn where their tail is heavy."""
    page.card("effective size", round(float(frame["ess_bulk"].iloc[0]), 1))
    if "log_z" in attrs:
        page.card("log of the normaliser", float(attrs["log_z"]))
    khat = float(frame["khat"].iloc[0])
    if np.isnan(khat):
        return
    page.card("tail of the weights, k-hat", round(khat, 2), alert=khat > _KHAT_LIMIT)
    if khat > _KHAT_LIMIT:
        page.notes.append(
            f"The tail of the weights is too heavy for trustworthy means: k-hat is "
            f"{khat:.2f}, above {_KHAT_LIMIT}. Use more particles, or more stages."
        )


def _judge_rhat(
    page: html.Page, frame: "pd.DataFrame", column: str, label: str, who: str
) -> None:
    """Show the largest entry of a column of R-hat, and warn where it is too large."""
    rhat = frame[column].to_numpy(dtype=float)
    if np.isnan(rhat).all():
        return
    worst = float(np.nanmax(rhat))
    page.card(f"largest {label}", round(worst, 3), alert=worst > _RHAT_LIMIT)
    if worst > _RHAT_LIMIT:
        page.notes.append(
            f"{who}: {label.partition(' (')[0]} is above {_RHAT_LIMIT} for "
            f"{int((rhat > _RHAT_LIMIT).sum())} of the {len(rhat)} components "
            f"tabulated, largest for {frame.index[int(np.nanargmax(rhat))]}."
        )


def _marginals(posterior: "xr.Dataset", total: int, chain_name: str) -> str:
    """Picture a few components."""
    parts, _ = choose(posterior, _PICTURED)
    few = posterior.sizes["chain"] <= FEW_CHAINS
    beside = (
        f"the draws in their order, one colour per {chain_name}"
        if few
        else f"median and central 90 % interval of every {chain_name}"
    )
    alt = "; ".join(f"{part.name}: {_in_words(part.values)}" for part in parts)
    which = "" if len(parts) == total else f"{len(parts)} of {total:,} components. "
    return html.figure(
        marginals(parts, chain_name),
        f"Distributions. {alt}.",
        f"{which}Left: histogram of all draws. Right: {beside}.",
    )


def _in_words(values: np.ndarray) -> str:
    """Describe a distribution by three quantiles."""
    usable = values[finite(values)]
    if not usable.size:
        return "no finite draw"
    low, middle, high = np.quantile(usable, [0.05, 0.5, 0.95])
    return f"median {middle:.3g}, central 90 % from {low:.3g} to {high:.3g}"


def principal_plane(
    posterior: "xr.Dataset",
) -> tuple[np.ndarray, np.ndarray, tuple[str, str]] | None:
    """Project the draws on the two directions in which they spread most.

    Args:
        posterior: arrays with leading axes chain and draw.

    Returns:
        Coordinates `(draws, 2)`, the index of each of these draws in the flattened run
        and a label per direction; None with fewer than three usable draws or without
        two directions of spread. Long runs are thinned evenly.
    """
    arrays = list(posterior.data_vars.values())
    usable = [finite(columns(a)).all(axis=-1).ravel() for a in arrays]
    rows = np.flatnonzero(np.logical_and.reduce(usable))
    rows = rows[:: max(1, -(-len(rows) // _PLANE_DRAWS))]
    if len(rows) < 3:
        return None
    flat = np.concatenate([_flat_rows(a, rows) for a in arrays], axis=-1)
    centred = flat - flat.mean(axis=0)
    # The smaller of the two products has the same leading eigenvalues as the other.
    wide = centred.shape[0] < centred.shape[1]
    values, vectors = np.linalg.eigh(
        centred @ centred.T if wide else centred.T @ centred
    )
    values, vectors = values[:-3:-1], vectors[:, :-3:-1]
    total = float((centred**2).sum())
    if len(values) < 2 or not values[1] > 1e-12 * max(total, 1e-300):
        return None
    plane = vectors * np.sqrt(values) if wide else centred @ vectors
    loadings = centred.T @ vectors if wide else vectors  # (components, 2)
    labels = [
        f"{share:.0%} of the variance\nmostly {_heaviest(arrays, loading)}"
        for share, loading in zip(values / total, loadings.T, strict=True)
    ]
    return plane, rows, (labels[0], labels[1])


def _flat_rows(array: "xr.DataArray", rows: np.ndarray) -> np.ndarray:
    """Return some draws of a site, `(len(rows), components)`."""
    draws = columns(array)
    return draws.reshape(draws.shape[0] * draws.shape[1], draws.shape[2])[rows]


def _heaviest(arrays: Sequence["xr.DataArray"], loading: np.ndarray) -> str:
    """Name the two components that weigh most in a direction."""
    sizes = np.cumsum([0, *(int(np.prod(a.shape[2:])) for a in arrays)])
    names = []
    for column in np.argsort(-np.abs(loading))[:2]:
        site = int(np.searchsorted(sizes, column, side="right")) - 1
        names.append(shorten(component_name(arrays[site], int(column - sizes[site]))))
    return " and ".join(names)


def _pair(posterior: "xr.Dataset", stats: "xr.Dataset | None", chain_name: str) -> str:
    """Picture the plane of largest spread."""
    projection = principal_plane(posterior)
    if projection is None:
        return html.paragraph("The draws do not spread in two directions.")
    plane, rows, labels = projection
    draws = posterior.sizes["draw"]
    diverging = np.zeros(len(rows), dtype=bool)
    if stats is not None and "diverging" in stats:
        flags = np.ravel(stats["diverging"].values)
        if flags.size == posterior.sizes["chain"] * draws:
            diverging = flags[rows].astype(bool)
    total = posterior.sizes["chain"] * draws
    thinned = f" {len(rows):,} of {total:,} draws." if len(rows) < total else ""
    return html.figure(
        pair(plane, labels, rows // draws, diverging, chain_name),
        "Draws in the plane of the two directions of largest spread: "
        f"{'; '.join(labels)}.".replace("\n", ", "),
        "Draws projected on the two principal directions of all components together, "
        f"in the sites' own units, about their mean.{thinned}",
    )
