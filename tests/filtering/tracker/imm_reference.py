"""An interacting multiple model filter in numpy, written out from its equations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


class Mixture(NamedTuple):
    weight: Array  # (dynamics,)
    mean: Array  # (dynamics, n)
    cov: Array  # (dynamics, n, n)


def velocity_model(q: float, dt: float) -> tuple[Array, Array]:
    """Give transition and noise of two axes, positions before velocities."""
    one = np.array([[1.0, dt], [0.0, 1.0]])
    noise = q * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
    return np.kron(one, np.eye(2)), np.kron(noise, np.eye(2))


def density(y: Array, mean: Array, cov: Array) -> float:
    gap = y - mean
    solved = np.linalg.solve(cov, gap)
    log = -0.5 * (gap @ solved + np.linalg.slogdet(2 * np.pi * cov)[1])
    return float(np.exp(log))


def merge(weight: Array, mean: Array, cov: Array) -> tuple[Array, Array]:
    centre = weight @ mean
    gap = mean - centre
    return centre, np.einsum("i,ijk->jk", weight, cov + gap[:, :, None] * gap[:, None])


def update(
    mean: Array, cov: Array, y: Array, H: Array, R: Array
) -> tuple[Array, Array, float]:
    S = H @ cov @ H.T + R
    gain = cov @ H.T @ np.linalg.inv(S)
    like = density(y, H @ mean, S)
    return mean + gain @ (y - H @ mean), cov - gain @ S @ gain.T, like


def imm_step(
    state: Mixture, switch: Array, q: Array, dt: float, y: Array, H: Array, R: Array
) -> tuple[Mixture, float]:
    """Mix, predict and update; give the log-evidence too."""
    count = len(q)
    prior = switch.T @ state.weight
    weight, mean, cov = np.zeros(count), [], []
    for j in range(count):
        share = switch[:, j] * state.weight / prior[j]
        m, C = merge(share, state.mean, state.cov)
        F, Q = velocity_model(q[j], dt)
        m, C, like = update(F @ m, F @ C @ F.T + Q, y, H, R)
        weight[j] = prior[j] * like
        mean.append(m)
        cov.append(C)
    total = weight.sum()
    return Mixture(weight / total, np.array(mean), np.array(cov)), float(np.log(total))
