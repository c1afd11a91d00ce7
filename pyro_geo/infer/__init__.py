"""Inference on Pyro models, with chains as a tensor axis."""

from pyro_geo.engine.kernel import Block, BlockKernel, Warmup
from pyro_geo.engine.noise import BlockNoise, Noise
from pyro_geo.infer.gibbs.model import GibbsModel
from pyro_geo.infer.gibbs.posterior import WeightedPosterior
from pyro_geo.infer.gibbs.sampler import GibbsPosterior
from pyro_geo.infer.mcmc.dims.driver import dissipative_flow
from pyro_geo.infer.mcmc.dims.result import FlowResult
from pyro_geo.infer.mcmc.dims.sampler import DIMS, sample_minima
from pyro_geo.infer.mcmc.hmc.sampler import HMC
from pyro_geo.infer.mcmc.runner import MCMC
from pyro_geo.optim.newton import PolishResult, polish_minima

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
