"""Learning coefficients: how many parameters a singular model really has."""

from pyro_geo.infer.certificates.learning import rlct
from pyro_geo.infer.certificates.learning.estimates import (
    Estimate,
    fit_free_energy,
    heat_capacity,
    sbic,
    tempered_losses,
    two_temperature,
    wbic,
)
from pyro_geo.infer.certificates.learning.llc import LLC, llc
from pyro_geo.infer.certificates.learning.population import population_bound
from pyro_geo.infer.certificates.learning.rlct import Coefficient

__all__ = [
    "LLC",
    "Coefficient",
    "Estimate",
    "fit_free_energy",
    "heat_capacity",
    "llc",
    "population_bound",
    "rlct",
    "sbic",
    "tempered_losses",
    "two_temperature",
    "wbic",
]
