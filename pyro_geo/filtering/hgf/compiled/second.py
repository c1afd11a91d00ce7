"""Second derivatives of the compiled filter, by the filter in operations of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_geo._process import outside
from pyro_geo.filtering.hgf.compiled.running import UPDATES, Options
from pyro_geo.filtering.hgf.parameters import HGFInputs, HGFParameters, Kind

__all__ = ["second_derivatives"]

_LOGIT = 13.815509557963773  # of the largest probability


def _parameters(theta: Tensor, levels: int) -> HGFParameters:
    between = levels - 1
    sizes = [levels, between, levels, levels, levels, levels, between, 1]
    *columns, input_precision = theta.split(sizes, -1)
    return HGFParameters._make([*columns, input_precision.squeeze(-1)])


def _products(
    options: Options,
    inputs: HGFInputs,
    signs: Tensor,
    theta: Tensor,
    pulls: tuple[Tensor, Tensor, Tensor],
    along: tuple[Tensor, Tensor],
) -> tuple[Tensor, ...]:
    from pyro_geo.filtering.hgf.scan import scan
    from pyro_geo.filtering.hgf.trajectory import surprise, trajectory

    kind: Kind = "binary" if options.binary else "continuous"
    update = UPDATES[options.update]
    lanes = theta.shape[0]
    repeats = lanes // inputs.u.shape[0]
    leaves = [theta.detach(), inputs.u.repeat(repeats, 1), *pulls]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    theta, u, d_surprise, d_mu, d_pi = leaves
    inputs = HGFInputs(
        u, inputs.observed.repeat(repeats, 1), inputs.time_step.repeat(repeats, 1)
    )
    parameters = _parameters(theta, options.levels)
    mu, pi = scan(
        parameters,
        inputs,
        kind=kind,
        update=update,
        value_coupled=bool(options.coupled),
    )
    pulled = theta.new_zeros(())
    if d_mu.numel():
        good = pi > 0
        pulled = (torch.where(good, mu, 0.0) * d_mu).sum()
        pulled = pulled + (torch.where(good, pi, 0.0) * d_pi).sum()
    if d_surprise.numel():
        predictive = "input" if options.noise else "state"
        if signs.numel():
            beliefs = trajectory(parameters, inputs, mu, pi, kind=kind, update=update)
            logits = beliefs.muhat[..., 0].clamp(-_LOGIT, _LOGIT)
            signs = signs.repeat(repeats, 1)
            zeta = parameters.input_precision[:, None]
            value = torch.nn.functional.softplus(-signs * zeta * logits)
            value = torch.where(signs == 0, 0.0, value)
        else:
            value = surprise(
                parameters,
                inputs,
                mu,
                pi,
                kind=kind,
                update=update,
                predictive=predictive,
            )
        value = torch.where(value.isnan(), 0.0, value)
        pulled = pulled + (value * d_surprise).sum()
    slopes = torch.autograd.grad(pulled, [theta, u], create_graph=True)
    product = (slopes[0] * along[0]).sum()
    if along[1].numel():
        product = product + (slopes[1] * along[1]).sum()
    found = torch.autograd.grad(product, leaves, allow_unused=True)
    results = [
        torch.zeros_like(leaf) if one is None else one
        for leaf, one in zip(leaves, found, strict=True)
    ]
    if not along[1].numel():
        results[1] = torch.zeros_like(along[1])
    return tuple(results)


def second_derivatives(*args: Any) -> tuple[Tensor, ...]:
    """Differentiate the product of a gradient with directions.

    An operation may run inside of a trace or a transform, and those belong to a
    thread: the derivatives are taken in another one.

    Args:
        *args: options and inputs of the filter, the signs of choices, its parameters
            as columns, what the surprise and beliefs are weighted by, and the
            directions of the parameters and of the inputs of each lane (which may be
            empty).

    Returns:
        By the parameters, by the inputs of each lane, and by the three weights.
    """
    return outside(_products, *args, grad=True)
