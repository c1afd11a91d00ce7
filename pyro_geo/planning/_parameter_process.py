r"""Lanes of Gaussian processes over parameters: one for each action and kernel.

Values :math:`y` are taken to :math:`z = \log(\pm(y - e)/u + \delta)`, where `e` is
their least or greatest and `u` their standard deviation, so that a heavy tail becomes
a light one; a large shift :math:`\delta` leaves them nearly as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.optim.descent import lbfgs

__all__ = ["KINDS", "JITTER", "Lanes", "Solved", "fitted", "solved", "scaled"]

JITTER = 1e-6  # of the variance of the logarithms
_STEPS = 30
_TOLERANCE = 1e-3  # of the logarithm of the evidence
_MORE_STEPS = 10  # where a search goes on from an earlier one
_LEAST_SHARE = 0.01  # kernels of less posterior probability are dropped
_FOLDS = 8


def _matern_3(r: Tensor) -> Tensor:
    a = math.sqrt(3) * r
    return (1 + a) * (-a).exp()


def _matern_5(r: Tensor) -> Tensor:
    a = math.sqrt(5) * r
    return (1 + a + a.square() / 3) * (-a).exp()


KINDS: tuple[Callable[[Tensor], Tensor], ...] = (_matern_3, _matern_5)


class Lanes(NamedTuple):
    """Processes with their hyperparameters; lanes of one kernel stand together.

    Attributes:
        action: number of the action of each, `(L,)`.
        kind: number of its kernel, ascending, `(L,)`.
        share: posterior probability of the kernel given the action, `(L,)`.
        lengthscale: `(L, P)`.
        scale: variance of the standardised logarithms, `(L,)`.
        shift: of the logarithm, `(L,)`.
        sign: 1 where the tail is one of large values, -1 for small ones, `(L,)`.
        widening: factor of the variances, at least 1, `(L,)`.
    """

    action: Tensor
    kind: Tensor
    share: Tensor
    lengthscale: Tensor
    scale: Tensor
    shift: Tensor
    sign: Tensor
    widening: Tensor

    def kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Covariances of the standardised logarithms, `(L, n, m)`."""
        a, b = x / self.lengthscale[:, None], y / self.lengthscale[:, None]
        if a.requires_grad or b.requires_grad:
            # sums of squares, not cdist: its gradient at equal points is not a number
            square = (
                a.square().sum(-1)[..., None]
                + b.square().sum(-1)[..., None, :]
                - 2 * a @ b.mT
            )
            r = square.clamp_min(1e-14).sqrt()
        else:  # fewer passes over memory
            r = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        counts = [int((self.kind == kind).sum()) for kind in range(len(KINDS))]
        parts = r.split(counts)
        shapes = [shape(part) for shape, part in zip(KINDS, parts, strict=True)]
        return self.scale[:, None, None] * torch.cat(shapes)


class Logs(NamedTuple):
    """Standardised logarithms, and the way back: `y = start + unit * exp(m + s z)`."""

    z: Tensor  # (..., L, N)
    noise: Tensor  # (..., L, N)
    m: Tensor  # (..., L)
    s: Tensor  # (..., L)
    start: Tensor  # (..., L)
    unit: Tensor  # (..., L), with its sign
    log_jacobian: Tensor  # (..., L)


