"""Selective projection decay: optimisers that hold on to where they started.

Modules:
    optimiser: around any torch optimiser.
    sites: as an optimiser of Pyro's, with anchors of a guide.
    anchors: what parameters are pulled to, and groups by name.
    rule: the rule itself.
"""

from pyro_geo.optim.decay.anchors import parameter_groups
from pyro_geo.optim.decay.optimiser import SPD
from pyro_geo.optim.decay.sites import anchors_from_guide, anchors_from_prior, spd

__all__ = [
    "SPD",
    "anchors_from_guide",
    "anchors_from_prior",
    "parameter_groups",
    "spd",
]
