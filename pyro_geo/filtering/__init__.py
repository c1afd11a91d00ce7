"""Sequential inference of states.

Modules:
    tracker: moving things whose sensors may lie.
"""

from pyro_geo.filtering.tracker import (
    Biased,
    BoundedTracker,
    Cruise,
    Decoy,
    Dynamics,
    Level,
    Measurement,
    NearConstantVelocity,
    Position,
    Random,
    RangeBearing,
    RefusalLedger,
    SensorMode,
    Stuck,
    Track,
)

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
