r"""Extreme eigenvalues of many symmetric operators at once, by Lanczos' method.

:func:`lanczos` builds an orthonormal basis of the Krylov space of a random start; the
eigenvalues of the operator within it are the Ritz values. The smallest one is never
below the operator's smallest eigenvalue, so that a negative one proves negative
curvature. :func:`num_steps` says how many steps find it, should there be one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count, check_number
from pyro_geo.ops.lanes import column, dot

__all__ = ["Ritz", "lanczos", "num_steps"]

_ROUNDING = 64.0  # machine epsilons of the norm that are rounding in a product


class Ritz(NamedTuple):
    """What Lanczos' method knows of each lane's operator.

    Attributes:
        values: Ritz values, ascending, `(lanes, steps)`; NaN where a product was not
            finite.
        vectors: unit vectors of the smallest ones, `(lanes, count, dim)`.
    """

    values: Tensor
    vectors: Tensor

    @property
    def norm(self) -> Tensor:
        """Largest size of a Ritz value, the operator's norm from below, `(lanes,)`."""
        return self.values.abs().amax(-1)

    @property
    def rounding(self) -> Tensor:
        r"""Size up to which a Ritz value cannot be told from zero, `(lanes,)`.

        A product is off by some `eps |H| |v|`, with `|H|` the matrix of the entries'
        sizes, whose norm is up to :math:`\sqrt{dim}` times that of `H` (Higham 2002,
        section 3.5 and lemma 6.6).
        """
        eps, dim = torch.finfo(self.values.dtype).eps, self.vectors.shape[-1]
        return _ROUNDING * eps * math.sqrt(dim) * self.norm


def num_steps(dim: int, share: float = 1e-2, risk: float = 1e-3) -> int:
    r"""Count the steps that find a negative eigenvalue, should there be one.

    For an operator with eigenvalues from :math:`-r \lambda` to :math:`\lambda` and a
    start of uniform direction, the smallest Ritz value of `k` steps is negative but
    for a probability of at most

    .. math:: 1.648 \sqrt{d} \, e^{-\sqrt{\epsilon} (2k - 1)},
              \qquad \epsilon = \frac{r}{1 + r}

    (the bound for the largest eigenvalue of a positive-definite matrix, applied to
    :math:`\lambda - H`). With as many steps as dimensions nothing is missed.

    Args:
        dim: dimension, `d`.
        share: size of the negative eigenvalue relative to the largest one, `r`.
        risk: probability to miss it.

    Returns:
        The steps, at most `dim`.

    References:
        Kuczynski and Wozniakowski (1992), Estimating the largest eigenvalue by the
        power and Lanczos algorithms with a random start, theorem 4.2.

    Example:
        >>> num_steps(10), num_steps(321), num_steps(100_000)
        (10, 53, 67)
    """
    check_count("dim", dim)
    check_number("share", share, strict=True)
    check_number("risk", risk, 0.0, 1.0, strict=True)
    root = math.sqrt(share / (1 + share))
    steps = 0.5 + math.log(1.648 * math.sqrt(dim) / risk) / (2 * root)
    return min(dim, math.ceil(steps))


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, steps: int, count: int = 1
) -> Ritz:
    """Run Lanczos' method on every lane's operator, all vectors orthogonalised.

    Where the Krylov space ends before `steps`, it goes on with another vector, so
    that the eigenvalue of a whole eigenspace is found as often as there are steps left.

    Args:
        product: maps vectors `(lanes, dim)` to the products with each lane's operator.
        start: random vectors, `(lanes, dim)`, not zero.
        steps: of the method, at most `dim`.
        count: how many vectors to return.

    Returns:
        Ritz values and the vectors of the smallest ones.

    References:
        Golub and Van Loan (2013), Matrix computations, algorithm 10.1.1 and section
        10.3.3; Higham (2002), Accuracy and stability of numerical algorithms, for the
        rounding.

    Example:
        >>> diagonal = torch.tensor([-1.0, 0.0, 2.0, 3.0]).double()
        >>> start = torch.tensor([[0.3, -1.0, 0.7, 0.2]]).double()
        >>> ritz = lanczos(lambda v: diagonal * v, start, 4)
        >>> (ritz.values[0] - diagonal).abs().max() < 1e-12
        tensor(True)
        >>> ritz.vectors[0, 0].abs().round(decimals=6).tolist()
        [1.0, 0.0, 0.0, 0.0]
    """
    lanes, dim = start.shape
    check(1 <= steps <= dim, "steps", steps, f"a count from 1 to dim = {dim}")
    eps = torch.finfo(start.dtype).eps
    basis = start.new_zeros(lanes, steps, dim)
    diagonal = start.new_zeros(lanes, steps)
    beside = start.new_zeros(lanes, steps - 1)
    v = start / start.norm(dim=-1, keepdim=True)
    before, coupling = torch.zeros_like(v), torch.zeros_like(v[:, :1])
    scale = torch.zeros_like(start[:, 0])  # the largest product so far
    for k in range(steps):
        basis[:, k] = v
        w = product(v)
        diagonal[:, k] = dot(v, w)
        scale = torch.maximum(scale, w.norm(dim=-1))
        if k == steps - 1:
            break
        known = basis[:, : k + 1]
        # rounding alone is left of the earlier vectors once these two are taken out
        w = w - column(diagonal[:, k]) * v - coupling * before
        w = _orthogonal(w, known)
        length = w.norm(dim=-1)
        # the space has ended where nothing but rounding is left of the product
        ended = ~(length > _ROUNDING * eps * math.sqrt(dim) * scale)
        if bool(ended.any()):
            other = _orthogonal(_orthogonal(start.roll(k + 1, -1), known), known)
            w = torch.where(column(ended), other, w)
        beside[:, k] = torch.where(ended, 0.0, length)
        before, coupling = v, column(beside[:, k])
        v = w / w.norm(dim=-1, keepdim=True)
    matrix = torch.diag_embed(diagonal)
    matrix += torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
    finite = matrix.isfinite().all(-1).all(-1)
    values, inner = torch.linalg.eigh(torch.where(finite[:, None, None], matrix, 0.0))
    values = torch.where(column(finite), values, torch.nan)
    vectors = inner[..., :count].mT @ basis
    return Ritz(values, vectors / vectors.norm(dim=-1, keepdim=True))


def _orthogonal(w: Tensor, basis: Tensor) -> Tensor:
    """Take the basis out of a vector."""
    return w - ((basis @ w[..., None]).mT @ basis)[:, 0]
