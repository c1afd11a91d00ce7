"""Ellipsoids as supports, and smooth maps of real space onto them."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import Transform

__all__ = ["EllipsoidBall", "EllipsoidTransform", "colour", "ellipsoid_ball", "whiten"]

_NEAR = 0.09  # squared lengths below which the series in them are used
# tanh(s) / s and atanh(t) / t in powers of the squared argument
_TANH = (
    1.0,
    -1 / 3,
    2 / 15,
    -17 / 315,
    62 / 2835,
    -1382 / 155925,
    21844 / 6081075,
    -929569 / 638512875,
    6404582 / 10854718875,
    -443861162 / 1856156927625,
    18888466084 / 194896477400625,
)
_ATANH = tuple(1 / (2 * k + 1) for k in range(15))


class EllipsoidBall(constraints.Constraint):
    r"""The ellipsoid :math:`|L^{-1} (x - \mu)| \le \rho`, a constraint on vectors.

    It is known to `torch.distributions.biject_to` and `transform_to`.

    Args:
        loc: centre, `(*batch, d)`.
        scale_tril: lower triangular factor, `(*batch, d, d)`.
        radius: a number or `(*batch,)`.
        bijector: how real space is mapped onto it, see :class:`EllipsoidTransform`.

    Example:
        >>> disc = EllipsoidBall(torch.zeros(2), torch.eye(2), 1.0)
        >>> disc.check(torch.tensor([[0.6, 0.6], [0.8, 0.8]]))
        tensor([ True, False])
    """

    event_dim = 1

    def __init__(
        self,
        loc: Tensor,
        scale_tril: Tensor,
        radius: float | Tensor,
        bijector: Literal["tanh", "algebraic"] = "tanh",
    ) -> None:
        self.loc = loc
        self.scale_tril = scale_tril
        self.radius = torch.as_tensor(radius, dtype=loc.dtype, device=loc.device)
        self.bijector: Literal["tanh", "algebraic"] = bijector
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Tell which vectors lie in the ellipsoid, up to rounding.

        Args:
            value: vectors, `(..., d)`.

        Returns:
            Booleans, `(...)`.
        """
        r2 = whiten(self.scale_tril, value - self.loc).square().sum(-1)
        return self.holds(r2, value)

    def holds(self, r2: Tensor, value: Tensor) -> Tensor:
        """Tell which squared lengths are those of points inside, up to rounding.

        Args:
            r2: squared lengths of the whitened vectors, `(...)`.
            value: the vectors, whose size says how much was rounded, `(..., d)`.

        Returns:
            Booleans, `(...)`.
        """
        scale = self.scale_tril.diagonal(dim1=-2, dim2=-1).amin(-1) * self.radius
        size = value.detach().abs().amax(-1) / scale
        slack = torch.finfo(r2.dtype).eps * (32 + 8 * size)
        return r2 <= self.radius.square() * (1 + slack)

    def __repr__(self) -> str:
        shape = tuple(self.loc.shape)
        return f"EllipsoidBall(loc of {shape}, bijector={self.bijector!r})"


ellipsoid_ball = EllipsoidBall


