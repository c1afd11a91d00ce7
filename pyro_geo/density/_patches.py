"""Functions that cannot be mapped, traced or cast, replaced while a density runs.

Another thread may call a replacement while a density is evaluated here. That changes
nothing: every replacement returns what the original returns.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions import (
    Categorical,
    NanMaskedMultivariateNormal,
    NanMaskedNormal,
    OrderedLogistic,
)
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_geo._compat.gpytorch import mappable_pieces
from pyro_geo._compat.pyro import PLATE_PIECES, SAFE_LOG, STABLE_LOG_PROB
from pyro_geo._compat.torch import RNN_CHECK
from pyro_geo.density._branch_free import (
    masked_multivariate_normal,
    masked_normal,
    stable_log_prob,
)

__all__ = ["mappable_pyro"]


class SafeLog(torch.autograd.Function):
    """Logarithm with a bounded derivative at zero, for every transform of torch."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Logarithm of `x`."""
        return x.log()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep `x` for the derivatives."""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        """Divide by `x`, or by the machine's epsilon where `x` is smaller."""
        (x,) = ctx.saved_tensors
        return grad_outputs[0] / x.clamp(min=torch.finfo(x.dtype).eps)

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Tensor) -> Tensor:
        """Forward derivative, the same division."""
        (x,) = ctx.saved_tensors
        return grad_inputs[0] / x.clamp(min=torch.finfo(x.dtype).eps)


def ordered_log_probs(predictor: Tensor, cutpoints: Tensor) -> Tensor:
    r"""Log-probabilities of the categories of an ordered logistic.

    With :math:`a < b` the gaps from the predictor to two neighbouring cutpoints,

    .. math:: \log(\sigma(b) - \sigma(a)) =
        \log\sigma(b) + \log\sigma(-a) + \log(1 - e^{a - b}) ,

    which cancels nothing, however far out.

    Args:
        predictor: any shape.
        cutpoints: increasing along the last axis, `(..., categories - 1)`.

    Returns:
        Logarithms, `(..., categories)`; minus infinity between cutpoints that do not
        increase.

    Example:
        >>> ordered_log_probs(torch.tensor(0.0), torch.tensor([0.0])).exp()
        tensor([0.5000, 0.5000])
    """
    gaps = cutpoints - predictor.unsqueeze(-1)
    below, above = logsigmoid(gaps), logsigmoid(-gaps)
    width = gaps[..., 1:] - gaps[..., :-1]
    increases = width > 0  # elsewhere a width of one keeps the derivative finite
    width = torch.where(increases, width, torch.ones_like(width))
    between = below[..., 1:] + above[..., :-1] + torch.log(-torch.expm1(-width))
    between = torch.where(increases, between, -torch.inf)
    return torch.cat([below[..., :1], between, above[..., -1:]], -1)


def _ordered_logistic(
    self: Any, predictor: Tensor, cutpoints: Tensor, validate_args: bool | None = None
) -> None:
    """Construct an `OrderedLogistic` without the writes in place of Pyro's own."""
    # Pyro writes probabilities into a tensor of zeros, which vmap cannot map, and takes
    # their logarithm, which loses the digits of small ones.
    log_probs = ordered_log_probs(predictor, cutpoints)
    shape = log_probs.shape[:-1]
    self.predictor = predictor.expand(shape)
    self.cutpoints = cutpoints.expand((*shape, cutpoints.shape[-1]))
    Categorical.__init__(self, logits=log_probs, validate_args=validate_args)


# Object, name of its attribute, and what replaces it.
_REPLACEMENTS: tuple[tuple[Any, str, Any], ...] = (
    (*SAFE_LOG, SafeLog),
    (OrderedLogistic, "__init__", _ordered_logistic),
    (*STABLE_LOG_PROB, stable_log_prob),
    (NanMaskedNormal, "log_prob", masked_normal),
    (NanMaskedMultivariateNormal, "log_prob", masked_multivariate_normal),
    *PLATE_PIECES,
    RNN_CHECK,
)


class _Users:
    """Number of densities that run in all threads, and the replaced functions."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.replaced: list[tuple[Any, str, Any]] = []  # with the originals


_USERS = _Users()


@contextmanager
def mappable_pyro() -> Iterator[None]:
    """Replace the functions, and restore them when the last user leaves."""
    with _USERS.lock:
        # the first user stores the originals: a later one would store replacements
        if _USERS.count == 0:
            pieces = (*_REPLACEMENTS, *mappable_pieces())
            _USERS.replaced = [(o, name, getattr(o, name)) for o, name, _ in pieces]
            for owner, name, new in pieces:
                setattr(owner, name, new)
        _USERS.count += 1
    try:
        yield
    finally:
        with _USERS.lock:
            _USERS.count -= 1
            if _USERS.count == 0:
                for owner, name, old in _USERS.replaced:
                    setattr(owner, name, old)
