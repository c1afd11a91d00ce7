"""Seeds that have nothing in common, and randomness that leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from pyro.util import get_rng_state, set_rng_seed, set_rng_state

__all__ = ["private_randomness", "substream"]

_WORD = (1 << 64) - 1


@contextmanager
def private_randomness(seed: int) -> Iterator[None]:
    """Draw from a seed of our own and leave every global random state as it was."""
    state = get_rng_state()
    set_rng_seed(seed)
    try:
        yield
    finally:
        set_rng_state(state)


def substream(seed: int, *path: int) -> int:
    """Return one of many seeds that have nothing in common with each other.

    Args:
        seed: any integer; only its lowest 64 bits count.
        *path: what tells this one from the others.

    Returns:
        A seed of 32 bits, for torch's generator keeps no more.
    """
    words = [int(seed) & _WORD, *path]
    return int(np.random.SeedSequence(words).generate_state(1)[0])
