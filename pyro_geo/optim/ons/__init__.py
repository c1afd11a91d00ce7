"""Online Newton steps with a memory of few eigenvectors.

Modules:
    optimiser: as a torch optimiser.
    memory: what it remembers, and adding to it and taking from it.
    factors: columns of generalised Gauss-Newton matrices.
"""

from pyro_geo.optim.ons.factors import ggn_factor
from pyro_geo.optim.ons.memory import Memory, add, empty, remove
from pyro_geo.optim.ons.optimiser import EigenONS

__all__ = ["EigenONS", "Memory", "add", "empty", "ggn_factor", "remove"]
