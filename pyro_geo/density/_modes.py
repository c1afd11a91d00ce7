"""The mode in which a density is evaluated and traced.

A graph holds no Python numbers. `float(y.std())` cannot be traced if `y` is an input of
the graph. `y.numpy()` can, but then the graph keeps the values of this `y` for ever.
If the data are constants of the graph, such numbers are constants too and are simply
read. Latent values never become constants: under `vmap` they have no single number, and
reading one raises.
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

from pyro_geo._compat.torch import disable_modes, is_batchedtensor
from pyro_geo.density._safe_linalg import REPLACED
from pyro_geo.density.dtypes import unified
from pyro_geo.errors import UnsupportedError

__all__ = ["DensityMode", "DataRole", "default_dtype", "tracing"]

DataRole = Literal["inputs", "constants"]

_TRACING: ContextVar[DataRole | None] = ContextVar("tracing", default=None)

# These turn tensors into arrays, and the next ones into Python numbers.
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


# These make new tensors, which vmap takes for one tensor that all chains share.
_NEW = frozenset(
    "arange clone empty empty_like eye full full_like linspace new_empty new_full"
    " new_ones new_tensor new_zeros ones ones_like scalar_tensor tensor zeros"
    " zeros_like".split()
)


def _logistic_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of binary outcomes with one exponential.

    Under `vmap` torch's own function computes two exponentials, most of the cost of a
    logistic model. At zero both branches of `where` have the same value and slope, so
    that the derivatives are right there as well.

    Returns:
        The loss of each outcome, in nats.
    """
    positive = logits >= 0
    sign = torch.where(positive, -1.0, 1.0).to(logits)
    line = torch.where(positive, 1 - target, -target) * logits
    return line + torch.log(1 + torch.exp(sign * logits))


def _of_each_chain(x: Any, zero: Tensor) -> Any:
    """Copy a tensor for each chain, unless each has its own already."""
    if not isinstance(x, Tensor) or is_batchedtensor(x):
        return x
    zero = zero.to(x.dtype)
    return x | zero if x.dtype == torch.bool else x + zero


@contextmanager
def tracing(role: DataRole) -> Iterator[None]:
    """Say what the data are in the graph that is traced inside this context."""
    token = _TRACING.set(role)
    try:
        yield
    finally:
        _TRACING.reset(token)


class default_dtype:
    """Make a floating type torch's default inside a `with` block.

    Args:
        dtype: the type; None changes nothing.
    """

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
    """Evaluate a density so that chains fail alone and graphs stay valid.

    A factorisation that fails gives NaN in its own chain and no error for all. Operands
    of several floating types are cast to the default one, which is that of the run.
    While a graph is traced, reading numbers from the data is refused or allowed as
    :func:`tracing` says.

    Args:
        q: the position, where every new tensor shall have memory of its own for each
            chain, so that a model may write its latents into it; None where chains
            may share constants, which is faster.
    """

    def __init__(self, q: Tensor | None = None) -> None:
        super().__init__()
        # a zero that vmap maps over chains
        self.zero = None if q is None else torch.zeros_like(q.detach().flatten()[0])
        self.role = _TRACING.get()
        self.dtype = torch.get_default_dtype()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace the few functions concerned and call all others as they are."""
        args, kwargs = unified(func, args, kwargs or {}, self.dtype)
        if func in REPLACED:
            return REPLACED[func](*args, **kwargs)
        if func is binary_cross_entropy_with_logits and len(args) == 2:
            options = {k: value for k, value in kwargs.items() if value is not None}
            if options == {"reduction": "none"}:  # as log-probabilities ask for it
                return _logistic_loss(*args)
        # read a number from the data themselves, not from what the trace put around
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
        result = func(*args, **kwargs)
        if self.zero is not None and getattr(func, "__name__", "") in _NEW:
            return _of_each_chain(result, self.zero)
        return result
