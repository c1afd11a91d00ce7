"""The length of a standard normal vector, and its quantiles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_geo.distributions.bounded.radial import Radial
from pyro_geo.ops.special import log_gammainc, log_gammainc_pair, log_gammaincc

__all__ = ["NormalRadial"]

_SMALL = 1e-250  # below this torch's lower incomplete gamma loses its digits
_TERMS = 24  # of the series that stands in for it
_HALF = math.log(0.5)
_STEPS = {False: 3, True: 5}  # of Halley's method: fast or in the far tails


class NormalRadial(Radial):
    r"""A standard normal base: :math:`r^2` is chi-squared.

    Args:
        dim: number of dimensions.

    Example:
        >>> NormalRadial(2).log_tail(torch.tensor(2.0))  # -r^2 / 2
        tensor(-2.)
    """

    def log_density(self, r2: Tensor) -> Tensor:
        """Log-density of a standard normal vector of squared length `r2`."""
        return -0.5 * r2 - 0.5 * self.dim * math.log(2 * math.pi)

    def log_mass(self, radius: Tensor) -> Tensor:
        """Logarithm of the probability of a ball."""
        return log_gammainc(0.5 * self.dim, 0.5 * radius.square())

    def log_tail(self, radius: Tensor) -> Tensor:
        """Logarithm of the probability outside a ball."""
        return log_gammaincc(0.5 * self.dim, 0.5 * radius.square())

    def log_shares(self, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of a ball and of what is outside."""
        return log_gammainc_pair(0.5 * self.dim, 0.5 * radius.square())

    def log_normalizer(self, radius: Tensor, kappa: float = 0.0) -> Tensor:
        """Logarithm of the mean of the field under the base."""
        if kappa:
            return super().log_normalizer(radius, kappa)
        return self.log_mass(radius)

    def second_moment(self, radius: Tensor, kappa: float = 0.0) -> Tensor:
        """Mean of the squared radius on the ball."""
        if kappa:
            return super().second_moment(radius, kappa)
        x = 0.5 * radius.square()
        ratio = log_gammainc(0.5 * self.dim + 1, x) - log_gammainc(0.5 * self.dim, x)
        return self.dim * torch.exp(ratio)

    def mean_log_density(self, radius: Tensor, kappa: float = 0.0) -> Tensor:
        """Mean of the log-density of the base on the ball."""
        return self.log_density(self.second_moment(radius, kappa))

    def radius_of(self, log_mass: Tensor, log_tail: Tensor) -> Tensor:
        """Radius of the ball of a given mass, twice differentiable."""
        return self._solve(log_mass.double(), log_tail.double(), exact=True).to(
            log_mass.dtype
        )

    def _solve(self, log_p: Tensor, log_q: Tensor, exact: bool) -> Tensor:
        if self.dim == 1:
            return _normal_length(log_p, log_q)
        if self.dim == 2:
            return _planar_length(log_p, log_q)
        a = 0.5 * self.dim
        with torch.no_grad():
            log_x = _search(a, log_p.detach(), log_q.detach(), exact).detach()
        # Two differentiated steps of Newton's method: one would give the first
        # derivative of the solution, two give the second as well.
        lower = log_p < _HALF
        for _ in range(2):
            x = torch.exp(log_x)
            found_p, found_q = log_gammainc_pair(a, x)
            log_slope = _log_slope(a, log_x, x)
            up = (log_p - found_p) * torch.exp(found_p - log_slope)
            down = (found_q - log_q) * torch.exp(found_q - log_slope)
            log_x = log_x + torch.where(lower, up, down)
        return _radius(log_x)

    def quantile(
        self, log_p: Tensor, log_q: Tensor, radius: Tensor, kappa: float = 0.0
    ) -> Tensor:
        """Radius below which a point of the ball lies with a given probability."""
        if kappa:
            return super().quantile(log_p, log_q, radius, kappa)
        parts = self._of_base(log_p.double(), log_q.double(), radius.double())
        return self._solve(*parts, exact=False).to(log_p.dtype)

    def shares(
        self, r: Tensor, radius: Tensor, kappa: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Probabilities of lying closer than `r` in the ball, and further out."""
        if kappa:
            return super().shares(r, radius, kappa)
        total, beyond = self.log_shares(radius)
        inner, outer = self.log_shares(r)
        further = torch.exp(outer - total) * -torch.expm1(beyond - outer)
        return torch.exp(inner - total), further

    def draw(self, u: Tensor, radius: Tensor, kappa: float = 0.0) -> Tensor:
        """Radii at uniform numbers, differentiable once in the radius of the ball."""
        if kappa:
            return super().draw(u, radius, kappa)
        log_p, log_q = self._of_base(torch.log(u), torch.log1p(-u), radius.double())
        if self.dim <= 2:  # closed forms
            return self._solve(log_p, log_q, exact=False).to(radius.dtype)
        return self._drawn(log_p, log_q).to(radius.dtype)

    def _of_base(
        self, log_p: Tensor, log_q: Tensor, radius: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Turn probabilities in the ball into those under the base."""
        # P(r) = p P(radius) and Q(r) = q + p Q(radius)
        mass, tail = self.log_shares(radius)
        return log_p + mass, torch.logaddexp(log_q, log_p + tail)

    def _drawn(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        a = 0.5 * self.dim
        with torch.no_grad():
            log_x = _search(a, log_p.detach(), log_q.detach(), exact=False).detach()
            log_slope = _log_slope(a, log_x, torch.exp(log_x))
        lower = log_p < _HALF
        # the implicit function theorem: what follows is zero, with its derivative
        up = (log_p - log_p.detach()) * torch.exp(log_p.detach() - log_slope)
        down = (log_q.detach() - log_q) * torch.exp(log_q.detach() - log_slope)
        return _radius(log_x + torch.where(lower, up, down))


def _radius(log_x: Tensor) -> Tensor:
    """The radius where `r^2 / 2` is given by its logarithm."""
    return torch.exp(0.5 * (log_x + math.log(2)))


def _log_slope(a: float, log_x: Tensor, x: Tensor) -> Tensor:
    """Logarithm of `d P / d log x`."""
    return a * log_x - x - math.lgamma(a)


def _normal_length(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Quantile of the absolute value of a standard normal number."""
    lower = log_p < _HALF
    inner = torch.exp(torch.where(lower, log_p, _HALF))
    outer = torch.exp(torch.where(lower, _HALF, log_q))
    central = math.sqrt(2) * torch.special.erfinv(inner)
    return torch.where(lower, central, -torch.special.ndtri(0.5 * outer))


def _planar_length(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Quantile of the length of a standard normal vector in the plane."""
    lower = log_p < _HALF
    inner = torch.exp(torch.where(lower, log_p, _HALF))
    return torch.sqrt(-2 * torch.where(lower, torch.log1p(-inner), log_q))


def _search(a: float, log_p: Tensor, log_q: Tensor, exact: bool) -> Tensor:
    """Find `log x` where `P(a, x)` and `Q(a, x)` have these logarithms.

    Args:
        a: shape.
        log_p: logarithm of the lower probability.
        log_q: logarithm of the upper one.
        exact: whether to use our own functions, dearer and good in all tails.

    Returns:
        The logarithm, to rounding.
    """
    lower = log_p < _HALF
    log_x = _start(a, log_p, log_q, lower)
    tails = _exact_tails if exact else _fast_tails
    for _ in range(_STEPS[exact]):
        x = torch.exp(log_x)
        found_p, found_q = tails(a, log_x, x)
        log_slope = _log_slope(a, log_x, x)
        # f = log P, or -log Q: f' = slope / P and f'' = f' (a - x -+ f')
        excess = torch.where(lower, found_p - log_p, log_q - found_q)
        first = torch.exp(log_slope - torch.where(lower, found_p, found_q))
        bend = a - x + torch.where(lower, -first, first)
        step = excess / first
        log_x = log_x - step / (1 - 0.5 * step * bend).clamp(min=0.5)
    return log_x


def _start(a: float, log_p: Tensor, log_q: Tensor, lower: Tensor) -> Tensor:
    """First guess: the first terms of the series, or Wilson and Hilferty's."""
    log_x = (log_p + math.lgamma(a + 1)) / a
    log_x = log_x + torch.exp(log_x) / (a + 1)
    inner = torch.exp(torch.where(lower, log_p, _HALF))
    outer = torch.exp(torch.where(lower, _HALF, log_q).clamp(min=-700.0))
    score = torch.where(lower, torch.special.ndtri(inner), -torch.special.ndtri(outer))
    root = 1 - 1 / (9 * a) + score / (3 * math.sqrt(a))
    cubic = math.log(a) + 3 * torch.log(root.clamp(min=0.1))
    # where the first errs less than the second, whatever `a` is
    return torch.where(root < 0.55, log_x, cubic)


def _exact_tails(a: float, log_x: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return log_gammainc_pair(a, x)


def _fast_tails(a: float, log_x: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    shape = torch.full_like(x, a)
    p = torch.special.gammainc(shape, x)
    # Where `p` underflows, `x` is far below `a`: a few terms, the rest as geometric.
    series = 1 / (1 - x / (a + _TERMS + 1)).clamp(min=0.1)
    for k in range(_TERMS, 0, -1):
        series = 1 + x / (a + k) * series
    log_series = a * log_x - x - math.lgamma(a + 1) + torch.log(series)
    log_p = torch.where(p > _SMALL, torch.log(p.clamp(min=_SMALL)), log_series)
    return log_p, torch.log(torch.special.gammaincc(shape, x).clamp(min=1e-300))
