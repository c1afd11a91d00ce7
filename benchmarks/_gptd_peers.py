"""The peers: temporal differences with a Gaussian process, and LSTD, in NumPy."""

from typing import NamedTuple

import numpy as np
import scipy.linalg

Array = np.ndarray


class Hyperparameters(NamedTuple):
    """What both sides are given; nothing is learned in a comparison of cost."""

    lengthscale: Array
    outputscale: float
    noise: float
    mean: float


def matern(a: Array, b: Array, h: Hyperparameters) -> Array:
    """Matern-5/2 covariances, by one matrix product and in place."""
    a, b = a / h.lengthscale, b / h.lengthscale
    u = a @ (-10 * b.T)
    u += 5 * (a * a).sum(1)[:, None]
    u += 5 * (b * b).sum(1)
    np.maximum(u, 0, out=u)
    np.sqrt(u, out=u)
    decay = np.exp(-u)
    decay *= h.outputscale
    k = u / 3
    k += 1
    k *= u
    k += 1
    k *= decay
    return k


def engel(
    path: Array, reward: Array, gamma: float, new: Array, h: Hyperparameters
) -> tuple[Array, Array]:
    """Condition on one path by a dense Cholesky factor; noise of rewards.

    Engel, Mannor & Meir (2003). The kernel is evaluated once on the visits, and rows
    and columns are differenced, which is the fastest way known to us.
    """
    k = matern(path, path, h)
    k = k[:-1] - gamma * k[1:]
    k = k[:, :-1] - gamma * k[:, 1:]
    k[np.diag_indices(len(k))] += h.noise
    lower = scipy.linalg.cholesky(k, lower=True, overwrite_a=True, check_finite=False)
    residual = reward - (1 - gamma) * h.mean
    weights = scipy.linalg.cho_solve((lower, True), residual, check_finite=False)
    cross = matern(new, path, h)
    cross = cross[:, :-1] - gamma * cross[:, 1:]
    white = scipy.linalg.solve_triangular(
        lower, cross.T, lower=True, check_finite=False
    )
    return h.mean + cross @ weights, h.outputscale - (white * white).sum(0)


def lstd(
    path: Array, reward: Array, gamma: float, new: Array, centres: Array, width: float
) -> Array:
    """Solve for the fixed point LSTD(0) with radial features; no variances."""

    def features(x: Array) -> Array:
        square = (x * x).sum(1)[:, None] - 2 * x @ centres.T + (centres**2).sum(1)
        return np.exp(-0.5 * square / width**2)

    phi = features(path)
    system = phi[:-1].T @ (phi[:-1] - gamma * phi[1:])
    system += 1e-6 * len(reward) * np.eye(len(centres))
    return features(new) @ np.linalg.solve(system, phi[:-1].T @ reward)
