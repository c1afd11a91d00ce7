"""Independent seeds, and random numbers that leave the global generators alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from pyro.util import get_rng_state, set_rng_seed, set_rng_state

__all__ = ["private_randomness", "substream"]

_WORD = (1 << 64) - 1


@contextmanager
def private_randomness(seed: int) -> Iterator[None]:
    """Draw from a seed inside this context and restore every global random state."""
    state = get_rng_state()
    set_rng_seed(seed)
    try:
        yield
    finally:
        set_rng_state(state)


def substream(seed: int, *path: int) -> int:
    """Return one of many independent seeds.

    Args:
        seed: any integer; only its lowest 64 bits count.
        *path: numbers that identify this seed among the others.

    Returns:
        A seed of 32 bits, because torch's generator keeps no more.
    """
    # SeedSequence mixes its words: close seeds give streams that are not related
    words = [int(seed) & _WORD, *path]
    return int(np.random.SeedSequence(words).generate_state(1)[0])
