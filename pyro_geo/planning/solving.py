"""Solve a group of draws; a draw that fails is told apart from the others."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from pyro_geo.planning.backends import Learned, ValueBackend

__all__ = ["solve_group"]


def solve_group(
    backend: ValueBackend, theta: Tensor, seeds: list[int]
) -> tuple[Learned | None, dict[int, str]]:
    """Solve a group of draws; where that fails as a whole, one after the other.

    Args:
        backend: learns the values.
        theta: draws, `(B, P)`.
        seeds: of each draw.

    Returns:
        What was learned, and the failed draws with the reasons. The rows of failed
        draws say nothing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            part = backend.learn(theta, seeds)
    except Exception as reason:  # a draw may break a simulator in any way
        if len(theta) == 1:
            return None, {0: f"{type(reason).__name__}: {reason}"}
        return _one_by_one(backend, theta, seeds)
    failed: dict[int, str] = {}
    for name, value in {**part.tensors, **part.diagnostics}.items():
        finite = value.isfinite().reshape(len(theta), -1).all(-1)
        for row in (~finite).nonzero()[:, 0].tolist():
            failed.setdefault(row, f"{name} is not finite")
    return part, failed


def _one_by_one(
    backend: ValueBackend, theta: Tensor, seeds: list[int]
) -> tuple[Learned | None, dict[int, str]]:
    failed: dict[int, str] = {}
    found: list[Learned | None] = []
    for row, seed in enumerate(seeds):
        part, own = solve_group(backend, theta[row : row + 1], [seed])
        if own:
            failed[row] = own[0]
        found.append(part)
    whole = [part for part in found if part is not None]
    if not whole:
        return None, failed
    # rows of failed draws are filled, so that rows keep their numbers
    filled = [whole[0] if part is None else part for part in found]
    return Learned(
        *(
            {n: torch.cat([getattr(part, kind)[n] for part in filled]) for n in names}
            for kind, names in (
                ("tensors", whole[0].tensors),
                ("diagnostics", whole[0].diagnostics),
            )
        )
    ), failed
