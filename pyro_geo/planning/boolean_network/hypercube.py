r"""Functions on the corners of a cube: the :math:`2^n` states of `n` genes.

A state is a row of `n` bits or one integer, its index, with the first gene most
significant. A function of the state is a tensor whose last axis has :math:`2^n`
entries. Independent flips of the genes act on it as `n` two-by-two matrices, one along
each bit: :math:`O(n 2^n)`, where the matrix of all transitions has :math:`4^n` entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count, check_shape

__all__ = [
    "LARGEST",
    "Evidence",
    "bits_of",
    "condition",
    "evidence",
    "mix",
    "mix_by",
    "mutation_kernels",
    "push",
    "state_bits",
    "state_index",
]

LARGEST = 16  # genes whose states are enumerated

_GROUP = 5  # bits that one small matrix mixes at once: the quickest on a processor


def state_bits(num_genes: int) -> Tensor:
    """List all states.

    Args:
        num_genes: number of genes `n`, at most 16.

    Returns:
        Bits, `(2^n, n)`, as integers; row `s` is the state of index `s`.

    Example:
        >>> state_bits(2).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    check_count("num_genes", num_genes)
    check(num_genes <= LARGEST, "num_genes", num_genes, f"at most {LARGEST}")
    return bits_of(torch.arange(2**num_genes), num_genes)


def bits_of(index: Tensor, num_genes: int) -> Tensor:
    """Bits of states given by their indices, the inverse of :func:`state_index`.

    Args:
        index: indices, `(...)`, as integers.
        num_genes: number of genes `n`.

    Returns:
        Bits, `(..., n)`, as integers.

    Example:
        >>> bits_of(torch.tensor(5), 3).tolist()
        [1, 0, 1]
    """
    places = torch.arange(num_genes - 1, -1, -1, device=index.device)
    return (index[..., None] >> places) & 1


def state_index(bits: Tensor) -> Tensor:
    """Index of states given by their bits.

    Args:
        bits: zeros and ones of any type, `(..., n)`.

    Returns:
        Indices, `(...)`, as integers.

    Example:
        >>> state_index(torch.tensor([1.0, 0.0, 1.0])).item()
        5
    """
    count = bits.shape[-1]
    powers = 2 ** torch.arange(count - 1, -1, -1, device=bits.device)
    return (bits.round().long() * powers).sum(-1)


def mix(values: Tensor, mutation: Tensor | float) -> Tensor:
    r"""Expectation of a function over independent flips of the genes.

    .. math:: (Mv)(x) = E\, v(x \oplus n), \qquad n_i \sim \mathrm{Bernoulli}(p_i)

    The matrix :math:`M` is a Kronecker product of two-by-two matrices and symmetric, so
    the same call moves beliefs forward and values backward. Up to five bits are mixed
    by one small matrix product, which passes over the memory once for all of them.

    Args:
        values: function of the state, `(..., 2^n)`.
        mutation: probability :math:`p` of a flip: a number, or a tensor `(..., n)` or
            `(..., 1)` that broadcasts with the leading axes of `values`.

    Returns:
        The expectation, `(..., 2^n)`, differentiable in both arguments.

    References:
        Derived from the model of Imani, Ghoreishi and Braga-Neto (2018), Bayesian
        Control of Large MDPs with Unknown Dynamics in Data-Poor Environments.

    Example:
        >>> mix(torch.tensor([1.0, 0.0, 0.0, 0.0]), 0.1)
        tensor([0.8100, 0.0900, 0.0900, 0.0100])
    """
    return mix_by(values, mutation_kernels(mutation, genes_of(values), values.dtype))


def mutation_kernels(
    mutation: Tensor | float, num_genes: int, dtype: torch.dtype
) -> list[Tensor]:
    """Matrices of the flips of up to five genes each, for :func:`mix_by`.

    Make them once where many functions are mixed.

    Args:
        mutation: probability of a flip: a number, or a tensor `(..., n)` or `(..., 1)`.
        num_genes: number of genes `n`.
        dtype: of the matrices.

    Returns:
        One matrix for each group of genes, `(..., 2^g, 2^g)`.

    Example:
        >>> [tuple(k.shape) for k in mutation_kernels(0.1, 7, torch.float64)]
        [(16, 16), (8, 8)]
    """
    p = torch.as_tensor(mutation).to(dtype)
    if p.dim():
        good = p.shape[-1] in (1, num_genes)
        check_shape("mutation", p.shape, f"(..., {num_genes}) or (..., 1)", good)
        p = p.expand(*p.shape[:-1], num_genes)
    kernels, first = [], 0
    for size in _groups(num_genes):
        kernels.append(_kernel(p[..., first : first + size] if p.dim() else p, size))
        first += size
    return kernels


def mix_by(values: Tensor, kernels: Sequence[Tensor]) -> Tensor:
    """Expectation of a function over flips whose matrices are made already.

    Args:
        values: function of the state, `(..., 2^n)`.
        kernels: from :func:`mutation_kernels`, in the type of `values`.

    Returns:
        The expectation, `(..., 2^n)`.

    Example:
        >>> mix_by(torch.tensor([1.0, 0.0]), mutation_kernels(0.1, 1, torch.float32))
        tensor([0.9000, 0.1000])
    """
    batch = torch.broadcast_shapes(values.shape[:-1], *(k.shape[:-2] for k in kernels))
    rest = values.shape[-1]
    values = values.expand(*batch, rest)
    shape = values.shape
    for kernel in kernels:
        size = kernel.shape[-1]
        rest //= size
        if rest == 1:  # symmetric: on the right it costs no transposition
            values = values.reshape(*batch, -1, size) @ kernel
        else:
            kernel = kernel[..., None, :, :] if kernel.dim() > 2 else kernel
            values = kernel @ values.reshape(*batch, -1, size, rest)
        values = values.reshape(shape)
    return values


