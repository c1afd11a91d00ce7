"""What a run has lost, counted in plain words: chains, draws, rows, numbers."""

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_geo.io._report import html
from pyro_geo.io._report.components import columns, component_name, finite

if TYPE_CHECKING:
    import xarray as xr

    from pyro_geo.io._report.html import Rows

__all__ = ["count_draws", "count_facts", "count_flags", "count_tables", "is_flag"]

_FEWEST = 4  # draws of a chain from which on one that stands still is told
_NAMED = 3
_FLAGS = {
    "diverging": "are marked as diverging",
    "saddle": "ended at saddles of the loss, which are no minima",
}
# Facts of a run that count chains, with what befell them.
_CHAINS = {
    "lost_chains": "were lost: their density was never finite",
    "hopeless_chains": "were given up in warm-up",
    "stuck_chains": "were stuck: they did not move",
    "restarted_chains": "were restarted in warm-up beside others, so that R-hat no "
    "longer compares independent starts",
}


def is_flag(name: str, values: np.ndarray) -> bool:
    """Say whether a statistic is a flag, booleans of a file included.

    Args:
        name: of the statistic.
        values: of any shape.

    Returns:
        Whether it is.
    """
    return values.dtype == bool or (
        name in (*_FLAGS, "converged") and bool(np.isin(values, (0, 1)).all())
    )


def count_facts(
    page: html.Page,
    facts: Mapping[str, Any],
    attrs: Mapping[Hashable, Any],
    num_chains: int,
    chain_name: str,
) -> None:
    """Count the chains that the run itself says are lost.

    Args:
        page: the page to add to.
        facts: of the run, by name.
        attrs: of the draws, for facts that are not among them.
        num_chains: number of chains.
        chain_name: what a chain is called.
    """
    for name, what in _CHAINS.items():
        count = _count(facts.get(name, attrs.get(name, 0)))
        if count:
            label = name.partition("_")[0]
            page.card(f"{label} {chain_name}s", count, alert=True)
            page.lost.append(f"{_of(count, num_chains, chain_name)} {what}.")


def count_flags(page: html.Page, stats: "xr.Dataset") -> None:
    """Count the draws that diverged, ended at saddles, did not converge, have no lp.

    Args:
        page: the page to add to.
        stats: the group `sample_stats`, of all draws.
    """
    for name, what in _FLAGS.items():
        if name in stats and is_flag(name, values := np.asarray(stats[name].values)):
            bad, total = int(values.astype(bool).sum()), values.size
            page.card(name, bad, alert=bad > 0)
            if bad:
                page.lost.append(f"{bad:,} of {total:,} draws {what}.")
    if "converged" in stats:
        values = np.asarray(stats["converged"].values).astype(bool)
        bad, total = int((~values).sum()), values.size
        page.card("not converged", bad, alert=bad > 0)
        if bad:
            page.lost.append(f"{bad:,} of {total:,} draws did not converge.")
    if "lp" in stats:
        usable = finite(np.asarray(stats["lp"].values))
        if bad := int((~usable).sum()):
            page.lost.append(
                f"{bad:,} of {usable.size:,} draws have no finite log-density."
            )


def count_draws(
    page: html.Page, posterior: "xr.Dataset", chain_name: str, *, weighted: bool
) -> None:
    """Count chains that never moved, draws that are not finite, and rows without R-hat.

    Args:
        page: the page to add to.
        posterior: arrays with leading axes chain and draw.
        chain_name: what a chain is called.
        weighted: whether the draws have weights, and R-hat no meaning.
    """
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    still = np.ones(chains, dtype=bool)
    bad = np.zeros((chains, draws), dtype=bool)
    constant, broken = [], []  # names of components
    total = 0
    for array in posterior.data_vars.values():
        values = columns(array)
        total += values.shape[-1]
        # equal numbers, NaN and infinity among them
        same = (values == values[:, :1]) | (np.isnan(values) & np.isnan(values[:, :1]))
        same = same.all(axis=1)  # (chains, components)
        usable = finite(values)
        still &= same.all(axis=1)
        bad |= ~usable.all(axis=-1)
        whole = usable.all(axis=(0, 1))
        constant += list(_names(array, np.asarray(same.all(axis=0) & whole)))
        broken += list(_names(array, np.asarray(~whole)))
    if not total:
        return
    if draws >= _FEWEST and still.any() and not (weighted or chains == draws == 1):
        count = int(still.sum())
        page.card(f"{chain_name}s that never moved", count, alert=True)
        page.lost.append(
            f"{_of(count, chains, chain_name)} never moved: all draws are the same."
        )
    if bad.any():
        holders = int(bad.any(axis=1).sum())
        page.lost.append(
            f"{int(bad.sum()):,} of {bad.size:,} draws hold numbers that are not "
            f"finite, in {_of(holders, chains, chain_name)}."
        )
    if weighted:
        return
    if broken:
        page.lost.append(
            f"{len(broken):,} of {total:,} rows of the summary hold draws that are not "
            f"finite, and have no R-hat: {_some(broken)}."
        )
    if constant and draws >= _FEWEST:
        page.notes.append(
            f"{len(constant):,} of {total:,} rows of the summary are constant and have "
            f"no R-hat: {_some(constant)}."
        )


def count_tables(page: html.Page, tables: "Mapping[str, Rows]") -> None:
    """Count the numbers of further tables that are NaN.

    Args:
        page: the page to add to.
        tables: by caption.
    """
    for caption, rows in tables.items():
        numbers = [x for x in html.entries(rows) if isinstance(x, (float, np.floating))]
        if bad := sum(math.isnan(x) for x in numbers):
            page.lost.append(
                f"{bad:,} of {len(numbers):,} numbers of the table “{caption}” could "
                "not be computed (n/a)."
            )


def _count(value: Any) -> int:
    """Read a count that may be a text; anything else counts nothing."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def _of(count: int, total: int, name: str) -> str:
    return f"{count:,} of {total:,} {name}{'s' if total != 1 else ''}"


def _names(array: "xr.DataArray", chosen: np.ndarray) -> Iterator[str]:
    for column in np.flatnonzero(chosen):
        yield component_name(array, int(column))


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
