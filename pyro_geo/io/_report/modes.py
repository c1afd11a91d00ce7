"""The part of a report about chains that started in known modes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_geo.io._report import html
from pyro_geo.io._report.components import columns, component_name, finite
from pyro_geo.io._report.style import COLOURS, draw, legend, shorten
from pyro_geo.io.modes import ModeFacts, ModeMarks, ModeTally, tally_modes

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["add_modes"]

_SHOWN = 1500  # draws in the picture
_COMPONENTS = 300  # looked at for those that tell modes apart
_NAMED = len(COLOURS)


def add_modes(
    page: html.Page,
    posterior: "xr.Dataset",
    stats: "xr.Dataset | None",
    marks: ModeMarks | None = None,
) -> None:
    """Say what was searched, what each mode kept, and picture the modes.

    Args:
        page: the page to add to.
        posterior: draws.
        stats: of the draws, their modes among them; nothing is added without.
        marks: where modes are and chains started, where that is known.
    """
    facts = ModeFacts.read(posterior.attrs)
    if facts is None or stats is None or "mode" not in stats or not stats["mode"].size:
        return
    labels = np.asarray(stats["mode"].values, dtype=int)
    if len(facts.chains) != len(labels):  # a page that shows some chains alone
        shown = np.asarray(stats["chain"].values, dtype=int)
        facts = facts._replace(chains=facts.chains[shown])
    tally = tally_modes(labels, facts)
    apart = len(tally.sets)
    page.card("modes given", len(facts.weights))
    page.card("sets of modes not joined", apart if apart > 1 else 0, alert=apart > 1)
    parts = [
        html.table(tally.rows, "Modes: weight before the run, and draws in the run"),
        html.paragraph(
            f"Searched: {facts.searched}. A mode that the search has missed is not "
            "here, and R-hat cannot show it."
        ),
    ]
    if apart > 1:
        parts.append(
            html.paragraph(
                "No chain connects these sets of modes, so that the share of draws in "
                "each is that of the chains that started there: "
                + " | ".join(" ".join(map(str, members)) for members in tally.sets)
                + "."
            )
        )
    parts.append(_plane(posterior, labels, facts, tally, marks))
    page.add("Modes", *parts)


def _plane(
    posterior: "xr.Dataset",
    labels: np.ndarray,
    facts: ModeFacts,
    tally: ModeTally,
    marks: ModeMarks | None,
) -> str:
    """Picture draws by mode in the plane of the components that tell modes apart."""
    axes = _separating(posterior, labels)
    if len(axes) < 2:
        return ""
    names = [component_name(posterior[site], column) for site, column in axes]
    flat = labels.ravel()
    rows = np.arange(flat.size)[:: max(1, -(-flat.size // _SHOWN))]
    plane = np.stack(
        [columns(posterior[site])[..., column].ravel()[rows] for site, column in axes],
        1,
    )
    centres = starts = None
    if marks is not None:
        centres, starts = _marked(marks.modes, axes), _marked(marks.starts, axes)
    png = _draw_plane(plane, flat[rows], facts, tally, names, centres, starts)
    told = "" if centres is None else " Stars: modes. Rings: where chains started."
    caption = (
        f"Draws by mode, in the plane of the two components that tell modes apart best."
        f"{told} Weight before the run and share of draws in the legend."
    )
    return html.figure(
        png,
        f"{len(facts.weights)} modes in the plane of {names[0]} and {names[1]}.",
        caption,
    )


def _separating(
    posterior: "xr.Dataset", labels: np.ndarray
) -> Sequence[tuple[str, int]]:
    """The two components whose variance between modes is largest beside that within."""
    known = np.unique(labels[labels >= 0])
    found: list[tuple[float, str, int]] = []
    for name, array in posterior.data_vars.items():
        values = columns(array)[..., : _COMPONENTS - len(found)]
        for column in range(values.shape[-1]):
            x = values[..., column]
            good = finite(x)
            groups = [x[(labels == k) & good] for k in known]
            groups = [group for group in groups if len(group) > 1]
            if not groups:
                continue
            within = float(np.mean([group.var() for group in groups]))
            between = float(np.var([group.mean() for group in groups]))
            score = between / within if within > 0 else 0.0
            found.append((score, str(name), column))
    found.sort(key=lambda part: -part[0])
    return [(name, column) for _, name, column in found[:2]]


def _marked(
    values: Mapping[str, np.ndarray], axes: Sequence[tuple[str, int]]
) -> np.ndarray | None:
    """Components of marked points, `(points, 2)`; None where a site is not known."""
    if any(site not in values for site, _ in axes):
        return None
    return np.stack(
        [
            values[site].reshape(len(values[site]), -1)[:, column]
            for site, column in axes
        ],
        1,
    )


def _draw_plane(
    plane: np.ndarray,
    labels: np.ndarray,
    facts: ModeFacts,
    tally: ModeTally,
    names: Sequence[str],
    centres: np.ndarray | None,
    starts: np.ndarray | None,
) -> bytes:
    heaviest = np.argsort(-facts.weights, kind="stable")

    def paint(figure: "Figure") -> None:
        ax = figure.subplots()
        none = labels < 0
        ax.scatter(*plane[none].T, s=6, color="#b8bec6", linewidths=0)
        for rank, k in enumerate(heaviest.tolist()):
            x = plane[labels == k]
            name = f"{k}: {facts.weights[k]:.3f}, {tally.shares[k]:.3f}"
            label = name if rank < _NAMED else None
            color = COLOURS[rank % _NAMED]
            ax.scatter(*x.T, s=8, color=color, alpha=0.5, linewidths=0, label=label)
            if starts is not None:
                own = starts[: len(facts.chains)][facts.chains == k]
                ax.scatter(
                    *own.T, s=34, facecolors=color, edgecolors="black", linewidths=1.0
                )
            if centres is not None:
                size = 60 + 240 * facts.weights[k]
                ax.scatter(
                    *centres[k], s=size, marker="*", color=color, edgecolors="black"
                )
        legend(figure, ax, "mode: weight, share of draws")
        ax.set_xlabel(shorten(names[0]))
        ax.set_ylabel(shorten(names[1]))

    return draw(4.8, paint)
