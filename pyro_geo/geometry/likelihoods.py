r"""What the outputs of a network mean: divergence, slope and curvature in them.

For outputs `f` with distribution `p_f`, a likelihood gives the divergence
:math:`D(f_0 \,\|\, f) = KL(p_{f_0} \,\|\, p_f)` of each row, its gradient in `f`, and
a root `L` of its Hessian at :math:`f = f_0`, :math:`\Lambda = L L^\top`.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_geo.checks import check_choice, check_number

__all__ = ["Bernoulli", "Categorical", "Gaussian", "Likelihood", "likelihood_named"]


class Likelihood(Protocol):
    """Distribution of a row of outputs."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def divergence(self, reference: Tensor, outputs: Tensor) -> Tensor:
        """KL divergence of each row from the reference, `(n,)`."""
        ...

    def slope(self, reference: Tensor, outputs: Tensor) -> Tensor:
        """Gradient of the divergence in the outputs, `(n, outputs)`."""
        ...

    def root(self, outputs: Tensor, tangents: Tensor) -> Tensor:
        r"""Multiply tangents with the root of the curvature.

        Args:
            outputs: where, `(n, outputs)`.
            tangents: `(count, n, outputs)`.

        Returns:
            Vectors whose inner products are :math:`t^\\top \\Lambda t'`, of the same
            shape.
        """
        ...


class Categorical(NamedTuple):
    r"""Classes, from logits: :math:`\Lambda = diag(p) - p p^\top`.

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 2)
        >>> rows = Categorical().root(logits, torch.tensor([[[1.0, 0.0]]]))
        >>> round(float(rows.square().sum()), 4)
        0.25
    """

    @property
    def name(self) -> str:
        """Its name."""
        return "categorical"

    def divergence(self, reference: Tensor, outputs: Tensor) -> Tensor:
        """KL divergence of each row from the reference, `(n,)`."""
        start = reference.log_softmax(-1)
        apart = start - outputs.log_softmax(-1)
        return (start.exp() * apart).flatten(1).sum(1)

    def slope(self, reference: Tensor, outputs: Tensor) -> Tensor:
        """Gradient of the divergence in the outputs, `(n, outputs)`."""
        return outputs.softmax(-1) - reference.softmax(-1)

    def root(self, outputs: Tensor, tangents: Tensor) -> Tensor:
        """Multiply tangents with the root of the curvature, `(count, n, outputs)`."""
        half = 0.5 * outputs.log_softmax(-1)
        p = (2 * half).exp()
        # sum_c p_c (t_c - mean)^2 is the variance of t under p
        mean = (tangents * p).sum(-1, keepdim=True)
        return half.exp() * (tangents - mean)


class Gaussian(NamedTuple):
    r"""Means of normal distributions: :math:`\Lambda = I / \sigma^2`.

    Attributes:
        variance: :math:`\sigma^2`.

    Example:
        >>> import torch
        >>> Gaussian(0.5).divergence(torch.zeros(1, 2), torch.ones(1, 2)).tolist()
        [2.0]
    """

    variance: float = 1.0

    @property
    def name(self) -> str:
        """Its name."""
        return "gaussian"

    def divergence(self, reference: Tensor, outputs: Tensor) -> Tensor:
        """KL divergence of each row from the reference, `(n,)`."""
        squares = (outputs - reference).square().flatten(1).sum(1)
        return squares / (2 * self.variance)

    def slope(self, reference: Tensor, outputs: Tensor) -> Tensor:
        """Gradient of the divergence in the outputs, `(n, outputs)`."""
        return (outputs - reference) / self.variance

    def root(self, outputs: Tensor, tangents: Tensor) -> Tensor:
        """Multiply tangents with the root of the curvature, `(count, n, outputs)`."""
        return tangents / math.sqrt(self.variance)


class Bernoulli(NamedTuple):
    r"""Independent binary outcomes, from logits: :math:`\Lambda = diag(p (1 - p))`.

    Example:
        >>> import torch
        >>> zero = torch.zeros(1, 1)
        >>> Bernoulli().slope(zero, torch.full((1, 1), 100.0)).tolist()
        [[0.5]]
    """

    @property
    def name(self) -> str:
        """Its name."""
        return "bernoulli"

    def divergence(self, reference: Tensor, outputs: Tensor) -> Tensor:
        """KL divergence of each row from the reference, `(n,)`."""
        p = reference.sigmoid()
        yes = logsigmoid(reference) - logsigmoid(outputs)
        no = logsigmoid(-reference) - logsigmoid(-outputs)
        return (p * yes + (-reference).sigmoid() * no).flatten(1).sum(1)

    def slope(self, reference: Tensor, outputs: Tensor) -> Tensor:
        """Gradient of the divergence in the outputs, `(n, outputs)`."""
        return outputs.sigmoid() - reference.sigmoid()

    def root(self, outputs: Tensor, tangents: Tensor) -> Tensor:
        """Multiply tangents with the root of the curvature, `(count, n, outputs)`."""
        half = 0.5 * (logsigmoid(outputs) + logsigmoid(-outputs))
        return half.exp() * tangents


def likelihood_named(name: str, variance: float = 1.0) -> Likelihood:
    """Choose a likelihood by its name.

    Args:
        name: `"categorical"`, `"gaussian"` or `"bernoulli"`.
        variance: of the noise, for `"gaussian"` alone.

    Returns:
        The likelihood.

    Example:
        >>> likelihood_named("gaussian", 0.25)
        Gaussian(variance=0.25)
    """
    check_choice("likelihood", name, ("categorical", "gaussian", "bernoulli"))
    check_number("variance", variance, strict=True)
    if name == "gaussian":
        return Gaussian(variance)
    return Categorical() if name == "categorical" else Bernoulli()
