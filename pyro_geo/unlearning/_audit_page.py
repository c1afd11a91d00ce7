"""The page of an audit."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_geo.citations import citation
from pyro_geo.errors import ReferenceMismatchError
from pyro_geo.io.reports import Bars, Curves, page_title, write_report
from pyro_geo.unlearning._measures import Level
from pyro_geo.unlearning.trajectories import trajectories

if TYPE_CHECKING:
    from pyro_geo.unlearning.auditing import AuditReport

__all__ = ["write_page"]

_POINTS = 200  # of a curve
_LEVELS: dict[Level, str] = {
    0: "predictions",
    1: "parameters and gradients",
    2: "memories",
}
_COLUMNS = ["metric", "value", "null_median", "null_max", "ratio", "passes"]


def write_page(
    report: AuditReport, path: str | os.PathLike[str], title: str | None
) -> Path:
    """Write verdicts, a table for each reference and axis, and pictures.

    Args:
        report: what was found.
        path: the file.
        title: heading; named after the treatments if None.

    Returns:
        The path.
    """
    facts = {"treatments": ", ".join(report.policies) or "none"}
    notes: list[str] = []
    for axis in ("fidelity", "erasure"):
        facts[axis] = _verdict(report, axis, notes)
    for name, energy in report.energies.items():
        facts[f"forget energy, {name}"] = f"{energy:.3f} nats"
    tables: dict[str, Any] = {}
    by_both: Any = report.table.groupby(["reference", "axis"], sort=False)
    for (reference, axis), part in by_both:
        frame = part[_COLUMNS].set_index("metric")
        frame["passes"] = [_word(value) for value in frame["passes"]]
        tables[f"{str(axis).capitalize()}, {reference} counterfactual"] = frame
    curves = [*_spectra(report), *_scores(report), *_trajectories(report)]
    return write_report(
        None,
        path,
        title=title
        or page_title(
            "Audit of unlearning", ", ".join(report.policies) or "untreated memories"
        ),
        facts=facts,
        citation=citation(report),
        notes=notes,
        tables=tables,
        curves=curves,
        bars=_bars(report),
    )


def _verdict(report: AuditReport, axis: Any, notes: list[str]) -> str:
    try:
        levels = [
            f"{word}: {'passed' if report.passed(level, axis) else 'not passed'}"
            for level, word in _LEVELS.items()
            if ((report.table["axis"] == axis) & (report.table["level"] == level)).any()
        ]
    except ReferenceMismatchError as error:
        notes.append(str(error))
        return "cannot be judged"
    return "; ".join(levels)


def _word(passes: bool | None) -> str:
    return "no band" if passes is None else "yes" if passes else "NO"


def _thin(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Take evenly spread points of a sorted line, with their place from 0 to 1."""
    count = min(_POINTS, len(values))
    last = max(count - 1, 1)
    places = [i / last for i in range(count)]
    return places, [values[round(p * (len(values) - 1))] for p in places]


def _spectra(report: AuditReport) -> list[Curves]:
    lines, x = {}, []
    for name, values in report.spectra.items():
        x, line = _thin(values)
        lines[name] = [math.log10(value) for value in line]
    caption = "Eigenvalues of the memories above their floor."
    return [Curves(caption, x, lines, "share of the directions", "log10 eigenvalue")]


def _scores(report: AuditReport) -> list[Curves]:
    """Quantiles on the same places, whatever the numbers of gradients."""
    places = [i / 100 for i in range(101)]
    lines = {
        name: [values[round(p * (len(values) - 1))] for p in places]
        for name, values in report.scores.items()
        if values
    }
    caption = (
        "How large each memory is along gradients of forgotten data and of controls. "
        "A gap of the learner that its reference lacks is what it still remembers."
    )
    return [Curves(caption, places, lines, "quantile", "log Rayleigh quotient")]


def _trajectories(report: AuditReport) -> list[Curves]:
    if not report.rows:
        return []
    found = trajectories(report.rows)
    steps = found["step"].values.tolist()
    if len(steps) < 2:
        return []
    pictures = []
    for metric in ("trace", "effective_rank", "move"):
        if metric not in found["metric"].values:
            continue
        value = found["value"].sel(metric=metric)
        lines = {
            str(name): value.sel(treatment=name).values.tolist()
            for name in found["treatment"].values
        }
        label = metric.replace("_", " ")
        caption = f"The {label} of the memory after the deletion."
        pictures.append(Curves(caption, steps, lines, "step", label))
    return pictures


def _bars(report: AuditReport) -> list[Bars]:
    found = []
    counted: Any = report.table[report.table["counts"]].groupby("reference", sort=False)
    for reference, part in counted:
        both = zip(part["metric"].tolist(), part["ratio"].tolist(), strict=True)
        values = {name: ratio for name, ratio in both if math.isfinite(ratio)}
        if values:
            caption = (
                f"Distance from the {reference} counterfactual, over the median "
                "distance of counterfactuals with other seeds."
            )
            found.append(Bars(caption, values, "ratio to the null"))
    return found
