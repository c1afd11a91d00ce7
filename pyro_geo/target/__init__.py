"""A Pyro model as a flat, batched, differentiable density."""

from pyro_geo.target._density import Observation, Terms
from pyro_geo.target._ladder import Lifted, Rung
from pyro_geo.target._layout import Layout, Site
from pyro_geo.target._target import AUTO_COMPILE_STEPS, Target

__all__ = [
    "AUTO_COMPILE_STEPS",
    "Layout",
    "Lifted",
    "Observation",
    "Rung",
    "Site",
    "Target",
    "Terms",
]
