"""Data divided between the prior and the certificate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.errors import PriorDependsOnDataError
from pyro_geo.infer.gibbs.model import as_tuple

__all__ = ["PriorSplit", "check_disjoint", "pair_of", "split_prior"]


class PriorSplit(NamedTuple):
    """Data for the prior, and data for the certificate.

    Attributes:
        prior: for scaling, feature selection and the prior's centre.
        certify: for the tilt and the certificate.
        prior_index: rows of the first, sorted.
        certify_index: rows of the second, sorted.
    """

    prior: tuple[Tensor, ...]
    certify: tuple[Tensor, ...]
    prior_index: Tensor
    certify_index: Tensor


def split_prior(*tensors: Tensor, fraction: float = 0.5, seed: int = 0) -> PriorSplit:
    """Divide examples at random, one part for the prior and one for the certificate.

    Every choice made by looking at data, such as scaling the inputs, makes the prior
    depend on these data. A certificate on the same data is then void.

    Raises :class:`~pyro_geo.errors.ShapeError` where there are no tensors, or
    tensors of several lengths.

    Args:
        *tensors: inputs and targets with one row for each of `n` examples.
        fraction: share of the examples for the prior.
        seed: of the division.

    Returns:
        The two parts, with their rows.

    Example:
        >>> split = split_prior(torch.arange(10.0), torch.arange(10), fraction=0.3)
        >>> [len(part) for part in (split.prior[0], split.certify[1])]
        [3, 7]
    """
    lengths = {len(tensor) for tensor in tensors}
    check_shape(
        "tensors", sorted(lengths), "one length, that of the data", len(lengths) == 1
    )
    n = lengths.pop()
    first = round(fraction * n)
    expected = f"a share that leaves some of the {n} examples in both parts"
    check(0 < first < n, "fraction", fraction, expected)
    # sorted rows keep the order of the examples, as for series
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    rows = order[:first].sort().values, order[first:].sort().values
    parts = [tuple(t[index.to(t.device)] for t in tensors) for index in rows]
    return PriorSplit(parts[0], parts[1], rows[0], rows[1])


def pair_of(data: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Take data apart, each part as a tuple.

    Args:
        data: `(args, targets)`, each a tuple or one tensor.

    Returns:
        Arguments and targets.
    """
    found = f"{len(data)} values" if isinstance(data, (tuple, list)) else type(data)
    good = isinstance(data, (tuple, list)) and len(data) == 2
    check(good, "data", found, "(args, targets), such as ((x, z), y)")
    return as_tuple(data[0]), as_tuple(data[1])


def check_disjoint(
    prior_index: Sequence[int] | Tensor, certify_index: Sequence[int] | Tensor
) -> None:
    """Refuse a certificate on examples that the prior has seen.

    Args:
        prior_index: rows that the prior used.
        certify_index: rows of the certificate.

    Raises:
        PriorDependsOnDataError: they overlap.

    Example:
        >>> check_disjoint([0, 1, 2], [3, 4])
    """
    prior = set(torch.as_tensor(prior_index).tolist())
    shared = prior & set(torch.as_tensor(certify_index).tolist())
    if shared:
        raise PriorDependsOnDataError(
            "the prior has seen certifying examples",
            where="index sets",
            found=f"{len(shared)} in common, row {min(shared)} among them",
            expected="none",
            todo="Divide the data with split_prior.",
        )
