"""Inference on Pyro models, with chains as a tensor axis.

Each name is imported when it is first asked for, so that a sampler does not load the
methods beside it.
"""

from typing import TYPE_CHECKING

from pyro_geo._deprecated import moved
from pyro_geo._lazy import importer

if TYPE_CHECKING:
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
    from pyro_geo.infer.robust import RobustInit, robust_init
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

__getattr__ = importer(
    globals(),
    {
        "DIMS": "pyro_geo.infer.mcmc.dims.kernel",
        "FlowResult": "pyro_geo.infer.mcmc.dims.result",
        "GibbsModel": "pyro_geo.infer.gibbs.model",
        "GibbsPosterior": "pyro_geo.infer.gibbs.sampler",
        "HMC": "pyro_geo.infer.mcmc.hmc.kernel",
        "MCMC": "pyro_geo.infer.mcmc.runner",
        "ModeSet": "pyro_geo.infer.modes",
        "PolishResult": "pyro_geo.optim.newton",
        "RobustInit": "pyro_geo.infer.robust",
        "WeightedPosterior": "pyro_geo.infer.gibbs.posterior",
        "dissipative_flow": "pyro_geo.infer.mcmc.dims.driver",
        "find_modes": "pyro_geo.infer.modes",
        "init_to_mode": "pyro_geo.infer.modes",
        "polish_minima": "pyro_geo.optim.newton",
        "robust_init": "pyro_geo.infer.robust",
        "sample_minima": "pyro_geo.infer.mcmc.dims.minima",
    },
)

moved(
    "pyro_geo.infer.robust_init",
    "pyro_geo.infer.robust",
    ["RobustInit", "robust_init"],
)


def __dir__() -> list[str]:
    """List the module's names, those not imported yet included."""
    return sorted({*globals(), *__all__})
