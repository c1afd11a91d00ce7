r"""Wright's omega function of a real argument, with every derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["wright_omega"]

_LARGE = 1e20  # from here on the logarithm is below the rounding of z


def wright_omega(z: float | Tensor) -> Tensor:
    r"""Solve :math:`\omega + \log\omega = z`, which is :math:`W_0(e^z)` for any `z`.

    Lambert's function itself takes :math:`e^z`, which overflows; this one has no limit,
    and is accurate to a few units of rounding from the smallest number that its type
    holds to the largest. The derivative is :math:`\omega / (1 + \omega)`; it has
    derivatives of any order, in forward mode and under `torch.vmap` too.

    Args:
        z: any real numbers; other than a floating type is converted to the default one.

    Returns:
        The function, positive, in the type of `z`.

    References:
        Fritsch, Shafer and Crowley (1973), Algorithm 443: solution of the
        transcendental equation w exp(w) = x; Lawrence, Corless and Jeffrey (2012),
        Algorithm 917: complex double-precision evaluation of the Wright omega function.

    Example:
        >>> wright_omega(1.0), wright_omega(torch.tensor(1e30))
        (tensor(1.), tensor(1.0000e+30))
    """
    if not isinstance(z, Tensor):
        z = torch.as_tensor(z)
    if not z.is_floating_point():
        z = z.to(torch.get_default_dtype())
    return _Omega.apply(z)


def _solve(z: Tensor) -> Tensor:
    """Run two steps of fourth order from a start that is 8 % off at most."""
    low = z.clamp(max=1.0)
    x = torch.exp(low)
    small = x * (60 + x * (114 + 17 * x)) / (60 + x * (174 + 101 * x))
    high = z.clamp(min=1.0, max=_LARGE)
    log = torch.log(high)
    w = torch.where(z > 1, high - log + log / high, small)
    rest = high - 1  # so that the residual of small ones is relative: x / w is near 1
    for _ in range(2):
        r = rest - w + torch.log(x / w)
        q = r / (1 + w)
        a = (1 + w) * (1 + 2 / 3 * q)
        # products of r and 1 + w would overflow in single precision
        w = w + w * q * ((a - 0.5 * q) / (a - q))
    w = torch.where(x < torch.finfo(z.dtype).tiny, x, w)  # x / w is 0 / 0 in the end
    return torch.where(z > _LARGE, z, w)


class _Omega(torch.autograd.Function):
    """The solution of the equation, whose derivative is a function of itself."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return _solve(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (w,) = ctx.saved_tensors
        return grads[0] * (w / (1 + w))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (w,) = ctx.saved_tensors
        return tangents[0] * (w / (1 + w))
