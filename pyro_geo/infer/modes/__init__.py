"""Modes of a posterior, and starts of chains and guides from them."""

from pyro_geo.infer.modes.find import find_modes
from pyro_geo.infer.modes.mode_set import ModeSet
from pyro_geo.infer.modes.starting import init_to_mode

__all__ = ["ModeSet", "find_modes", "init_to_mode"]
