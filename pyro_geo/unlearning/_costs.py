"""What each way to delete would cost, before any of them is run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_geo.density import Target

__all__ = ["Option", "draws_options", "guide_options", "point_options", "time_gradient"]

_SMC_STAGES, _SMC_MOVES = 4, 80  # stages of a path, gradients of a particle in each
_REFIT = (
    40  # gradients of a draw: trajectories of about 20 steps, and as many to warm up
)
_SVI_STEPS = 2000  # of a new guide
_POINTS = 256  # at which sites are averaged
_TOGETHER = 32  # gradients that are timed


@dataclass(frozen=True)
class Option:
    """One way to delete.

    Attributes:
        method: its name.
        possible: whether it can be used here.
        reason: why it is chosen, or why not.
        gradients: evaluations of the density of all data, with gradient, that it
            takes, about.
        seconds: about, by the time of one evaluation here; NaN where it is not known.
    """

    method: str
    possible: bool
    reason: str
    gradients: float
    seconds: float = float("nan")


def time_gradient(target: Target, q: Tensor) -> float:
    """Time one gradient of the density among many that are evaluated together.

    Args:
        target: the density.
        q: a position, `(dim,)`.

    Returns:
        Seconds for one, the shorter time of two.
    """
    rows = q.detach().to(target.device, target.dtype).expand(_TOGETHER, -1).clone()
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        target.value_and_grad(rows)
        taken.append(time.perf_counter() - start)
    return min(taken) / _TOGETHER


def draws_options(
    leverage: float, khat: float, limit: float, num_draws: int, seconds: float
) -> tuple[list[Option], str]:
    """List the rungs of deletion from draws.

    Args:
        leverage: of the forgotten data.
        khat: shape of the tail that is predicted.
        limit: largest shape to trust.
        num_draws: of the fit.
        seconds: of one gradient of all data.

    Returns:
        The options, and the name of the first rung to try.
    """
    said = f"predicted khat {khat:.2f}, trusted up to {limit:.2f}"
    sure = leverage < 1
    first = "psis" if khat <= limit else "moment_matching" if khat <= 1 else "smc"
    particles = min(num_draws, 2000)
    rows = [
        ("psis", sure and khat <= limit, said, 0.4 * num_draws),
        ("moment_matching", sure, said, 4.0 * num_draws),
        (
            "smc",
            sure,
            "tempered particles need no weights that can be trusted",
            float(particles * _SMC_STAGES * _SMC_MOVES),
        ),
        ("refit", True, "a new run on the retained data", float(_REFIT * num_draws)),
    ]
    return [Option(*row, seconds * row[3]) for row in rows], first


def guide_options(
    leverage: float, dim: int, share: float, seconds: float
) -> tuple[list[Option], str]:
    """List ways to delete from a guide.

    Args:
        leverage: of the forgotten data.
        dim: coordinates of the guide.
        share: of all data that is forgotten.
        seconds: of one gradient of all data.

    Returns:
        The options, and the name of the one to take.
    """
    said = f"leverage {leverage:.2f}"
    sites = _POINTS * min(dim, 512) * share + _POINTS
    rows = [
        (
            "delete_sites",
            leverage < 1,
            f"{said}; one step serves below 0.5",
            sites,
        ),
        (
            "delete_sites and polish",
            leverage < 1,
            f"{said}; SVI on the retained data follows from 0.5 on",
            sites + 200.0,
        ),
        ("refit", True, "a new guide on the retained data", float(_SVI_STEPS)),
    ]
    chosen = (
        "refit"
        if leverage >= 1
        else "delete_sites"
        if leverage < 0.5
        else "delete_sites and polish"
    )
    return [Option(*row, seconds * row[3]) for row in rows], chosen


def point_options(
    *,
    dim: int,
    stationary: bool,
    certify: Any,
    convex: bool,
    epochs: int,
    dense: bool,
    seconds: float,
) -> tuple[list[Option], str]:
    """List ways to delete from parameters.

    Args:
        dim: number of parameters.
        stationary: whether they are at a minimum.
        certify: epsilon and delta, or None.
        convex: whether the loss is, as the caller says.
        epochs: of training on the retained data.
        dense: whether the curvature fits as a matrix.
        seconds: of one gradient of all data.

    Returns:
        The options, and the name of the one to take.
    """
    minimum = "a minimum" if stationary else "no minimum"
    products = 2.0 * (dim if dense else 200)
    wanted = (
        "no certificate was asked for" if certify is None else "certified for any loss"
    )
    rows = [
        (
            "newton",
            certify is None and stationary,
            f"the parameters are at {minimum}" if certify is None else "not certified",
            products,
        ),
        (
            "finetune",
            certify is None,
            f"the parameters are at {minimum}" if certify is None else "not certified",
            float(epochs),
        ),
        (
            "certified_newton",
            certify is not None and convex,
            "certified, as the loss is convex"
            if convex
            else "the loss is not said to be convex",
            10 * products,
        ),
        (
            "certified_finetune",
            certify is not None,
            wanted,
            float(epochs) + 10,
        ),
        ("refit", True, "a new training on the retained data", float(10 * epochs)),
    ]
    if certify is None:
        chosen = "newton" if stationary else "finetune"
    else:
        chosen = "certified_newton" if convex else "certified_finetune"
    return [Option(*row, seconds * row[3]) for row in rows], chosen
