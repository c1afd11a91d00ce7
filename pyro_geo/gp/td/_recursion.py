"""Temporal differences one step at a time, on a dictionary of nodes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import get_lapack_funcs

__all__ = ["Carry", "Recursion"]

(_trtrs,) = get_lapack_funcs(("trtrs",), dtype=np.float64)


class Carry(NamedTuple):
    """What a step hands to the next one of its episode under noise of returns."""

    c: np.ndarray
    variance: float
    residual: float
    discount: float


class Recursion:
    r"""Posterior weights on a dictionary, updated by one transition after the other.

    Nodes are written as combinations :math:`a = \tilde K^{-1} \tilde k(x)` of those in
    the dictionary. A node whose value those leave more uncertain than `nu` is added.
    A Cholesky factor of :math:`\tilde K` is kept, and never its inverse, which loses
    digits when nodes are close to each other.

    Args:
        nu: least share of its prior variance that a node must add.
        noise: variance of the noise.
        returns: whether that is noise of returns.
        capacity: size of the arrays to begin with.
    """

    def __init__(
        self, nu: float, noise: float, *, returns: bool, capacity: int = 64
    ) -> None:
        self.nu, self.noise, self.returns = nu, noise, returns
        self.size = 0
        self._lower = np.zeros((capacity, capacity), order="F")
        self._covariance = np.zeros((capacity, capacity))
        self._weights = np.zeros(capacity)
        self.carry: Carry | None = None

    @property
    def weights(self) -> np.ndarray:
        r"""Weights :math:`\tilde\alpha` of the posterior mean, `(size,)`."""
        return self._weights[: self.size]

    @property
    def covariance(self) -> np.ndarray:
        r"""Matrix :math:`\tilde C` of the posterior covariance, `(size, size)`."""
        return self._covariance[: self.size, : self.size]

    def place(self, cross: np.ndarray, own: float) -> np.ndarray | None:
        """Write a node in the dictionary, or add it.

        Args:
            cross: its covariances with the dictionary, `(size,)`.
            own: its prior variance.

        Returns:
            Its coefficients, or None: it is the last member of the dictionary now.
        """
        m = self.size
        root = np.empty(0)
        if m:
            lower = self._lower[:m, :m]
            root, _ = _trtrs(lower, cross, lower=1)
            left = own - root @ root
            if left <= self.nu * own:
                return _trtrs(lower, root, lower=1, trans=1)[0]
        else:
            left = own
        if m == len(self._weights):
            self._grow()
        self._lower[m, :m] = root
        self._lower[m, m] = math.sqrt(left)
        self.size += 1
        return None

    def learn(
        self, h: np.ndarray, reward: float, discount: float
    ) -> tuple[float, float]:
        r"""Take a transition into account.

        Args:
            h: coefficients of node less discounted successor, `(size,)`.
            reward: less its prior mean.
            discount: of the step.

        Returns:
            The reward less its prediction from all before, and the variance of that.
        """
        m = self.size
        lower = self._lower[:m, :m]
        # K h, and not covariances with the nodes themselves: a coarse dictionary then
        # remains a model, and variances remain positive
        delta = lower @ (h @ lower)
        c = h - self.covariance @ delta
        d = reward - float(delta @ self.weights)
        s = self.noise + float(delta @ c)
        if self.returns:
            s += discount * discount * self.noise
            if self.carry is not None:
                # the visit between the two steps has one noise for both of them
                last = self.carry
                k = last.discount * self.noise / last.variance
                before = np.zeros(m)
                before[: len(last.c)] = k * last.c
                c = c + before
                d += k * last.residual
                s += 2 * float(delta @ before) - k * last.discount * self.noise
            self.carry = Carry(c, s, d, discount)
        self._weights[:m] += c * (d / s)
        self._covariance[:m, :m] += np.outer(c, c / s)
        return d, s

    def _grow(self) -> None:
        def wider(array: np.ndarray) -> np.ndarray:
            size = 2 * len(array)
            found = np.zeros((size,) * array.ndim, order="F")
            found[tuple(slice(n) for n in array.shape)] = array
            return found

        self._lower, self._covariance = wider(self._lower), wider(self._covariance)
        self._weights = wider(self._weights)
