"""Columns whose outer products are a generalised Gauss-Newton matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from pyro_geo.checks import check_choice, check_shape
from pyro_geo.geometry import likelihoods

__all__ = ["Likelihood", "ggn_factor"]

Likelihood = Literal["normal", "bernoulli", "categorical"]
"""What outputs are the natural parameters of."""

_FAMILIES: Mapping[Likelihood, likelihoods.Likelihood] = {
    "normal": likelihoods.Gaussian(),
    "bernoulli": likelihoods.Bernoulli(),
    "categorical": likelihoods.Categorical(),
}


def ggn_factor(
    outputs: Tensor, params: Iterable[Tensor], likelihood: Likelihood = "normal"
) -> Tensor:
    r"""Make columns :math:`J^\top \Lambda^{1/2}` of outputs, summed over their rows.

    `J` is the Jacobian of the outputs and :math:`\Lambda` the Hessian of the negative
    log-likelihood in them: the identity for a normal of variance 1,
    :math:`p(1 - p)` for Bernoulli logits, :math:`\operatorname{diag}(p) - p p^\top` for
    categorical ones.

    Args:
        outputs: of a network, with a graph, `(n, classes)`.
        params: parameters, in the order of the optimiser.
        likelihood: what the outputs parametrise.

    Returns:
        `(dim, n * classes)`, without a graph.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2, 1))
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> ggn_factor(x @ weight, [weight]).tolist()
        [[1.0], [2.0]]
    """
    check_choice("likelihood", likelihood, tuple(_FAMILIES))
    check_shape("outputs", outputs.shape, "(n, classes)", good=outputs.ndim == 2)
    params = list(params)
    n, classes = outputs.shape
    eye = torch.eye(classes, dtype=outputs.dtype, device=outputs.device)
    units = eye[:, None].expand(-1, n, -1)
    rows = _FAMILIES[likelihood].root(outputs.detach(), units)  # (classes, n, classes)
    seeds = outputs.new_zeros(n, classes, n, classes)
    index = torch.arange(n, device=outputs.device)
    seeds[index, :, index] = rows.permute(1, 2, 0)
    slopes = torch.autograd.grad(
        outputs,
        params,
        seeds.flatten(0, 1),
        is_grads_batched=True,
        materialize_grads=True,
        retain_graph=True,
    )
    return torch.cat([slope.flatten(1) for slope in slopes], 1).mT.detach()
