"""Inference on Pyro models, with chains as a tensor axis."""

from pyro_geo.infer.mcmc._kernel import Block, BlockKernel, Warmup
from pyro_geo.infer.mcmc._noise import BlockNoise, Noise
from pyro_geo.infer.mcmc._runner import MCMC
from pyro_geo.infer.mcmc.dims.driver import FlowResult, dissipative_flow
from pyro_geo.infer.mcmc.dims.polish import PolishResult, polish_minima
from pyro_geo.infer.mcmc.dims.sampler import DIMS, sample_minima
from pyro_geo.infer.mcmc.hmc.sampler import HMC

__all__ = [
    "DIMS",
    "HMC",
    "MCMC",
    "Block",
    "BlockKernel",
    "BlockNoise",
    "FlowResult",
    "Noise",
    "PolishResult",
    "Warmup",
    "dissipative_flow",
    "polish_minima",
    "sample_minima",
]
