"""Plants to try controllers on, and Gymnasium environments of them.

A plant simulates many draws of its unknown parameters at once. An environment is one
run of a plant; it needs the extra `control` and is imported when it is asked for.

Modules:
    plant: what every plant offers.
    linear_quadratic: linear dynamics and quadratic costs; a scalar of unknown sign.
    pendulum: the swing-up of a pendulum of unknown mass and length.
    two_routes: a boat with a reef between it and its goal.
    boolean: Boolean networks with unknown rules.
    gym: the environments.
"""

from typing import TYPE_CHECKING

from pyro_geo._lazy import importer
from pyro_geo.planning.environments.boolean import BooleanPlant
from pyro_geo.planning.environments.linear_quadratic import (
    LinearQuadratic,
    unknown_sign,
)
from pyro_geo.planning.environments.pendulum import Pendulum
from pyro_geo.planning.environments.plant import Plant
from pyro_geo.planning.environments.two_routes import TwoRoutes

if TYPE_CHECKING:
    from pyro_geo.planning.environments.gym import (
        BooleanNetworkEnv,
        LinearQuadraticEnv,
        PendulumEnv,
        PlantEnv,
        UnknownSignEnv,
    )

__all__ = [
    "BooleanNetworkEnv",
    "BooleanPlant",
    "LinearQuadratic",
    "LinearQuadraticEnv",
    "Pendulum",
    "PendulumEnv",
    "Plant",
    "PlantEnv",
    "TwoRoutes",
    "UnknownSignEnv",
    "unknown_sign",
]


__getattr__ = importer(
    globals(),
    {
        name: "pyro_geo.planning.environments.gym"
        for name in __all__
        if name not in globals()
    },
)
