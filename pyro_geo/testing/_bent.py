"""Targets that no metric straightens: a funnel, a banana and two modes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.testing._known import HALF_LOG_TAU, Compile, KnownTarget

__all__ = ["BananaTarget", "FunnelTarget", "MixtureTarget"]


def _funnel(q: Tensor, scale: Tensor) -> Tensor:
    v, x = q[0], q[1:]
    neck = 0.5 * (v / scale) ** 2 + scale.log() + HALF_LOG_TAU
    return neck + 0.5 * ((-v).exp() * x * x + v).sum() + len(x) * HALF_LOG_TAU


class FunnelTarget(KnownTarget):
    r"""Neal's funnel: scales that differ by orders from one place to the next.

    .. math:: v \sim N(0, \sigma^2), \qquad x_i \mid v \sim N(0, e^{v})

    No single step size suits the neck and the mouth; a sampler that stays out of the
    neck gets the marginal of `v`, the first coordinate, wrong.

    Args:
        dim: length of a position, `v` included.
        scale: standard deviation of `v`.
        dtype: floating type, torch's default when left out.
        compile: see :class:`~pyro_geo.density.Target`.

    Raises:
        ConfigurationError: fewer than two dimensions, or a scale that is not positive.

    References:
        Neal (2003), Slice sampling, section 8.

    Example:
        >>> FunnelTarget(3).to_normal(torch.tensor([6.0, 0.0, 0.0])).tolist()
        [2.0, 0.0, 0.0]
    """

    def __init__(
        self,
        dim: int = 10,
        *,
        scale: float = 3.0,
        dtype: torch.dtype | None = None,
        compile: Compile = "auto",
    ) -> None:
        check(dim >= 2, "dim", dim, "at least 2")
        check(scale > 0, "scale", scale, "positive")
        # E exp(v) of v ~ N(0, s^2) is exp(s^2 / 2)
        variances = torch.full((dim,), math.exp(0.5 * scale**2), dtype=torch.float64)
        variances[0] = scale**2
        super().__init__(
            _funnel,
            dim,
            scale,
            mean=torch.zeros(dim),
            covariance=variances.diag(),
            dtype=dtype,
            compile=compile,
        )
        self.scale = float(scale)

    def sample(
        self, num_draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw independent positions, `(num_draws, dim)`."""
        z = self._normals(num_draws, generator)
        v = self.scale * z[:, :1]
        return torch.cat([v, (0.5 * v).exp() * z[:, 1:]], -1).to(self.dtype)

    def to_normal(self, q: Tensor) -> Tensor:
        """Divide each coordinate by its scale given the first, `(..., dim)`."""
        q = q.double()
        v = q[..., :1]
        return torch.cat([v / self.scale, (-0.5 * v).exp() * q[..., 1:]], -1)


def _banana(q: Tensor, scale: Tensor, bend: Tensor) -> Tensor:
    # the bend has Jacobian one
    straight = q[1] - bend * (q[0] ** 2 - scale**2)
    energy = (q[0] / scale) ** 2 + straight**2 + (q[2:] ** 2).sum()
    return 0.5 * energy + scale.log() + len(q) * HALF_LOG_TAU


