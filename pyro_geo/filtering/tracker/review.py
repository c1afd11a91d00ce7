"""What the user must know of how a run of the tracker went."""

from __future__ import annotations

from torch import Tensor

from pyro_geo.errors import (
    DegenerateCovarianceWarning,
    ImproperFloorError,
    NonFiniteMeasurementWarning,
    PyroGeoWarning,
    TrackLostWarning,
)
from pyro_geo.ops.arrays import to_numpy
from pyro_geo.results import Steps

__all__ = ["check_proper", "longest_refusal", "review"]

_LONGEST = 25  # reports that are refused in a row, before a track may be lost
_NAMED = 5


def longest_refusal(observed: Tensor, refused: Tensor) -> Tensor:
    """Count the most reports in a row that were refused, missing ones apart.

    Args:
        observed: where there is a report, `(tracks, time)`.
        refused: which of them were refused, `(tracks, time)`.

    Returns:
        `(tracks,)`.

    Example:
        >>> import torch
        >>> observed = torch.tensor([[True, True, False, True, True]])
        >>> refused = torch.tensor([[False, True, False, True, False]])
        >>> longest_refusal(observed, refused).tolist()
        [2]
    """
    total = refused.long().cumsum(1)
    # the count at the last report that was taken starts each run at zero
    taken = observed & ~refused
    before = (total * taken).cummax(1).values
    return (total - before).amax(1)


def review(steps: Steps) -> list[PyroGeoWarning]:
    """Look through the steps of a run.

    Args:
        steps: of the run, perhaps none.

    Returns:
        Warnings, none where all went well.
    """
    if not steps.num_steps:
        return []
    values = steps.read(["y", "p_nominal", "nonfinite", "late", "restarted"])
    found: list[PyroGeoWarning] = []
    if bool(values["nonfinite"].any()):
        found.append(
            NonFiniteMeasurementWarning(
                "reports were not finite and were left out",
                where=_places(values["nonfinite"]),
                found=f"{int(values['nonfinite'].sum())} infinite reports",
                expected="numbers, or NaN for a missing report",
                todo="Look at how the reports were made.",
            )
        )
    if bool(values["restarted"].any()):
        found.append(
            DegenerateCovarianceWarning(
                "a covariance degenerated, and its track began anew",
                where=_places(values["restarted"]),
                found=f"{int(values['restarted'].sum())} restarts",
                expected="positive-definite covariances",
                todo="Compare the scales of R and q; use float64.",
            )
        )
    observed = ~(values["y"].isnan().any(-1) | values["nonfinite"] | values["late"])
    longest = longest_refusal(observed, observed & (values["p_nominal"] < 0.5))
    if bool((longest > _LONGEST).any()):
        lost = to_numpy((longest > _LONGEST).nonzero().flatten()).tolist()
        names = ", ".join(map(str, lost[:_NAMED])) + (", ..." if lost[_NAMED:] else "")
        found.append(
            TrackLostWarning(
                "tracks may be lost",
                where=f"tracks {names}",
                found=f"up to {int(longest.max())} reports refused in a row",
                expected=f"at most {_LONGEST}",
                todo="Look at the ledger: either the sensor lied for so long, or the "
                "target moved otherwise than the dynamics say. Give faster dynamics, "
                "or keep=4, which undoes a wrong start.",
            )
        )
    return found


def check_proper(proper: bool, where: str) -> None:
    """Refuse an evidence where the reports have no density.

    Args:
        proper: whether they have one.
        where: what asked for it.

    Raises:
        ImproperFloorError: they have none.
    """
    if not proper:
        raise ImproperFloorError(
            "the reports have no density",
            where=where,
            found="a mode with a floor relative to the peak, `rel`",
            expected="modes whose densities integrate to one",
            todo="Use Random(clutter=...) or Random() in place of Random(rel=...).",
        )


def _places(flags: Tensor) -> str:
    """Name the first few steps that have a flag."""
    places = to_numpy(flags.nonzero()).tolist()
    named = [f"track {track} step {step}" for track, step in places[:_NAMED]]
    return "; ".join([*named, *(["..."] if places[_NAMED:] else [])])
