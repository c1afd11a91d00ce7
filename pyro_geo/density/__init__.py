"""A Pyro model as a flat, batched, differentiable density."""

from pyro_geo.density.compiling import GraphSize
from pyro_geo.density.ladder import Lifted, Rung
from pyro_geo.density.layout import Layout, Site
from pyro_geo.density.protocol import Observation, Terms
from pyro_geo.density.target import Target
from pyro_geo.density.tempered import Localisation

__all__ = [
    "GraphSize",
    "Layout",
    "Lifted",
    "Localisation",
    "Observation",
    "Rung",
    "Site",
    "Target",
    "Terms",
]
