"""The compiled filter with its gradients, under every transform of torch."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from pyro_geo._compat.torch import depends_on_leaf
from pyro_geo.filtering.hgf._operators import LastDerivative
from pyro_geo.filtering.hgf.compiled.registered import (
    NUM_DATA,
    OPERATORS,
    no_weights,
)
from pyro_geo.filtering.hgf.compiled.running import UPDATES, Options
from pyro_geo.filtering.hgf.parameters import (
    HGFInputs,
    HGFParameters,
    Kind,
    Predictive,
    Update,
)

__all__ = ["compiled_scan", "compiled_surprise", "compiled_total", "supports"]

# -- derivatives ----------------------------------------------------------------------


def _of_rows(by_u: Tensor, u: Tensor) -> Tensor | None:
    """Add up what lanes of the same row have."""
    if by_u.shape[1] == 0:
        return None
    return by_u.unflatten(0, (-1, u.shape[0])).sum(0)


class _Second(LastDerivative):
    """Second derivatives, by the filter in operations of torch."""

    @staticmethod
    def forward(*args: Any) -> Any:
        return OPERATORS.hgf_second(*args)


class _Pull(torch.autograd.Function):
    """Derivatives of the filter, differentiable once more."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Any:
        return OPERATORS.hgf_pull(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:8])
        ctx.options = inputs[8:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        along, along_u = grads
        theta, u, *rest = ctx.saved_tensors
        *options, _ = ctx.options
        by_theta, by_u, *by_pulls = _Second.apply(
            theta, u, *rest, along, along_u, *options
        )
        grads = by_theta, _of_rows(by_u, u), None, None, None, *by_pulls
        return *grads, *(None,) * len(ctx.options)


class _Surprise(torch.autograd.Function):
    """The surprise of each step."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Any:
        args = args[:-1]
        return OPERATORS.hgf_surprise(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:NUM_DATA])
        ctx.options = inputs[NUM_DATA:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (d_surprise,) = grads
        theta, u, *rest = ctx.saved_tensors
        pulls = d_surprise, *no_weights(theta)[1:]
        d_theta, by_u = _Pull.apply(theta, u, *rest, *pulls, *ctx.options)
        return d_theta, _of_rows(by_u, u), *(None,) * (3 + len(ctx.options))


class _Beliefs(torch.autograd.Function):
    """Means and precisions of each step."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Any:
        args = args[:-1]
        return OPERATORS.hgf_beliefs(*args)

    setup_context = _Surprise.setup_context

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        d_mu, d_pi = grads
        theta, u, *rest = ctx.saved_tensors
        pulls = no_weights(theta)[0], d_mu, d_pi
        d_theta, by_u = _Pull.apply(theta, u, *rest, *pulls, *ctx.options)
        return d_theta, _of_rows(by_u, u), *(None,) * (3 + len(ctx.options))


class _Scale(torch.autograd.Function):
    """The gradient of a sum of surprises times a number, differentiable once more."""

    generate_vmap_rule = True

    @staticmethod
    def forward(d_total: Tensor, slope: Tensor, by_u: Tensor, *rest: Any) -> Any:
        return d_total[:, None] * slope, d_total[:, None] * by_u

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        d_total, slope, by_u, *data = inputs[: 3 + NUM_DATA]
        ctx.save_for_backward(d_total, slope, by_u, *data)
        ctx.options = inputs[3 + NUM_DATA :]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        along, along_u = grads
        d_total, slope, slope_u, theta, u, *rest = ctx.saved_tensors
        *options, _ = ctx.options
        pulls = d_total[:, None].expand(-1, u.shape[1]), *no_weights(theta)[1:]
        by_theta, by_u, *_ = _Second.apply(
            theta, u, *rest, *pulls, along, along_u, *options
        )
        by_total = (along * slope).sum(-1) + (along_u * slope_u).sum(-1)
        grads = by_total, None, None, by_theta, _of_rows(by_u, u)
        return *grads, *(None,) * (3 + len(ctx.options))


class _Total(torch.autograd.Function):
    """The sum of surprises, whose gradient is computed with it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> Any:
        return OPERATORS.hgf_total(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, slope, by_u = output
        ctx.mark_non_differentiable(slope, by_u)
        ctx.save_for_backward(slope, by_u, *inputs[:NUM_DATA])
        ctx.options = inputs[NUM_DATA:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        d_total = grads[0]
        slope, by_u, *data = ctx.saved_tensors
        d_theta, by_u = _Scale.apply(d_total, slope, by_u, *data, *ctx.options)
        return d_theta, _of_rows(by_u, data[1]), *(None,) * (3 + len(ctx.options))


# -- the interface --------------------------------------------------------------------


def _prepared(
    parameters: HGFParameters,
    inputs: HGFInputs,
    kind: Kind,
    update: Update,
    predictive: Predictive,
    value_coupled: bool,
    signs: Tensor | None = None,
) -> tuple[torch.Size, list[Any]]:
    """Lay parameters side by side, lanes first; return the batch shape too."""
    levels = parameters.omega.shape[-1]
    data = [*inputs] if signs is None else [*inputs, signs]
    shapes = [x.shape[:-1] for x in (*parameters[:-1], *data)]
    batch = torch.broadcast_shapes(*shapes, parameters.input_precision.shape)
    columns = [*parameters[:-1], parameters.input_precision.unsqueeze(-1)]
    theta = torch.cat([x.expand(*batch, x.shape[-1]) for x in columns], -1)
    rows = torch.broadcast_shapes(*(x.shape[:-1] for x in data))
    while rows and rows[0] == 1:
        rows = rows[1:]
    if rows != batch[len(batch) - len(rows) :]:
        rows = batch
    data = [
        x.expand(*rows, x.shape[-1]) if x.dim() <= len(rows) + 1 else x for x in data
    ]
    steps = data[0].shape[-1]
    flat = [x.reshape(math.prod(rows), steps) for x in data]
    if signs is None:
        flat.append(theta.new_empty(math.prod(rows), 0))
    by_u = int(depends_on_leaf(inputs.u))
    options = Options(
        levels,
        int(kind == "binary"),
        UPDATES.index(update),
        int(predictive == "input"),
        int(value_coupled and levels > 1),
    )
    u = flat[0].to(theta.dtype)
    return batch, [
        theta.reshape(-1, theta.shape[-1]),
        u,
        flat[1],
        flat[2].to(theta.dtype),
        flat[3].to(theta.dtype),
        *options,
        by_u,
    ]


def compiled_scan(
    parameters: HGFParameters,
    inputs: HGFInputs,
    *,
    kind: Kind,
    update: Update,
    value_coupled: bool = True,
) -> tuple[Tensor, Tensor]:
    """Filter a series and return the beliefs after each input.

    Args:
        parameters: of the levels, batch shape `(*batch,)`.
        inputs: of the series, `(*batch, T)`, where the batch shapes broadcast; a batch
            that ends in theirs reads them without a copy.
        kind: of input.
        update: of the levels above the first.
        value_coupled: False where `value_coupling` is known to be 0.

    Returns:
        Posterior means and precisions, `(*batch, T, L)`; NaN from where an update that
        may fail has failed, with derivatives of 0.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> parts = -one, one[:0], 0 * one, one, 0 * one, one, one[:0], one[0]
        >>> levels = HGFParameters(*parts)
        >>> steps = torch.ones(3, dtype=torch.float64)
        >>> inputs = HGFInputs(2 * steps, steps.bool(), steps)
        >>> options = {"kind": "continuous", "update": "unbounded"}
        >>> mu, pi = compiled_scan(levels, inputs, **options)
        >>> mu.shape
        torch.Size([3, 1])
    """
    batch, args = _prepared(parameters, inputs, kind, update, "input", value_coupled)
    mu, pi = cast("tuple[Tensor, Tensor]", _Beliefs.apply(*args))
    shape = *batch, *mu.shape[-2:]
    return mu.reshape(shape), pi.reshape(shape)


def compiled_surprise(
    parameters: HGFParameters,
    inputs: HGFInputs,
    *,
    kind: Kind,
    update: Update,
    predictive: Predictive = "input",
    value_coupled: bool = True,
) -> Tensor:
    """Compute minus the log-density of each input given those before it.

    Args:
        parameters: as of :func:`compiled_scan`.
        inputs: the same.
        kind: of input.
        update: of the levels above the first.
        predictive: whether the density is that of a continuous input, or of the state
            below it.
        value_coupled: False where `value_coupling` is known to be 0.

    Returns:
        `(*batch, T)`; 0 where nothing is observed.
    """
    batch, args = _prepared(parameters, inputs, kind, update, predictive, value_coupled)
    found = cast(Tensor, _Surprise.apply(*args))
    return found.reshape(*batch, found.shape[-1])


def compiled_total(
    parameters: HGFParameters,
    inputs: HGFInputs,
    *,
    kind: Kind,
    update: Update,
    predictive: Predictive = "input",
    value_coupled: bool = True,
    signs: Tensor | None = None,
) -> Tensor:
    """Sum the surprise over time; the gradient, where asked for, comes almost for free.

    Args:
        parameters: as of :func:`compiled_surprise`.
        inputs: the same.
        kind: of input.
        update: of the levels above the first.
        predictive: the same.
        value_coupled: False where `value_coupling` is known to be 0.
        signs: of choices after binary inputs, -1 or 1 and 0 where there is none,
            `(*batch, T)`. The surprise is then that of the choices by the unit-square
            sigmoid, whose sharpness takes the place of the input precision.

    Returns:
        `(*batch,)`.
    """
    batch, args = _prepared(
        parameters, inputs, kind, update, predictive, value_coupled, signs
    )
    if any(map(depends_on_leaf, args[:2])):
        return cast("tuple[Tensor, ...]", _Total.apply(*args))[0].reshape(batch)
    # where nothing is seen to be differentiated; right if something is after all
    return cast(Tensor, _Surprise.apply(*args)).sum(-1).reshape(batch)


def supports(
    parameters: HGFParameters, inputs: HGFInputs, *, kind: Kind, update: Update
) -> bool | str:
    """Say whether the compiled filter can run, and if not why.

    Args:
        parameters: of the levels.
        inputs: of the series.
        kind: of input.
        update: of the levels above the first.

    Returns:
        True, or the reason against it.
    """
    if update not in UPDATES:
        return f"the update {update!r} is not compiled"
    if kind not in ("continuous", "binary"):
        return f"inputs of kind {kind!r} are not compiled"
    tensors = (*parameters, inputs.u, inputs.time_step)
    if any(x.device.type != "cpu" for x in tensors):
        return "the compiled filter runs on processors alone"
    dtype = parameters.omega.dtype
    if dtype not in (torch.float32, torch.float64):
        return f"{dtype} is not compiled"
    if any(x.dtype != dtype for x in tensors):
        return "parameters and inputs have different floating types"
    if depends_on_leaf(inputs.time_step):
        return "time steps have no derivatives in the compiled filter"
    return True
