"""What the opaque operators of filters share: batching rules, the last derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["LastDerivative", "register"]


class LastDerivative(torch.autograd.Function):
    """Second derivatives, to be computed in `forward`; there are no third."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            "the compiled filter has two derivatives; "
            'backend="torch" has as many as are asked for'
        )


def register(
    name: str,
    schema: str,
    run: Callable[..., Any],
    shape: Callable[..., Any],
    *,
    rows: int = 0,
) -> None:
    """Make an operator of torch of a function of lanes.

    Args:
        name: under `torch.ops.pyro_geo`.
        schema: of the inputs and results, tensors before options. The first axis of
            the first input and of all results is that of the lanes.
        run: what it does, on processors.
        shape: what it returns, without values.
        rows: how many tensors after the first have rows that lanes share in turn; all
            others have one for each lane.
    """
    full = f"pyro_geo::{name}"
    torch.library.define(full, schema)
    torch.library.impl(full, "CPU", run)
    torch.library.register_fake(full, shape)
    torch.library.register_vmap(full, _mapped(name, 1 + rows))


def _mapped(name: str, first: int) -> Any:
    """Write the batching rule: more lanes. Tensors before `first` share their rows."""

    def rule(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        tensors = [x for x in args if isinstance(x, Tensor)]
        rest = args[len(tensors) :]
        theta = _in_front(tensors[0], dims[0], size)
        lanes = theta.shape[1]
        data = tensors[1:first]
        if any(dim is not None for dim in dims[1:first]):
            data = [
                _own_rows(_in_front(x, dim, size), lanes)
                for x, dim in zip(data, dims[1:first], strict=True)
            ]
        others = [
            _in_front(x, dim, size).flatten(0, 1)
            for x, dim in zip(tensors[first:], dims[first : len(tensors)], strict=True)
        ]
        operator = getattr(torch.ops.pyro_geo, name)
        found = operator(theta.flatten(0, 1), *data, *others, *rest)
        if isinstance(found, Tensor):
            return found.unflatten(0, (size, lanes)), 0
        parts = tuple(x.unflatten(0, (size, lanes)) for x in found)
        return parts, (0,) * len(parts)

    return rule


def _in_front(x: Tensor, dim: int | None, size: int) -> Tensor:
    """Put the mapped axis first."""
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _own_rows(x: Tensor, lanes: int) -> Tensor:
    """Give every lane a row of its own, as the rows differ along the mapped axis."""
    return x.repeat(1, lanes // x.shape[1], 1).flatten(0, 1)
