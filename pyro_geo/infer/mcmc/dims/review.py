"""Warnings about finished draws and their anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_geo.errors import (
    ConvergenceWarning,
    DegenerateEnsembleWarning,
    DivergenceWarning,
    EnergyLedgerWarning,
    FallbackWarning,
    PyroGeoWarning,
)
from pyro_geo.geometry.laplace import Laplace
from pyro_geo.infer.mcmc.dims.options import DIMSOptions

__all__ = ["draw_warnings", "precision_warnings", "spread_warnings"]

_FAST = 10.0  # kinetic energy per dimension


def precision_warnings(laplaces: Sequence[Laplace]) -> list[PyroGeoWarning]:
    """Say where a Laplace precision was not positive definite.

    Args:
        laplaces: the approximations at the anchors.

    Returns:
        One warning, or none.
    """
    smallest = [float(laplace.smallest) for laplace in laplaces]
    bad = [i for i, value in enumerate(smallest) if not math.isnan(value)]
    if not bad:
        return []
    return [
        FallbackWarning(
            "a Laplace precision is indefinite",
            where=f"anchors {', '.join(map(str, bad[:8]))}",
            found=f"smallest eigenvalue {smallest[bad[0]]:.3g}",
            expected="a positive-definite Gauss-Newton matrix plus prior",
            todo="Nothing: sizes of eigenvalues were used, or unit variances "
            "where there is no minimum; or pass velocity='isotropic'.",
        )
    ]


def draw_warnings(
    stats: dict[str, Tensor], options: DIMSOptions, dim: int
) -> list[PyroGeoWarning]:
    """Count the draws that went wrong, one warning for each kind.

    Args:
        stats: name to `(chains, draws)`.
        options: the limits.
        dim: dimension of a draw.

    Returns:
        One warning per kind.
    """
    kinetic = stats["energy_initial"] - options.gravity * stats["loss_anchor"]
    limit = _FAST * dim
    checks: list[tuple[type[PyroGeoWarning], Tensor, str, str, str]] = [
        (
            DivergenceWarning,
            stats["diverging"],
            "trajectories stopped at a point without a usable step",
            "finite losses along the way",
            "look at their statistics; they stay among the draws, flagged",
        ),
        (
            EnergyLedgerWarning,
            stats["energy_error"].abs() > options.step_tol,
            "trajectories lost track of their energy",
            f"an energy_error of at most step_tol = {options.step_tol:g}",
            "lower step_tol or energy_atol, or use integrator='dopri5'",
        ),
        (
            ConvergenceWarning,
            stats["saddle"],
            "trajectories ended at saddles of the loss, or on a way down from one",
            "minima, where no direction of negative curvature leads down",
            "raise polish_max_steps (with polish=False there are no steps away from a "
            "saddle), or check that the loss has a minimum; `saddle` marks the draws",
        ),
        (
            ConvergenceWarning,
            ~stats["converged"] & ~stats["diverging"] & ~stats["saddle"],
            "trajectories did not come to rest at a minimum",
            "kinetic energy and predicted decrease within tolerance",
            "raise settle_time, max_evals or polish_max_steps; or, where the loss "
            "curves down at the anchor, accept the loss they report",
        ),
        (
            ConvergenceWarning,
            kinetic > limit,
            "trajectories start very fast",
            f"kinetic energies of at most 10 times the dimension ({limit:g})",
            "lower velocity_scale: the prior leaves directions almost free",
        ),
    ]
    warnings: list[PyroGeoWarning] = []
    for category, bad, what, expected, todo in checks:
        count = int(bad.sum())
        if count:
            text = f"{count} of {bad.numel()} draws"
            warnings.append(category(what, "DIMS", text, expected, todo))
    return warnings


def spread_warnings(
    stats: dict[str, Tensor], options: DIMSOptions, furthest: Tensor
) -> list[PyroGeoWarning]:
    """Say if every draw fell back on its anchor.

    Args:
        stats: name to `(chains, draws)`.
        options: the polish's tolerance.
        furthest: largest displacement in standard deviations of the Laplace
            approximation, `(chains,)`; NaN where unknown.

    Returns:
        One warning, or none.
    """
    # within this many standard deviations the polish cannot tell points apart
    blur = 2.0 * math.sqrt(2.0 * options.polish_tolerance)
    largest = float(stats["displacement"].nan_to_num(torch.inf).max())
    blurred = bool(stats["converged"].all()) and bool((furthest <= blur).all())
    if largest > 1e-3 and not blurred:
        return []
    return [
        DegenerateEnsembleWarning(
            "every draw fell back on its anchor",
            where="DIMS",
            found=f"largest displacement {largest:.3g}",
            expected="a set of minima, not an isolated one",
            todo="Use loss='nll', a weaker prior, or a posterior sampler.",
        )
    ]