def push(belief: Tensor, image: Tensor) -> Tensor:
    """Carry a distribution over states through a map of the states.

    Args:
        belief: probabilities, `(..., 2^n)`.
        image: index of the state that each state is sent to, `(..., 2^n)`.

    Returns:
        Probabilities of the images, `(..., 2^n)`; leading axes broadcast.

    Example:
        >>> push(torch.tensor([0.5, 0.2, 0.2, 0.1]), torch.tensor([0, 0, 3, 3]))
        tensor([0.7000, 0.0000, 0.0000, 0.3000])
    """
    shape = torch.broadcast_shapes(belief.shape, image.shape)
    start = torch.zeros_like(belief).expand(shape)
    return start.scatter_add(-1, image.expand(shape), belief.expand(shape))


class Evidence(NamedTuple):
    r"""Likelihood of every state as a product of two halves.

    The likelihood of state :math:`(h, l)` is `exp(log_scale) * high[h] * low[l]`.

    Attributes:
        high: of the first half of the genes, largest entry one, `(..., 2^a)`.
        low: of the other genes, largest entry one, `(..., 2^b)`.
        log_scale: logarithm of the largest likelihood, `(...)`.
    """

    high: Tensor
    low: Tensor
    log_scale: Tensor


def evidence(log_bits: Tensor) -> Evidence:
    """Likelihood of all states from that of each gene being off or on.

    Two halves of the genes are kept apart: exponentials are taken of
    :math:`2^{n/2}` numbers and never of :math:`2^n`.

    Args:
        log_bits: log-likelihood of each gene off and on, `(..., n, 2)`.

    Returns:
        The two halves and their scale.

    Example:
        >>> found = evidence(torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log())
        >>> torch.outer(found.high, found.low).flatten() * found.log_scale.exp()
        tensor([0.1800, 0.7200, 0.0200, 0.0800])
    """
    top = log_bits.amax(-1)  # (..., n)
    # both likelihoods zero: their ratio is arbitrary, and the scale is zero anyway
    finite = torch.where(top.isfinite(), top, 0.0)
    bits = (log_bits - finite[..., None]).exp()
    half = (bits.shape[-2] + 1) // 2
    high = _products(bits[..., :half, :])
    return Evidence(high, _products(bits[..., half:, :]), top.sum(-1))


def condition(belief: Tensor, found: Evidence) -> tuple[Tensor, Tensor]:
    r"""Bayes' rule, with its normalising constant.

    .. math:: b'(x) = \frac{b(x)\, p(y \mid x)}{\sum_z b(z)\, p(y \mid z)}

    Args:
        belief: probabilities, `(..., 2^n)`.
        found: likelihood of the states.

    Returns:
        The new probabilities, `(..., 2^n)`, and the logarithm of the denominator,
        `(...)`. An observation that no state can have caused has the logarithm minus
        infinity and leaves zeros.

    Example:
        >>> found = evidence(torch.tensor([[0.25, 0.75]]).log())
        >>> condition(torch.tensor([0.5, 0.5]), found)[0]
        tensor([0.2500, 0.7500])
    """
    high, low = found.high[..., :, None], found.low[..., None, :]
    a, b = high.shape[-2], low.shape[-1]
    joint = belief.reshape(*belief.shape[:-1], a, b) * high * low
    joint = joint.reshape(*joint.shape[:-2], a * b)
    total = joint.sum(-1)
    tiny = torch.finfo(joint.dtype).tiny
    return joint / total.clamp_min(tiny)[..., None], total.log() + found.log_scale


def genes_of(values: Tensor) -> int:
    """Count the genes of a function of the state."""
    size = values.shape[-1] if values.dim() else 0
    good = size >= 2 and size & (size - 1) == 0
    check_shape("values", values.shape, "(..., 2^n)", good)
    return int(math.log2(size))


def _groups(count: int) -> list[int]:
    """Sizes of the groups of bits, as equal as they can be."""
    parts = -(-count // _GROUP)
    return [count // parts + (k < count % parts) for k in range(parts)]


def _kernel(p: Tensor, size: int) -> Tensor:
    """Kronecker product of the two-by-two matrices of `size` bits."""
    columns: Sequence[Tensor] = p.unbind(-1) if p.dim() else [p] * size
    kernel = p.new_ones(())[..., None, None]
    for flip in columns:
        rows = torch.stack([1 - flip, flip, flip, 1 - flip], -1)
        small = rows.reshape(*rows.shape[:-1], 2, 2)
        kernel = kernel[..., :, None, :, None] * small[..., None, :, None, :]
        kernel = kernel.reshape(*small.shape[:-2], *(kernel.shape[-4] * 2,) * 2)
    return kernel


def _products(bits: Tensor) -> Tensor:
    """Products over genes of the likelihoods of off and on: `(..., 2^m)`."""
    result = bits.new_ones(*bits.shape[:-2], 1)  # of no gene
    for gene in range(bits.shape[-2]):
        result = result[..., :, None] * bits[..., gene, None, :]
        result = result.reshape(*result.shape[:-2], -1)
    return result
