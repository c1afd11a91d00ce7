"""Sequential inference of states.

Modules:
    tracker: moving things whose sensors may lie.
    droplet: the exact update of a cut normal by one bounded measurement.
"""

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
    "Level",
    "Measurement",
    "NearConstantVelocity",
    "Position",
    "Random",
    "RangeBearing",
    "RefusalLedger",
    "SensorMode",
    "Stuck",
    "Track",
]
