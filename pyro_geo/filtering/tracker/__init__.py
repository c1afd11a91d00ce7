"""A tracker of moving things whose sensors may lie.

Modules:
    tracker: the Pyro module, and what a user calls.
    track: its result. ledger: what was refused.
    dynamics, measurements, sensors: how targets move, what sensors report, how they
        fail; users write their own.
    runs: the step as a pure function of tensors.
    evidence: the likelihood of the reports, for fits of the tracker's numbers.
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
    "RefusalLedger",
    "Level",
    "Measurement",
    "NearConstantVelocity",
    "Position",
    "Random",
    "RangeBearing",
    "SensorMode",
    "Stuck",
    "Track",
]