class Solved(NamedTuple):
    """A process conditioned on values.

    Attributes:
        logs: what it is conditioned on.
        lower: Cholesky factor of the covariance of these, `(..., L, N, N)`.
        alpha: weights of the kernel in the mean, `(..., L, N)`.
        ones: the inverse covariance times ones, `(..., L, N)`.
        total: the sum of these, precision of the constant mean, `(..., L)`.
        constant: estimate of the constant mean, `(..., L)`.
    """

    logs: Logs
    lower: Tensor
    alpha: Tensor
    ones: Tensor
    total: Tensor
    constant: Tensor

    def at(self, cross: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean at new points, and the halves whose squares make its variance.

        Args:
            cross: covariances with them, `(L, N, M)`.

        Returns:
            Means `(..., L, M)`, what the values explain `(..., L, N, M)`, and what the
            error of the constant adds `(..., L, M)`, all of standardised logarithms.
        """
        mean = self.constant[..., None] + (cross * self.alpha[..., None]).sum(-2)
        half = torch.linalg.solve_triangular(self.lower, cross, upper=False)
        lever = 1 - (self.ones[..., None] * cross).sum(-2)
        return mean, half, lever / self.total.sqrt()[..., None]


def scaled(lanes: Lanes, y: Tensor, variance: Tensor) -> Logs:
    """Take values to standardised logarithms.

    Args:
        lanes: with shifts and signs.
        y: values under the solved draws, `(..., L, N)`.
        variance: of their errors, `(..., L, N)`.

    Returns:
        The logarithms.
    """
    unit = y.std(-1)
    unit = torch.where(unit > 1e-12 * (1 + y.mean(-1).abs()), unit, 1.0)
    end = lanes.sign * (lanes.sign[:, None] * y).amin(-1)
    signed = lanes.sign * unit
    argument = (y - end[..., None]) / signed[..., None] + lanes.shift[:, None]
    z = argument.log()
    m = z.mean(-1)
    s = (z.var(-1) + 1e-12).sqrt()  # of equal values too, with a gradient
    noise = variance / (argument * (s * unit)[..., None]).square()
    jacobian = -z.sum(-1) - y.shape[-1] * (s * unit).log()
    start = end - signed * lanes.shift
    return Logs((z - m[..., None]) / s[..., None], noise, m, s, start, signed, jacobian)


def solved(lanes: Lanes, theta: Tensor, y: Tensor, variance: Tensor) -> Solved:
    """Condition on values.

    Args:
        lanes: the processes.
        theta: solved draws in the unit cube, `(N, P)`.
        y: values under them, `(..., L, N)`.
        variance: of their errors, `(..., L, N)`; `(L, N)` of zeros where all are zero.

    Returns:
        The conditioned processes.
    """
    logs = scaled(lanes, y, variance)
    noise = logs.noise if bool(variance.any()) else variance
    inner = lanes.kernel(theta, theta) + (noise + JITTER).diag_embed()
    lower, info = torch.linalg.cholesky_ex(inner)
    if bool((info > 0).any()):
        more = torch.where(info > 0, 1e-3, 0.0)[..., None].expand_as(noise)
        lower, _ = torch.linalg.cholesky_ex(inner + more.diag_embed())
    ones = torch.cholesky_solve(torch.ones_like(theta[:, :1]), lower)[..., 0]
    total = ones.sum(-1)
    constant = (ones * logs.z).sum(-1) / total
    residual = logs.z - constant[..., None]
    alpha = torch.cholesky_solve(residual[..., None], lower)[..., 0]
    return Solved(logs, lower, alpha, ones, total, constant)


def fitted(
    theta: Tensor, y: Tensor, variance: Tensor, before: Tensor | None = None
) -> tuple[Lanes, Tensor]:
    """Learn the hyperparameters of every action under every kernel.

    Values change little from one state to the next, so a search that goes on from an
    earlier one, where that is better than the usual start, is short.

    Args:
        theta: solved draws in the unit cube, `(N, P)`.
        y: values under them, `(B, N)`.
        variance: of their errors, `(B, N)`.
        before: where the last search ended.

    Returns:
        The kernels that are likely enough, and where the search ended.
    """
    batch, count = len(y), theta.shape[1]
    kind = torch.arange(len(KINDS)).repeat_interleave(batch)
    action = torch.arange(batch).repeat(len(KINDS))
    skew = (y - y.mean(-1, keepdim=True)).pow(3).sum(-1)
    sign = torch.where(skew >= 0, 1.0, -1.0).to(y)[action]
    one, own, noise = torch.ones_like(sign), y[action], variance[action]
    start = one.new_zeros(len(kind), count + 2)
    start[:, :count] = math.log(0.5)
    width = one.new_tensor([1.0] * count + [2.0, 1.5])

    def lanes(raw: Tensor) -> Lanes:
        *_, scale, shift = raw.exp().unbind(-1)
        lengthscale = raw[:, :count].exp()
        return Lanes(action, kind, one, lengthscale, scale, shift, sign, one)

    def loss(raw: Tensor) -> tuple[Tensor, Tensor]:
        raw = raw.detach().requires_grad_()
        with torch.enable_grad():
            prior = 0.5 * ((raw - start) / width).square().sum(-1)
            value = prior - _evidence(lanes(raw), theta, own, noise)
            (gradient,) = torch.autograd.grad(value.sum(), raw)
        return value.detach().nan_to_num(torch.inf), gradient

    first, steps = start, _STEPS
    if before is not None and before.shape == start.shape:
        better = loss(before)[0] < loss(start)[0]
        first, steps = torch.where(better[:, None], before, start), _MORE_STEPS
    raw = lbfgs(loss, first, steps, tolerance=2 * _TOLERANCE)
    share = (-loss(raw)[0]).reshape(-1, batch).softmax(0).nan_to_num(1 / len(KINDS))
    share = torch.where(share < _LEAST_SHARE, 0.0, share)
    share = (share / share.sum(0)).flatten()
    found = lanes(raw)._replace(share=share)
    found = found._replace(widening=_widening(solved(found, theta, own, noise)))
    return Lanes(*(x[share > 0] for x in found)), raw


def _evidence(lanes: Lanes, theta: Tensor, y: Tensor, variance: Tensor) -> Tensor:
    """Logarithm of the evidence up to a constant, `(L,)`."""
    logs = scaled(lanes, y, variance)
    noise = logs.noise + JITTER
    inner = lanes.kernel(theta, theta) + noise.diag_embed()
    found: Any = _Evidence.apply(inner, logs.z)
    return found + logs.log_jacobian


class _Evidence(torch.autograd.Function):
    r"""Logarithm of the evidence, the constant integrated out, up to a constant.

    .. math:: -\tfrac12 \Big[(z - c)' K^{-1} (z - c) + \log\det K
        + \log 1' K^{-1} 1\Big]

    Its derivative takes one inverse, a fraction of the work of differentiating through
    the factorisation: `c` is the best constant, so it may be held fixed.
    """

    @staticmethod
    def forward(ctx: Any, inner: Tensor, z: Tensor) -> Tensor:
        lower, info = torch.linalg.cholesky_ex(inner)
        failed = (info > 0)[..., None, None]  # what is left of these has no inverse
        lower = torch.where(failed, torch.eye(inner.shape[-1]).to(inner), lower)
        inverse = torch.cholesky_inverse(lower)
        ones = inverse.sum(-1)
        total = ones.sum(-1)
        own = (inverse @ z[..., None])[..., 0]
        alpha = own - (own.sum(-1) / total)[..., None] * ones
        found = -0.5 * ((alpha * z).sum(-1) + total.log())
        found = found - lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        ctx.save_for_backward(inverse, alpha, ones / total.sqrt()[..., None])
        return torch.where(info > 0, -torch.inf, found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        inverse, alpha, ones = ctx.saved_tensors
        outer = alpha[..., None] * alpha[..., None, :]
        outer = outer + ones[..., None] * ones[..., None, :]
        weight = grads[0][..., None]
        return 0.5 * weight[..., None] * (outer - inverse), -weight * alpha


def _widening(given: Solved) -> Tensor:
    """Say how much too small variances are where values were left out, `(L,)`.

    Residuals of single values, and of sums over folds of them, are compared with their
    standard deviations. The second shows errors of one sign, which do not average out.

    Returns:
        Factors of at least 1.
    """
    count = given.alpha.shape[-1]
    inverse = torch.cholesky_inverse(given.lower)
    # inverse covariance after the constant has been integrated out
    lost = given.ones[..., None] * given.ones[..., None, :] / given.total[:, None, None]
    inverse = inverse - lost
    single = given.alpha.square() / inverse.diagonal(dim1=-2, dim2=-1)
    # with one fold nothing would be left to predict it
    folds = min(_FOLDS, count // 2) if count > 3 else 0
    squares = torch.zeros_like(single[..., 0])
    for fold in range(folds):
        rows = torch.arange(fold, count, folds)
        block = torch.linalg.inv(inverse[:, rows[:, None], rows])
        gap = (block * given.alpha[:, None, rows]).sum((-2, -1))
        squares = squares + gap.square() / block.sum((-2, -1))
    # both are drawn to 1, as if some more had been as expected
    of_single = (4 + single.sum(-1)) / (4 + count)
    of_sums = (2 + squares) / (2 + folds)
    return torch.maximum(of_single, of_sums).clamp_min(1)