class BananaTarget(KnownTarget):
    r"""A normal density bent along a parabola.

    .. math:: q_1 \sim N(0, s^2), \qquad q_2 \mid q_1 \sim N(b (q_1^2 - s^2), 1)

    and further standard normal coordinates. It is curved, so that no metric suits all
    places.

    Args:
        dim: length of a position.
        scale: standard deviation `s` of the first coordinate.
        bend: `b`.
        dtype: floating type, torch's default when left out.
        compile: see :class:`~pyro_geo.density.Target`.

    Raises:
        ConfigurationError: fewer than two dimensions, or a scale that is not positive.

    References:
        Haario, Saksman and Tamminen (1999), Adaptive proposal distribution for random
        walk Metropolis algorithm, section 4.

    Example:
        >>> BananaTarget(scale=2.0, bend=0.5).to_normal(torch.tensor([4.0, 7.0]))
        tensor([2., 1.], dtype=torch.float64)
    """

    def __init__(
        self,
        dim: int = 2,
        *,
        scale: float = 10.0,
        bend: float = 0.03,
        dtype: torch.dtype | None = None,
        compile: Compile = "auto",
    ) -> None:
        check(dim >= 2, "dim", dim, "at least 2")
        check(scale > 0, "scale", scale, "positive")
        variances = torch.ones(dim, dtype=torch.float64)
        variances[0] = scale**2
        variances[1] = 1 + 2 * bend**2 * scale**4  # var(q1^2) is 2 s^4
        super().__init__(
            _banana,
            dim,
            scale,
            bend,
            mean=torch.zeros(dim),
            covariance=variances.diag(),
            dtype=dtype,
            compile=compile,
        )
        self.scale, self.bend = float(scale), float(bend)

    def sample(
        self, num_draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw independent positions, `(num_draws, dim)`."""
        q = self._normals(num_draws, generator)
        q[:, 0] *= self.scale
        q[:, 1] += self.bend * (q[:, 0] ** 2 - self.scale**2)
        return q.to(self.dtype)

    def to_normal(self, q: Tensor) -> Tensor:
        """Straighten the banana, `(..., dim)`."""
        q = q.double().clone()
        q[..., 1] -= self.bend * (q[..., 0] ** 2 - self.scale**2)
        q[..., 0] /= self.scale
        return q


def _mixture(q: Tensor, centres: Tensor, log_weights: Tensor) -> Tensor:
    terms = log_weights - 0.5 * (q[0] - centres) ** 2
    rest = 0.5 * (q[1:] ** 2).sum() + len(q) * HALF_LOG_TAU
    return rest - terms.logsumexp(-1)


class MixtureTarget(KnownTarget):
    r"""Two normal components of unit covariance: two modes.

    .. math:: p(q) = w N(q; -\tfrac{a}{2} e_1, I) + (1 - w) N(q; \tfrac{a}{2} e_1, I)

    Up to a separation `a` of 2 there is one mode; from about 6 on chains that follow
    gradients stay in one mode, which the weights of the modes show.

    Args:
        dim: length of a position.
        separation: distance `a` of the centres.
        weight: `w`, of the component at negative values.
        dtype: floating type, torch's default when left out.
        compile: see :class:`~pyro_geo.density.Target`.

    Raises:
        ConfigurationError: a weight outside (0, 1).

    Example:
        >>> target = MixtureTarget(separation=4.0, weight=0.25)
        >>> target.mean.tolist(), target.covariance.diagonal().tolist()
        ([1.0, 0.0], [4.0, 1.0])
    """

    def __init__(
        self,
        dim: int = 2,
        *,
        separation: float = 4.0,
        weight: float = 0.3,
        dtype: torch.dtype | None = None,
        compile: Compile = "auto",
    ) -> None:
        check(0 < weight < 1, "weight", weight, "between 0 and 1")
        self.weights = torch.tensor([weight, 1 - weight], dtype=torch.float64)
        self.centres = torch.tensor([-0.5, 0.5], dtype=torch.float64) * separation
        mean = torch.zeros(dim, dtype=torch.float64)
        mean[0] = self.weights @ self.centres
        variances = torch.ones(dim, dtype=torch.float64)
        variances[0] = 1 + weight * (1 - weight) * separation**2  # total variance
        super().__init__(
            _mixture,
            dim,
            self.centres,
            self.weights.log(),
            mean=mean,
            covariance=variances.diag(),
            dtype=dtype,
            compile=compile,
        )

    def sample(
        self, num_draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw independent positions, `(num_draws, dim)`."""
        q = self._normals(num_draws, generator)
        uniform = torch.rand(num_draws, generator=generator, dtype=torch.float64)
        q[:, 0] += self.centres[(uniform >= self.weights[0]).long()]
        return q.to(self.dtype)

    def to_normal(self, q: Tensor) -> Tensor:
        """Score the first coordinate by the mixture's distribution, `(..., dim)`."""
        q = q.double().clone()
        offsets = q[..., :1] - self.centres
        log_weights = self.weights.log()
        below = (log_weights + torch.special.log_ndtr(offsets)).logsumexp(-1)
        above = (log_weights + torch.special.log_ndtr(-offsets)).logsumexp(-1)
        # from the nearer tail, where probabilities keep their digits
        q[..., 0] = torch.where(
            below < above,
            torch.special.ndtri(below.exp()),
            -torch.special.ndtri(above.exp()),
        )
        return q
