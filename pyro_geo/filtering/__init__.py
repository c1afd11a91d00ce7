"""Sequential inference of states.

Modules:
    hgf: a hidden state whose rate of change is itself hidden.
    tracker: moving things whose sensors may lie.
    droplet: the exact update of a cut normal by one bounded measurement.
"""

from pyro_geo.filtering.hgf import response
from pyro_geo.filtering.hgf.checks import hgf_inputs, hgf_parameters
from pyro_geo.filtering.hgf.filter import hgf_filter, hgf_surprise
from pyro_geo.filtering.hgf.network import HGFNetwork
from pyro_geo.filtering.hgf.parameters import HGFInputs, HGFParameters
from pyro_geo.filtering.hgf.regression import SubjectRegression
from pyro_geo.filtering.hgf.series import HGFSeries
from pyro_geo.filtering.hgf.simulate import HGFSimulation, simulate_hgf
from pyro_geo.filtering.hgf.trajectory import HGFState, HGFTrajectory
from pyro_geo.filtering.hgf.trials import read_trials
from pyro_geo.filtering.hgf.volatility import variational_energy, volatility_update
from pyro_geo.filtering.tracker.dynamics import (
    Cruise,
    Dynamics,
    Level,
    NearConstantVelocity,
)
from pyro_geo.filtering.tracker.ledger import RefusalLedger
from pyro_geo.filtering.tracker.measurements import (
    Measurement,
    Position,
    RangeBearing,
)
from pyro_geo.filtering.tracker.sensors import (
    Biased,
    Decoy,
    Random,
    SensorMode,
    Stuck,
)
from pyro_geo.filtering.tracker.track import Track
from pyro_geo.filtering.tracker.tracker import BoundedTracker

__all__ = [
    "Biased",
    "BoundedTracker",
    "Cruise",
    "Decoy",
    "Dynamics",
    "HGFInputs",
    "HGFNetwork",
    "HGFParameters",
    "HGFSeries",
    "HGFSimulation",
    "HGFState",
    "HGFTrajectory",
    "Level",
    "Measurement",
    "NearConstantVelocity",
    "Position",
    "Random",
    "RangeBearing",
    "RefusalLedger",
    "SensorMode",
    "Stuck",
    "SubjectRegression",
    "Track",
    "hgf_filter",
    "hgf_inputs",
    "hgf_parameters",
    "hgf_surprise",
    "read_trials",
    "response",
    "simulate_hgf",
    "variational_energy",
    "volatility_update",
]
