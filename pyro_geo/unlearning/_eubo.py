r"""The EUBO of a normal distribution, and its descent by natural gradients.

.. math:: E_q \log p(F \mid \theta) + KL(q \| q_0)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from pyro_geo.errors import LeverageError, NotPositiveDefiniteError
from pyro_geo.geometry.matrices import Diagonal, PositiveDefinite
from pyro_geo.infer.fits.precisions import factored, variances_of
from pyro_geo.unlearning._curvature import Kind, averages
from pyro_geo.unlearning._local import chi_square_quantile
from pyro_geo.unlearning._parts import Parts

__all__ = ["Eubo", "Family", "Normal", "change_of"]

_CLOSE = 1e-6  # change of the mean, in standard deviations, and of the precision
_SHORTEST = 1e-6  # step of the iteration


@dataclass(frozen=True)
class Normal:
    loc: Tensor
    precision: PositiveDefinite


class Family:
    """Steps in the natural parameters of a family of normal distributions.

    Args:
        diagonal: whether coordinates are independent.
    """

    def __init__(self, diagonal: bool) -> None:
        self.diagonal = diagonal

    def step(
        self, start: Normal, now: Normal, slope: Tensor, curved: Tensor, rate: float
    ) -> Normal:
        """Take the sites of what goes, as they are at `now`, out of the start."""
        # the mean from differences: natural parameters of large precision cancel
        pull = start.precision.matvec((start.loc - now.loc)[None])[0] - slope
        if isinstance(now.precision, Diagonal) and self.diagonal:
            old, first = (x.precision.scale.square() for x in (now, start))  # type: ignore[union-attr]
            new = (1 - rate) * old + rate * (first - curved.diagonal())
            if not bool((new > 0).all()):
                _too_much(float((curved.diagonal() / first).max()))
            return Normal(now.loc + rate * pull / new, Diagonal(new.sqrt()))
        old, first = now.precision.dense(), start.precision.dense()
        try:
            new = factored((1 - rate) * old + rate * (first - curved))
        except NotPositiveDefiniteError:
            _too_much(float("nan"))
        return Normal(now.loc + rate * new.solve(pull[None])[0], new)


class Eubo:
    """Descent of the EUBO by its natural gradient, with points that stay the same.

    Args:
        parts: the density.
        family: of the distributions.
        start: the guide.
        noise: points to average over, `(points, dim)`.
        kind: of the curvature.
        cutoff: mass of the start where what goes is not looked at.
    """

    def __init__(
        self,
        parts: Parts,
        family: Family,
        start: Normal,
        noise: Tensor,
        kind: Kind,
        cutoff: float,
    ) -> None:
        self.parts, self.family, self.start = parts, family, start
        self.noise = noise
        self.kind: Kind = kind
        # far out, where the start has no mass, the likelihood would decide
        inside = torch.tensor(1 - cutoff, dtype=torch.float64)
        radius = float(chi_square_quantile(inside, float(noise.shape[1])))
        self.radius = radius if cutoff else math.inf

    def run(self, steps: int, step_size: float) -> tuple[Normal, int, float]:
        """Step until nothing changes.

        Args:
            steps: at most.
            step_size: of a step at most.

        Returns:
            The distribution, the steps made, and the change made by the last one.
        """
        state, rate, change = self.start, step_size, math.inf
        value = self._value(state)
        for done in range(1, steps + 1):
            q, share = self._points(state)
            if not share:
                break
            slope, curved = (share * x for x in averages(self.parts, q, self.kind))
            found = self._shorter(state, value, slope, curved, rate)
            if found is None:  # no step is short enough to tell from rounding
                return state, done, change
            new, value, rate = found
            state, change = new, change_of(state, new)
            if change <= _CLOSE * rate:
                return state, done, change
            rate = min(2 * rate, step_size)
        return state, steps, change

    def _shorter(
        self, state: Normal, value: float, slope: Tensor, curved: Tensor, rate: float
    ) -> tuple[Normal, float, float] | None:
        """Halve a step until the EUBO falls."""
        while rate > _SHORTEST:
            try:
                new = self.family.step(self.start, state, slope, curved, rate)
                lower = self._value(new)
                if lower <= value:
                    return new, lower, rate
            except LeverageError:  # sites at a wider distribution hold more
                pass
            rate = 0.5 * rate
        return None

    def _points(self, state: Normal) -> tuple[Tensor, float]:
        """Points inside the mass of the start, and their share of all."""
        q = state.loc + state.precision.sample_inverse(self.noise)
        inside = self.start.precision.norm(q - self.start.loc).square() < self.radius
        return q[inside], float(inside.double().mean())

    def _value(self, state: Normal) -> float:
        """The EUBO, up to a constant."""
        q, share = self._points(state)
        goes = share * float(self.parts.forgotten_at(q).mean()) if share else 0.0
        apart = (state.loc - self.start.loc)[None]
        # KL of two normal distributions, without what the start alone adds
        ratio = state.precision.solve(self.start.precision.dense()).trace()
        pull = self.start.precision.norm(apart)[0].square()
        return float(goes + 0.5 * (ratio + pull + state.precision.logdet()))


def _too_much(found: float) -> NoReturn:
    raise LeverageError(
        "the data to forget hold more information than the fit",
        where="delete_sites",
        found=f"a precision that is not positive, leverage {found:.3g}",
        expected="a precision that stays positive definite",
        todo="Take a smaller step_size, or refit without these data.",
    )


def change_of(old: Normal, new: Normal) -> float:
    """Largest change of a mean or a standard deviation, in standard deviations."""
    sd = variances_of(old.precision).sqrt()
    wider = (variances_of(new.precision).sqrt() / sd - 1).abs()
    return float(torch.maximum(((new.loc - old.loc) / sd).abs(), wider).max())
