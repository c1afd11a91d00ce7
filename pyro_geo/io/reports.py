"""A one-file HTML report of a run: tables from ArviZ, pictures, warnings.

The page needs no network and no JavaScript, and prints.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro_geo
from pyro_geo.checks import check
from pyro_geo.io._report import html
from pyro_geo.io._report.extras import Bars, Curves, Images, Scatter
from pyro_geo.io._report.facts import page_title
from pyro_geo.io._report.losses import (
    count_draws,
    count_facts,
    count_flags,
    count_tables,
)
from pyro_geo.io._report.modes import add_modes
from pyro_geo.io._report.posterior import add_posterior
from pyro_geo.io._report.series import add_series
from pyro_geo.io._report.stats import add_stats
from pyro_geo.io.arviz import get_group
from pyro_geo.io.files import replace_file
from pyro_geo.io.modes import HIDDEN, ModeMarks
from pyro_geo.io.store import check_run, open_run

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from numpy.typing import ArrayLike

    from pyro_geo._compat.arviz import ArvizData
    from pyro_geo.io._report.html import Rows

__all__ = [
    "Bars",
    "Curves",
    "Images",
    "Scatter",
    "further_tables",
    "page_title",
    "report",
    "search_curves",
    "write_report",
]

_LARGEST = 1 << 28  # bytes of draws that a report looks at
_FEWEST = 100  # draws of a chain, before whole chains are left out


def write_report(
    idata: "ArvizData | None",
    path: str | os.PathLike[str],
    *,
    title: str,
    facts: Mapping[str, object],
    notes: Sequence[str] = (),
    citation: str = "",
    tables: "Mapping[str, Rows] | None" = None,
    curves: Sequence[Curves] = (),
    bars: Sequence[Bars] = (),
    scatters: Sequence[Scatter] = (),
    images: Sequence[Images] = (),
    chain_name: str = "chain",
    series: "ArvizData | None" = None,
    places: "np.ndarray | None" = None,
    modes: ModeMarks | None = None,
) -> Path:
    """Write a one-file HTML report of a run.

    All pages have the same parts in the same order. The title comes first, then the
    facts, and where anything is lost a box that counts it: chains that were lost,
    stuck, restarted or never moved, draws that diverged, ended at saddles, did not
    converge or are not finite, rows of the summary without R-hat, numbers of further
    tables that are NaN. Headline numbers follow, and a box of what else calls for
    attention (the notes given, R-hat or nested R-hat above 1.01, E-BFMI below 0.3,
    constant rows). Then come ArviZ's summary and further tables, pictures, statistics,
    and a foot with versions and whom to cite. Draws with weights, in a group
    `particles`, are tabulated with them, beside effective size, tail and sum of the
    weights; pictures and statistics are those of the resampled posterior. The steps of
    a filter, in a group `filtered`, are pictured over time.
    Large models are cut down to the components that matter most, more draws than 256 MB
    to every k-th draw, and the page says so.

    Args:
        idata: a result of :func:`pyro_geo.io.arviz.to_arviz`; groups that it lacks are
            left out of the page. None for a page of tables and pictures alone.
        path: the file to write; missing folders are made, an existing file is replaced
            once the new one is complete.
        title: heading of the page; :func:`page_title` makes it.
        facts: what was run: model, kernel, seed, time and the like come first and
            others are folded up; versions of libraries go to the foot.
        notes: warnings of the run, one sentence or two each.
        citation: BibTeX of the works behind it (:func:`pyro_geo.citation`).
        tables: further tables by caption, such as scores: a frame, a list of mappings
            or a list of rows of which the first is the header.
        curves: pictures of lines, after the tables.
        bars: pictures of bars, after the curves.
        scatters: pictures of pairs about the line of equal ones, before the bars.
        images: small pictures side by side, after the bars.
        chain_name: what a chain stands for, where it is not a Markov chain.
        series: states over time that the draws imply, with a group `filtered`; pictured
            after the curves.
        places: positions that the reports of a filter stand for, `(series, time,
            axes)`, where they are no positions themselves.
        modes: where modes are and chains started, for the picture of a run that
            started in known modes.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from pyro_geo.io.arviz import to_arviz
        >>> draws = np.random.default_rng(0).normal(size=(4, 100))
        >>> idata = to_arviz({"posterior": {"w": draws}})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_report(
        ...         idata, f"{folder}/report.html", title="A run", facts={"seed": "1"}
        ...     )
        ...     print(path.name, path.read_text("utf-8")[:15])
        report.html <!doctype html>
    """
    check(not Path(path).is_dir(), "path", str(path), "the name of a file, no folder")
    tables = further_tables(tables)
    groups = ("posterior", "sample_stats", "particles", "filtered")
    posterior, stats, particles, filtered = (
        None if idata is None else get_group(idata, name) for name in groups
    )
    page = html.Page(list(notes))
    if posterior is not None:
        lines = "chain" if particles is not None else chain_name
        _count_lost(page, posterior, stats, facts, lines)
        posterior, stats = _thinned(page, posterior, stats, lines)
        if posterior.sizes["draw"]:
            count_draws(page, posterior, lines, weighted=particles is not None)
    elif filtered is None and stats is not None and 0 not in stats.sizes.values():
        count_flags(page, stats)
    if particles is not None:
        _count_particles(page, particles, chain_name)
    count_tables(page, tables)
    page.add("Tables", *(html.table(rows, text) for text, rows in tables.items()))
    page.add("Curves", *(one.figure() for one in curves))
    page.add(
        "Comparison",
        *(one.figure() for one in scatters),
        *(one.figure() for one in bars),
    )
    page.add("Pictures", *(one.figure() for one in images))
    if series is not None and (states := get_group(series, "filtered")) is not None:
        numbers, reports = (
            get_group(series, name) for name in ("sample_stats", "observed_data")
        )
        add_series(page, states, numbers, reports, str(states["mean"].dims[0]))
    if filtered is not None and idata is not None:
        seen = get_group(idata, "observed_data")
        if seen is not None and places is not None:
            lead = filtered["mean"].dims[:2]
            seen = seen.assign(place=((*lead, "axis"), places))
        add_series(page, filtered, stats, seen, chain_name)
        stats = None
    if posterior is not None and particles is None:
        add_modes(page, posterior, stats, modes)
    if posterior is not None and posterior.sizes["chain"] * posterior.sizes["draw"]:
        weighted = None if particles is None else particles.compute()
        add_posterior(page, posterior, stats, chain_name, weighted)
    elif idata is not None and filtered is None and get_group(idata, "modes") is None:
        page.notes.append("There are no draws in this run.")
    if stats is not None and stats.data_vars and 0 not in stats.sizes.values():
        add_stats(page, stats)
    facts = {name: text for name, text in facts.items() if name not in HIDDEN}
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    when = f"Page written by pyro_geo {pyro_geo.__version__} on {now}."
    replace_file(path, page.render(title, facts, when, citation).encode())
    return Path(path)


def further_tables(tables: "Mapping[str, Rows] | None") -> "dict[str, Rows]":
    """Read the tables that a user adds to a page.

    Args:
        tables: as given, caption to table; None for none.

    Returns:
        The tables by caption. A table without a caption, or a list of them, is a
        :class:`~pyro_geo.errors.ConfigurationError`.

    Example:
        >>> further_tables({"scores": [["error"], [0.5]]})
        {'scores': [['error'], [0.5]]}
    """
    good = tables is None or isinstance(tables, Mapping)
    expected = 'captions and tables, as in {"Scores": frame}'
    check(good, "tables", type(tables).__name__, expected)
    return dict(tables or {})


def report(
    store: str | os.PathLike[str], path: str | os.PathLike[str] | None = None
) -> Path:
    """Write a report of the run in a store, which may be going on meanwhile.

    It shows the run at its last commit. Any process that can read the folder can make
    it; `python -m pyro_geo.report run.zarr` does the same.

    Args:
        store: folder that a run was given as `store`.
        path: the file to write; `run.html` beside a folder `run.zarr` if None.

    Returns:
        The path. A folder that is not a store is a
        :class:`~pyro_geo.errors.CheckpointError`.

    Example:
        >>> import tempfile
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro_geo.infer import HMC, MCMC
        >>> from pyro_geo.io import report
        >>> def model():
        ...     pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     options = {"store": f"{folder}/run.zarr", "progress_bar": False}
        ...     fit = MCMC(HMC(model), 100, 100, 4, seed=1, **options).run()
        ...     print(report(f"{folder}/run.zarr").name)
        run.html
    """
    store = Path(store)
    header = check_run(store)
    idata = open_run(store)
    groups = (get_group(idata, name) for name in ("posterior", "filtered"))
    facts = dict(next((g.attrs for g in groups if g is not None), {}))
    notes = [text for text in str(facts.pop("notes", "")).splitlines() if text]
    citation = str(facts.pop("citation", ""))
    if not header["finished"]:
        ended = "was interrupted" if facts.get("interrupted") else "is not finished"
        notes.insert(0, f"The run {ended}: it has {_progress(idata, header)}.")
    return write_report(
        idata,
        store.with_suffix(".html") if path is None else path,
        title=page_title(
            str(facts.get("kernel", "Run")),
            str(facts.get("model", store.name)),
            _sites(idata),
        ),
        facts=facts,
        notes=notes,
        citation=citation,
        chain_name=header.get("chain_name", "chain"),
    )


def search_curves(history: "ArrayLike") -> Curves:
    """Show how the instances of a search went on, for a report.

    Args:
        history: best log-density that each instance has seen so far, `(iterations,
            instances)`; minus infinity or NaN before the first finite one.

    Returns:
        A line for each instance: the nats that it is below the best of all, on a scale
        of `log10(1 + x)`.

    Example:
        >>> search_curves([[-11.0, -2.0], [-2.0, -2.0]]).lines
        {'instance 0': [1.0, 0.0], 'instance 1': [0.0, 0.0]}
    """
    import numpy as np

    values = np.asarray(history, dtype=float)
    finite = np.where(np.isfinite(values), values, np.nan)
    best = np.nanmax(finite) if np.isfinite(values).any() else 0.0
    below = np.log10(1.0 + best - finite)
    return Curves(
        "History of the search: the best log-density that each instance has seen. "
        "Instances that end above zero are in other basins than the best, or were "
        "stopped on their way.",
        list(range(1, len(values) + 1)),
        {f"instance {i}": line.tolist() for i, line in enumerate(below.T)},
        "iteration",
        "log10(1 + nats below the best)",
    )


def _sites(idata: "ArvizData") -> list[str]:
    """Names of the sites that a page shows."""
    posterior = get_group(idata, "posterior")
    return [] if posterior is None else [str(name) for name in posterior.data_vars]


def _progress(idata: "ArvizData", header: Mapping[str, Any]) -> str:
    """Tell how far a run is, by what a page shows: it may have gone on meanwhile."""
    planned = header["planned_draws"]
    posterior = get_group(idata, "posterior")
    done = 0 if posterior is None else posterior.sizes["draw"]
    if header["sample_dims"][1] == "time":
        return f"{header['num_draws']} of {planned} steps"
    if header["sample_dims"][1] != "stage":
        return f"{done} of {planned} draws per chain"
    before = get_group(idata, "stages")
    done = int(done > 0) + (0 if before is None else before.sizes["stage"])
    return f"{done} of {planned or 'an unknown number of'} stages"


def _thinned(
    page: html.Page,
    posterior: "xr.Dataset",
    stats: "xr.Dataset | None",
    chain_name: str,
) -> "tuple[xr.Dataset, xr.Dataset | None]":
    """Load as many draws as a page can show."""
    factor = -(-posterior.nbytes // _LARGEST)
    if factor > 1:
        draws, chains = posterior.sizes["draw"], posterior.sizes["chain"]
        by_draw = min(factor, max(1, draws // _FEWEST))
        by_chain = min(chains, -(-factor // by_draw))
        page.notes.append(
            f"The page shows every {by_draw}. draw of every {by_chain}. "
            f"{chain_name}: the run has {draws} draws of {chains}, "
            f"{posterior.nbytes / 1e9:.1f} GB."
        )
        rows = {
            "draw": slice(None, None, by_draw),
            "chain": slice(None, None, by_chain),
        }
        posterior = posterior.isel(rows)
        stats = None if stats is None else stats.isel(rows)
    return posterior.compute(), None if stats is None else stats.compute()


def _count_lost(
    page: html.Page,
    posterior: "xr.Dataset",
    stats: "xr.Dataset | None",
    facts: Mapping[str, object],
    chain_name: str,
) -> None:
    """Count what the run says of its chains, and the flags of all its draws."""
    chains = int(posterior.attrs.get("num_chains", posterior.sizes["chain"]))
    count_facts(page, facts, posterior.attrs, chains, chain_name)
    if stats is not None and 0 not in stats.sizes.values():
        count_flags(page, stats)


def _count_particles(page: html.Page, particles: "xr.Dataset", name: str) -> None:
    """Count the particles that have no weight at all."""
    weights = particles["log_weights"].values
    if bad := int((~(weights > -float("inf"))).sum()):
        page.lost.append(f"{bad:,} of {weights.size:,} {name}s have no weight.")