class EllipsoidTransform(Transform):
    r"""Real space onto an ellipsoid, by a map of the length.

    With :math:`s = |z|`,

    .. math:: x = \mu + \rho \, L z \, t(s) / s, \qquad
        t(s) = \tanh s \ \text{ or } \ s / \sqrt{1 + s^2}

    The first is the better start for samplers: under the second a flat density on the
    ball has polynomial tails in :math:`z`.

    Args:
        loc: centre, `(*batch, d)`.
        scale_tril: lower triangular factor, `(*batch, d, d)`.
        radius: a number or `(*batch,)`.
        bijector: which map.
        cache_size: see `torch.distributions.transforms.Transform`.

    Example:
        >>> transform = EllipsoidTransform(torch.zeros(2), torch.eye(2), 2.0)
        >>> x = transform(torch.tensor([3.0, 0.0]))
        >>> torch.allclose(transform.inv(x), torch.tensor([3.0, 0.0]), rtol=1e-4)
        True
    """

    domain = constraints.real_vector
    bijective = True

    def __init__(
        self,
        loc: Tensor,
        scale_tril: Tensor,
        radius: float | Tensor,
        bijector: Literal["tanh", "algebraic"] = "tanh",
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size=cache_size)
        self.ball = EllipsoidBall(loc, scale_tril, radius, bijector)

    @property
    def codomain(self) -> EllipsoidBall:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The ellipsoid."""
        return self.ball

    def with_cache(self, cache_size: int = 1) -> EllipsoidTransform:
        """Make the same transform with another size of its cache.

        Args:
            cache_size: 0 or 1.

        Returns:
            The transform.
        """
        ball = self.ball
        return EllipsoidTransform(
            ball.loc, ball.scale_tril, ball.radius, ball.bijector, cache_size
        )

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm of the determinant of the Jacobian.

        Args:
            x: unconstrained vectors, `(..., d)`.
            y: their images.

        Returns:
            The logarithm, `(...)`.
        """
        d, q = x.shape[-1], x.square().sum(-1)
        if self.ball.bijector == "algebraic":
            inner = -0.5 * (d + 2) * torch.log1p(q)
        else:
            inner = (d - 1) * torch.log(_tanh_ratio(q)) + _log_sech2(q)
        diagonal = self.ball.scale_tril.diagonal(dim1=-2, dim2=-1)
        return inner + d * torch.log(self.ball.radius) + diagonal.log().sum(-1)

    def _call(self, x: Tensor) -> Tensor:
        q = x.square().sum(-1)
        if self.ball.bijector == "algebraic":
            ratio = torch.rsqrt(1 + q)
        else:
            ratio = _tanh_ratio(q)
        z = (self.ball.radius * ratio).unsqueeze(-1) * x
        return self.ball.loc + colour(self.ball.scale_tril, z)

    def _inverse(self, y: Tensor) -> Tensor:
        z = whiten(self.ball.scale_tril, y - self.ball.loc)
        z = z / self.ball.radius.unsqueeze(-1)
        # rounding may put a point of the ball on its edge, which has no finite image
        p = z.square().sum(-1)
        top = (1 - torch.finfo(p.dtype).eps) ** 2
        edge = p > top
        z = z * torch.sqrt(top / torch.where(edge, p, top)).unsqueeze(-1)
        p = torch.where(edge, top, p)
        if self.ball.bijector == "algebraic":
            return z * torch.rsqrt(1 - p).unsqueeze(-1)
        return z * _atanh_ratio(p).unsqueeze(-1)


def whiten(factor: Tensor, delta: Tensor) -> Tensor:
    """Solve `factor @ z = delta` for vectors.

    Args:
        factor: lower triangular, `(*batch, d, d)`.
        delta: `(..., d)`.

    Returns:
        The vectors `z`, `(..., d)`.
    """
    if factor.dim() == 2:  # one solve for all vectors
        rows = delta.reshape(-1, delta.shape[-1])
        solved = torch.linalg.solve_triangular(factor, rows.mT, upper=False)
        return solved.mT.reshape(delta.shape)
    columns = delta.unsqueeze(-1)
    return torch.linalg.solve_triangular(factor, columns, upper=False).squeeze(-1)


def colour(factor: Tensor, z: Tensor) -> Tensor:
    """Multiply vectors by a factor, the inverse of :func:`whiten`.

    Args:
        factor: lower triangular, `(*batch, d, d)`.
        z: `(..., d)`.

    Returns:
        `factor @ z`, `(..., d)`.
    """
    if factor.dim() == 2:  # one product for all vectors
        return z @ factor.mT
    return (factor @ z.unsqueeze(-1)).squeeze(-1)


def _series(coefficients: tuple[float, ...], q: Tensor) -> Tensor:
    value = torch.full_like(q, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * q + coefficient
    return value


def _tanh_ratio(q: Tensor) -> Tensor:
    """`tanh(s) / s` at `q = s^2`, smooth at 0."""
    near = q < _NEAR
    s = torch.sqrt(torch.where(near, 1.0, q))
    series = _series(_TANH, torch.where(near, q, 0.0))
    return torch.where(near, series, torch.tanh(s) / s)


def _atanh_ratio(p: Tensor) -> Tensor:
    """`atanh(t) / t` at `p = t^2`, smooth at 0."""
    near = p < _NEAR
    t = torch.sqrt(torch.where(near, 0.25, p))
    series = _series(_ATANH, torch.where(near, p, 0.0))
    return torch.where(near, series, torch.atanh(t) / t)


def _log_sech2(q: Tensor) -> Tensor:
    """`log(1 - tanh(s)^2)` at `q = s^2`, smooth at 0 and exact far out."""
    near = q < _NEAR
    s = torch.sqrt(torch.where(near, 1.0, q))
    far = 2 * (math.log(2) - s - torch.nn.functional.softplus(-2 * s))
    inner = torch.where(near, q, 0.0)
    return torch.where(near, torch.log1p(-inner * _tanh_ratio(inner).square()), far)


@biject_to.register(EllipsoidBall)
@transform_to.register(EllipsoidBall)
def _transform(constraint: Any) -> EllipsoidTransform:
    return EllipsoidTransform(
        constraint.loc, constraint.scale_tril, constraint.radius, constraint.bijector
    )
