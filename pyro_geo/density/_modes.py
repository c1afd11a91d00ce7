"""What a density may do to tensors while it is evaluated and while it is traced.

A graph has no Python numbers: `float(y.std())` cannot be traced where `y` is a graph
input, and `y.numpy()` would be traced, but with this `y` for good. Where the data are
constants of the graph, so are such numbers, and they are simply read. Under `vmap` a
latent value has no single number and still raises, so that nothing but the data can
become a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.overrides import TorchFunctionMode

from pyro_geo._compat.torch import disable_modes
from pyro_geo.density._safe_linalg import REPLACED
from pyro_geo.errors import UnsupportedError

__all__ = ["DensityMode", "DataRole", "default_dtype", "tracing"]

DataRole = Literal["inputs", "constants"]

_TRACING: ContextVar[DataRole | None] = ContextVar("tracing", default=None)

_ARRAYS = {torch.Tensor.numpy, torch.Tensor.__array__}
_NUMBERS = {
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.__bool__,
    torch.Tensor.__float__,
    torch.Tensor.__index__,
    torch.Tensor.__int__,
    torch.Tensor.allclose,
    torch.Tensor.equal,
    torch.Tensor.is_nonzero,
    torch.allclose,
    torch.equal,
    torch.is_nonzero,
}


def _logistic_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of binary outcomes with one exponential.

    `vmap` takes torch's own function apart into two, which are most of the cost of a
    logistic model. Both branches of `where` agree on the side of zero, so that the
    derivatives at zero are right as well.

    Returns:
        The loss of each outcome, in nats.
    """
    positive = logits >= 0
    sign = torch.where(positive, -1.0, 1.0).to(logits)
    line = torch.where(positive, 1 - target, -target) * logits
    return line + torch.log(1 + torch.exp(sign * logits))


@contextmanager
def tracing(role: DataRole) -> Iterator[None]:
    """Tell densities evaluated inside what the data are in the graph to come."""
    token = _TRACING.set(role)
    try:
        yield
    finally:
        _TRACING.reset(token)


class default_dtype:
    """Make a floating type torch's default, if one is given."""

    __slots__ = ("after", "before")

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.before = torch.get_default_dtype()
        self.after = dtype or self.before

    def __enter__(self) -> None:
        if self.after != self.before:
            torch.set_default_dtype(self.after)

    def __exit__(self, *reason: object) -> None:
        if self.after != self.before:
            torch.set_default_dtype(self.before)


class DensityMode(TorchFunctionMode):
    """Keep failures to their chain, and numbers out of graphs that data enter.

    A failed factorisation gives NaN for its own chain, not an error for all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.role = _TRACING.get()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Intercept the few functions concerned, leave every other alone."""
        kwargs = kwargs or {}
        if func in REPLACED:
            return REPLACED[func](*args, **kwargs)
        if func is binary_cross_entropy_with_logits and len(args) == 2:
            given = {name: value for name, value in kwargs.items() if value is not None}
            if given == {"reduction": "none"}:  # as log-probabilities ask for it
                return _logistic_loss(*args)
        if self.role == "constants" and (func in _NUMBERS or func in _ARRAYS):
            with disable_modes():
                return func(*args, **kwargs)
        if self.role == "inputs" and func in _ARRAYS:
            raise UnsupportedError(
                "the model reads its data as an array",
                where="tracing",
                found="a call of numpy()",
                expected="tensor operations",
                todo="Compute what follows from the data before the model runs.",
            )
        return func(*args, **kwargs)
