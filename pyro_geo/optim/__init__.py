"""Searches, descent and Newton steps of many starts, and optimisers with memory."""

from typing import TYPE_CHECKING

from pyro_geo._lazy import importer

if TYPE_CHECKING:
    from pyro_geo.optim.cem import CEM, CEMGMM, CEMResult, DecentCEM
    from pyro_geo.optim.decay import SPD, spd
    from pyro_geo.optim.ons import EigenONS

__all__ = ["CEM", "CEMGMM", "SPD", "CEMResult", "DecentCEM", "EigenONS", "spd"]

__getattr__ = importer(
    globals(),
    {
        "CEM": "pyro_geo.optim.cem",
        "CEMGMM": "pyro_geo.optim.cem",
        "CEMResult": "pyro_geo.optim.cem",
        "DecentCEM": "pyro_geo.optim.cem",
        "EigenONS": "pyro_geo.optim.ons",
        "SPD": "pyro_geo.optim.decay",
        "spd": "pyro_geo.optim.decay",
    },
)
