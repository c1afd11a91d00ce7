"""Covariance and mean of discounted differences of values."""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.kernels import Kernel
from gpytorch.means import Mean
from linear_operator import to_dense
from torch import Tensor

from pyro_geo.checks import check_count
from pyro_geo.gp._rows import Parts, differences, nodes_of, split
from pyro_geo.gp.td._strategy import TDPredictionStrategy

__all__ = ["TDKernel", "TDMean"]


class TDKernel(Kernel):
    r"""Covariance of rewards, from a covariance of values.

    .. math:: k_{TD}(z, z') = \sum_{i,j=0}^J b_i b'_j\, k(x_i, x'_j),
              \qquad b_0 = 1, \; b_j = -c_j

    A row `z` is a whole transition, as :meth:`~pyro_geo.gp.Transitions.pack` makes it.
    A row with :math:`c = 0`, made by :func:`~pyro_geo.gp.value_rows`, is the value
    itself. With this kernel, temporal differences are ordinary Gaussian process
    regression of rewards, and all of GPyTorch can be used.

    Where rows are steps of a path, the successor of a row is the node of the next one,
    and `base` is evaluated once for both.

    Args:
        base: covariance of values; it sees exactly `dim` columns.
        dim: number of columns of a node, `D`.
        successors: of each transition, `J`.

    References:
        Engel, Mannor & Meir (2003), Bayes meets Bellman, equation 10. The form as a
        kernel of whole transitions is derived.

    Example:
        >>> from gpytorch.kernels import RBFKernel
        >>> kernel = TDKernel(RBFKernel(), dim=1)
        >>> step = torch.tensor([[0.0, 9.0, 0.5]])  # from 0 to far away
        >>> kernel(step).to_dense().tolist()  # 1 + 0.5 ** 2
        [[1.25]]
    """

    def __init__(self, base: Kernel, dim: int, successors: int = 1) -> None:
        check_count("dim", dim)
        check_count("successors", successors)
        super().__init__()
        self.base_kernel = base
        self.dim = dim
        self.successors = successors

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        diag: bool = False,
        last_dim_is_batch: bool = False,
        **params: Any,
    ) -> Tensor:
        """Covariances of two sets of rows; GPyTorch calls this.

        Args:
            x1: rows, `(*batch, n, D + J * D + J)`.
            x2: rows, `(*batch, m, D + J * D + J)`.
            diag: compute only the covariances of row `i` with row `i`.
            last_dim_is_batch: not supported, since columns of a row belong together.
            **params: for `base`.

        Returns:
            Covariances, `(*batch, n, m)`, or `(*batch, n)`.
        """
        if diag:
            return self._diagonal_of(x1, x2, **params)
        first = nodes_of(x1, self.dim, self.successors)
        if x1 is x2 or (x1.shape == x2.shape and torch.equal(x1, x2)):
            second = first
        else:
            second = nodes_of(x2, self.dim, self.successors)
        found = to_dense(self.base_kernel(first.x, second.x, **params))
        return differences(differences(found, first, -2), second, -1)

    def prediction_strategy(
        self,
        train_inputs: Any,
        train_prior_dist: Any,
        train_labels: Tensor,
        likelihood: Any,
    ) -> TDPredictionStrategy:
        """Say how an `ExactGP` with this kernel predicts; GPyTorch calls this."""
        return TDPredictionStrategy(
            train_inputs, train_prior_dist, train_labels, likelihood
        )

    def _diagonal_of(self, x1: Tensor, x2: Tensor, **params: Any) -> Tensor:
        first = split(x1, self.dim, self.successors)
        second = split(x2, self.dim, self.successors)
        pairs = [
            (i, j)
            for i in range(1 + self.successors)
            for j in range(1 + self.successors)
            if _counts(first, i) and _counts(second, j)
        ]
        # all pairs in one call: the kernel takes them as further rows
        rows = torch.cat([_node(first, i) for i, _ in pairs], -2)
        columns = torch.cat([_node(second, j) for _, j in pairs], -2)
        found = to_dense(self.base_kernel(rows, columns, diag=True, **params))
        found = found.unflatten(-1, (len(pairs), -1))
        factors = [_factor(first, i) * _factor(second, j) for i, j in pairs]
        return (torch.stack(factors, -2) * found).sum(-2)


class TDMean(Mean):
    r"""Mean of rewards, from a mean of values.

    .. math:: m_{TD}(z) = m(x) - \sum_j c_j\, m(x'_j)

    A constant mean `c` of values becomes :math:`c\,(1 - \gamma_t)`.

    Args:
        base: mean of values; it sees exactly `dim` columns.
        dim: number of columns of a node, `D`.
        successors: of each transition, `J`.

    Example:
        >>> from gpytorch.means import ConstantMean
        >>> mean = TDMean(ConstantMean(), dim=1)
        >>> mean.base_mean.constant.data.fill_(10.0)
        tensor(10.)
        >>> mean(torch.tensor([[0.0, 1.0, 0.9]])).tolist()
        [1.0...]
    """

    def __init__(self, base: Mean, dim: int, successors: int = 1) -> None:
        check_count("dim", dim)
        check_count("successors", successors)
        super().__init__()
        self.base_mean = base
        self.dim = dim
        self.successors = successors

    def forward(self, x: Tensor) -> Tensor:
        """Means of rows, `(*batch, n)`; GPyTorch calls this."""
        nodes = nodes_of(x, self.dim, self.successors)
        values: Any = self.base_mean(nodes.x)
        return differences(values, nodes, -1)


def _node(parts: Parts, i: int) -> Tensor:
    return parts.x if i == 0 else parts.x_next[..., i - 1, :]


def _counts(parts: Parts, i: int) -> bool:
    return i == 0 or bool((parts.coefficient[..., i - 1] != 0).any())


def _factor(parts: Parts, i: int) -> Tensor:
    if i == 0:
        return torch.ones_like(parts.coefficient[..., 0])
    return -parts.coefficient[..., i - 1]
