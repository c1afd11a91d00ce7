"""Tomography of a qubit whose measurements come in batches, some of which are bad.

Posteriors on a grid of the Bloch ball, flat before the data. A batch measures one Pauli
axis. A bad one has all outcomes flipped, is saturated, or sees nothing but background.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyro.distributions as dist
import torch
from _bench import Row
from _tracking_common import rows
from _tracking_rules import Array
from _tracking_scenes import stream
from torch import Tensor

from pyro_geo.distributions import BoundedLikelihood, density_power_factor, tempered

BATCHES, SHOTS = 60, 40
BAD = {"clean": 0.0, "flip": 0.15, "saturate": 0.15, "dark": 0.25}
STATES = tuple(range(100, 140))
SIDE = 81  # points of the grid along an axis

Factor = Callable[[Tensor, Tensor], Tensor]


def batches(case: str, seed: int) -> tuple[Array, Array]:
    """Simulate the counts of "up" of all batches; batch `k` measures axis `k % 3`.

    Args:
        case: one of `BAD`.
        seed: of the state and its batches.

    Returns:
        Bloch vector `(3,)` and counts `(batches,)`.
    """
    rng = stream(seed, "qubit")
    direction = rng.normal(size=3)
    bloch = rng.uniform(0.9, 0.99) * direction / np.linalg.norm(direction)
    up = (1 + bloch[np.arange(BATCHES) % 3]) / 2
    counts = rng.binomial(SHOTS, up)
    # every axis keeps the same share of bad batches
    worst = stream(seed, "qubit", "bad").permutation(BATCHES)
    bad = worst < round(BAD[case] * BATCHES)
    background = rng.binomial(SHOTS, 0.5, BATCHES)
    false = {"flip": SHOTS - counts, "saturate": SHOTS + 0 * counts}
    counts = np.where(bad, false.get(case, background), counts)
    return bloch, counts.astype(float)


def outcome(up: Tensor) -> dist.Categorical:
    """Distribution of the count of a batch."""
    counts = torch.arange(SHOTS + 1.0, dtype=up.dtype)
    law = dist.Binomial(SHOTS, up[..., None], validate_args=False)
    return dist.Categorical(logits=law.log_prob(counts), validate_args=False)


def clutter() -> dist.Categorical:
    """All counts alike."""
    return dist.Categorical(logits=torch.zeros(SHOTS + 1, dtype=torch.float64))


FACTORS: dict[str, Factor] = {
    "Bayes": lambda up, n: outcome(up).log_prob(n),
    "tempered, 0.5": lambda up, n: tempered(outcome(up), n, 0.5),
    "density power, 0.3": lambda up, n: density_power_factor(outcome(up), n, 0.3),
    "BoundedLikelihood, 0.15": lambda up, n: BoundedLikelihood(
        outcome(up), clutter(), 0.15
    ).log_prob(n),
}


def infidelity(a: Array, b: Array) -> float:
    """One minus the fidelity of two states."""
    mixed = np.sqrt(max(0.0, 1 - a @ a) * max(0.0, 1 - b @ b))
    return float(0.5 * (1 - a @ b - mixed))


def posterior(counts: Array, factor: Factor, points: Tensor) -> Tensor:
    """Posterior on the grid of the ball; it is a sum over axes before it is cut.

    Args:
        counts: of the batches.
        factor: log-factor of a count at a chance of "up".
        points: of one axis of the grid, `(side,)`.

    Returns:
        Probabilities, `(side, side, side)`.
    """
    up = ((1 + points) / 2).clamp(1e-9, 1 - 1e-9)[:, None]
    total: Tensor = torch.zeros(())
    for axis in range(3):
        n = torch.as_tensor(counts[axis::3])
        shape = [1, 1, 1]
        shape[axis] = -1
        total = total + factor(up, n).sum(1).reshape(shape)
    square = points.square()
    inside = square[:, None, None] + square[:, None] + square <= 1.0
    total = torch.where(inside, total, -torch.inf)
    return torch.softmax(total.flatten(), 0).reshape(total.shape)


def measure(quick: bool) -> Iterator[list[Row]]:
    """Report the four kinds of batch.

    Args:
        quick: few states and a coarse grid.

    Yields:
        The rows of each kind.
    """
    states = STATES[: 2 if quick else None]
    points = torch.linspace(-1, 1, 21 if quick else SIDE, dtype=torch.float64)
    nearest = points.numpy()
    for case in BAD:
        new = []
        for method, factor in FACTORS.items():
            lost, covered = [], []
            for seed in states:
                bloch, counts = batches(case, seed)
                prob = posterior(counts, factor, points)
                mean = [
                    prob.sum([a for a in range(3) if a != k]) @ points for k in range(3)
                ]
                lost.append(infidelity(bloch, np.array([float(m) for m in mean])))
                here = tuple(int(np.abs(nearest - b).argmin()) for b in bloch)
                covered.append(float(prob[prob > prob[here]].sum()) < 0.95)
            values = {"infidelity": np.median(lost), "coverage": np.mean(covered)}
            new += rows(f"qubit_{case}", method, values, {})
        yield [row | {"seeds": len(states)} for row in new]
