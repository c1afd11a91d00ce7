"""Cross-entropy searches: one, many that share a budget, and a mixture."""

from pyro_geo.optim.cem.decent import DecentCEM
from pyro_geo.optim.cem.gmm import CEMGMM
from pyro_geo.optim.cem.normal import truncated_normal
from pyro_geo.optim.cem.result import Basins, CEMResult
from pyro_geo.optim.cem.search import Search
from pyro_geo.optim.cem.single import CEM

__all__ = [
    "CEM",
    "CEMGMM",
    "Basins",
    "CEMResult",
    "DecentCEM",
    "Search",
    "truncated_normal",
]
