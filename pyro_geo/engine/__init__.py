"""What every long computation runs on.

A kernel makes blocks of draws (:mod:`~pyro_geo.engine.kernel`) from noise that is
addressed by seed, chain and block (:mod:`~pyro_geo.engine.noise`). The schedule says
which blocks are due, workers make them, the session adds them to a record and commits
each round to a store. Samplers that are not chains have a session of their own on the
same base (:mod:`~pyro_geo.engine.session`).
"""

from pyro_geo.engine.blocks import Block, ChainGroup, Warmup
from pyro_geo.engine.kernel import Kernel
from pyro_geo.engine.noise import BlockNoise, Noise, SequentialNoise

__all__ = [
    "Block",
    "BlockNoise",
    "ChainGroup",
    "Kernel",
    "Noise",
    "SequentialNoise",
    "Warmup",
]
