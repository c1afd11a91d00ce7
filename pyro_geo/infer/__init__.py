"""Inference on Pyro models, with chains as a tensor axis."""

from pyro_geo.infer.gibbs.model import GibbsModel
from pyro_geo.infer.gibbs.posterior import WeightedPosterior
from pyro_geo.infer.gibbs.sampler import GibbsPosterior
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
    "GibbsModel",
    "GibbsPosterior",
    "Noise",
    "PolishResult",
    "Warmup",
    "WeightedPosterior",
    "dissipative_flow",
    "polish_minima",
    "sample_minima",
]
