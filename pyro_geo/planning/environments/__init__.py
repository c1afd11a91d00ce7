"""Plants to try controllers on, and Gymnasium environments of them.

A plant simulates many draws of its unknown parameters at once. An environment is one
run of a plant; it needs the extra `control` and is imported when it is asked for.

Modules:
    plant: what every plant offers.
    linear_quadratic: linear dynamics and quadratic costs; a scalar of unknown sign.
    pendulum: the swing-up of a pendulum of unknown mass and length.
    boolean: Boolean networks with unknown rules.
    gym: the environments.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyro_geo.planning.environments.boolean import BooleanPlant
from pyro_geo.planning.environments.linear_quadratic import (
    LinearQuadratic,
    unknown_sign,
)
from pyro_geo.planning.environments.pendulum import Pendulum
from pyro_geo.planning.environments.plant import Plant

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
    "UnknownSignEnv",
    "unknown_sign",
]


def __getattr__(name: str) -> Any:
    """Import an environment when it is first asked for.

    Args:
        name: the attribute.

    Returns:
        The class of that name.

    Raises:
        AttributeError: there is no such name.
    """
    if not (name.endswith("Env") and name in __all__):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module("pyro_geo.planning.environments.gym"), name)
    globals()[name] = value  # the next access does not come through here
    return value
