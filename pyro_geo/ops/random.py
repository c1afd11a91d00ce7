"""Independent seeds, and random numbers that leave the global generators alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor

from pyro_geo.checks import check_seed

__all__ = [
    "draw_rows",
    "normal_points",
    "private_randomness",
    "seed_generators",
    "seed_torch",
    "substream",
]

_WORD = (1 << 64) - 1


@contextmanager
def private_randomness(seed: int) -> Iterator[None]:
    """Draw from a seed inside this context and restore every global random state."""
    state = get_rng_state()
    seed_generators(seed)
    try:
        yield
    finally:
        set_rng_state(state)


def seed_torch(seed: int) -> None:
    """Seed torch's global generators, one for each kind of device it was built for.

    `torch.manual_seed` seeds a CUDA device that is not in use yet too, when it is first
    used, and writes down the call stack for it. That takes most of a millisecond, also
    where torch was built for processors alone.
    """
    if torch.accelerator.current_accelerator() is None:
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, as Pyro does."""
    seed_torch(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  what Pyro seeds


def substream(seed: int, *path: int) -> int:
    """Return one of many independent seeds.

    Args:
        seed: any integer; only its lowest 64 bits count.
        *path: numbers that identify this seed among the others.

    Returns:
        A seed of 32 bits, because torch's generator keeps no more.
    """
    # SeedSequence mixes its words: close seeds give streams that are not related
    check_seed(seed)
    words = [int(seed) & _WORD, *path]
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def draw_rows(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw rows in proportion to their weights, the same ones on every device.

    Args:
        weights: of the rows, `(rows,)`.
        count: how many are drawn; a row may be drawn more than once.
        generator: of the processor.

    Returns:
        Indices where the weights are, `(count,)`.

    Example:
        >>> draw_rows(torch.tensor([0.0, 1.0]), 3, torch.Generator()).tolist()
        [1, 1, 1]
    """
    drawn = weights.cpu().multinomial(count, True, generator=generator)
    return drawn.to(weights.device)


def normal_points(dim: int, count: int, seed: int) -> Tensor:
    """Scrambled Sobol points of a standard normal distribution, in antithetic pairs.

    Where there are enough, their second moment is the identity exactly: averages of
    quadratic functions have no error.

    Args:
        dim: of a point.
        count: how many; an odd number is rounded up.
        seed: of the scrambling.

    Returns:
        In double precision, `(count, dim)`.

    Example:
        >>> x = normal_points(2, 8, 0)
        >>> bool((x.T @ x / 8).allclose(torch.eye(2, dtype=x.dtype)))
        True
    """
    pairs = -(-count // 2)
    sobol = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed)
    uniform = sobol.draw(pairs, dtype=torch.float64)
    half = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
    if pairs >= 2 * dim:
        second = torch.linalg.cholesky(half.T @ half / pairs)
        half = torch.linalg.solve_triangular(second, half.T, upper=False).T
    return torch.cat([half, -half])
