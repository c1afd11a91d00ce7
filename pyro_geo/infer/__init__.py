"""Inference on Pyro models, with chains as a tensor axis."""

from pyro_geo.infer.gibbs.model import GibbsModel
from pyro_geo.infer.gibbs.posterior import WeightedPosterior
from pyro_geo.infer.gibbs.sampler import GibbsPosterior
from pyro_geo.infer.mcmc.dims.driver import dissipative_flow
from pyro_geo.infer.mcmc.dims.kernel import DIMS
from pyro_geo.infer.mcmc.dims.minima import sample_minima
from pyro_geo.infer.mcmc.dims.result import FlowResult
from pyro_geo.infer.mcmc.hmc.kernel import HMC
from pyro_geo.infer.mcmc.runner import MCMC
from pyro_geo.infer.modes import ModeSet, find_modes, init_to_mode
from pyro_geo.infer.robust_init import RobustInit, robust_init
from pyro_geo.optim.newton import PolishResult, polish_minima

__all__ = [
    "DIMS",
    "HMC",
    "MCMC",
    "FlowResult",
    "GibbsModel",
    "GibbsPosterior",
    "ModeSet",
    "PolishResult",
    "RobustInit",
    "WeightedPosterior",
    "dissipative_flow",
    "find_modes",
    "init_to_mode",
    "polish_minima",
    "robust_init",
    "sample_minima",
]
