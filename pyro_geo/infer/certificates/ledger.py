"""A count of the certificates made on each set of data, against a plan."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.checks import check, check_count
from pyro_geo.infer.gibbs.rows import Examples, Rows

__all__ = ["Ledger", "content_hash"]


class Ledger:
    """Count the certificates made on each set of data, against a plan.

    Every certificate computed from the same data is a look at them, even if only the
    seed is new, and all looks share `delta`. Plan their number beforehand:
    `certify(..., ledger=ledger)` then gives each look its share of `delta` and refuses
    one too many. Data are recognised by their content.

    Args:
        looks: number planned for each set of data.

    Example:
        >>> import torch
        >>> ledger = Ledger(looks=2)
        >>> ledger.look(torch.ones(3)), ledger.look(torch.ones(3))
        (2, 2)
        >>> ledger.taken(torch.ones(3)), ledger.taken(torch.zeros(3))
        (2, 0)
    """

    def __init__(self, looks: int = 1) -> None:
        check_count("looks", looks)
        self.looks = looks
        self._taken: dict[str, int] = {}

    def look(self, data: Any) -> int:
        """Record a look.

        Raises :class:`~pyro_geo.errors.ConfigurationError` where all looks
        planned for these data are taken.

        Args:
            data: `(args, targets)` to certify on, or any tree of tensors.

        Returns:
            The number of looks planned, among which `delta` is divided.
        """
        key = _key(data)
        taken = self._taken.get(key, 0)
        planned = f"at most {self.looks} looks at these data, as planned"
        check(taken < self.looks, "ledger", f"look {taken + 1}", planned)
        self._taken[key] = taken + 1
        return self.looks

    def taken(self, data: Any) -> int:
        """Count the looks taken at some data."""
        return self._taken.get(_key(data), 0)


def _key(data: Any) -> str:
    """Recognise examples by their rows, in any order and floating type."""
    if isinstance(data, Rows):
        return data.digest
    if isinstance(data, tuple) and len(data) == 2:
        args, targets = (x if isinstance(x, (tuple, list)) else (x,) for x in data)
        examples = Examples.of(args, targets)
        if examples is not None:
            return examples.rows().digest
    return content_hash(data)


def content_hash(data: Any) -> str:
    """Hash tensors by type, shape and content.

    Args:
        data: tree of tensors.

    Returns:
        Hexadecimal digits; the same for equal tensors, wherever they lie.
    """
    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves(data):
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            digest.update(leaf.detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()
