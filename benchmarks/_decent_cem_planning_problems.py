"""Problems of planning: those that settings are chosen on, and those held out.

They differ in the constants of their plants and in all seeds. Routes are those of
:class:`TwoRoutes`. The pendulums are many at once, each with a mass and a length of its
own, an estimate of both, and five draws about it. A state carries the estimate as two
constants, and the draws are factors of it, so that all are one batch.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.planning import Simulator
from pyro_geo.planning.environments import TwoRoutes

__all__ = ["Routes", "Swings", "routes", "swings"]

STEP, TOP_SPEED, DRAWS = 0.05, 8.0, 5


class Routes(NamedTuple):
    """A plant, and where its problems begin."""

    plant: TwoRoutes
    starts: Tensor


def routes(count: int, *, held_out: bool) -> list[Routes]:
    """Make `count` problems, of one plant to be held out, else of three."""
    if held_out:
        plants = [TwoRoutes()]
    else:
        plants = [
            TwoRoutes(0.9, -0.05, height=9.0),
            TwoRoutes(1.1, 0.15, height=15.0),
            TwoRoutes(1.0, 0.0, limit=0.8),
        ]
    g = torch.Generator().manual_seed(2000 if held_out else 1000)
    each = max(1, count // len(plants))
    return [Routes(plant, plant.initial((each,), g).float()) for plant in plants]


class Swings(NamedTuple):
    """Pendulums side by side.

    Attributes:
        plant: all of them; its parameters are factors of the estimates.
        down: first states, hanging: angle, speed and two constants, `(B, 4)`.
        truth: true factors, `(B, 2)`.
        draws: that planners know, `(5, 2)`.
    """

    plant: Simulator
    down: Tensor
    truth: Tensor
    draws: Tensor

    def anywhere(self, seed: int) -> Tensor:
        """Draw other first states: any angle, speeds from -1 to 1."""
        g = torch.Generator().manual_seed(seed)
        u = 2 * torch.rand(len(self.down), 2, generator=g) - 1
        state = self.down.clone()
        state[:, 0], state[:, 1] = math.pi * u[:, 0], u[:, 1]
        return state


def swings(count: int, *, held_out: bool) -> Swings:
    """Make `count` pendulums whose mass and length are known within a twentieth."""
    mass, length, gravity, limit = (
        (1.0, 1.0, 10.0, 2.0) if held_out else (0.9, 1.15, 9.0, 1.8)
    )
    g = torch.Generator().manual_seed(4000 if held_out else 3000)
    base = torch.tensor([mass, length])
    truth = base * (0.1 * torch.randn(count, 2, generator=g)).exp()
    measured = truth * (0.05 * torch.randn(count, 2, generator=g)).exp()
    draws = (0.05 * torch.randn(DRAWS, 2, generator=g)).exp()
    known_mass, known_length = measured.unbind(-1)
    angle = torch.full((count,), math.pi)
    pull = 1.5 * gravity / known_length
    push = 3 / (known_mass * known_length**2)
    hanging = torch.stack([angle, 0 * angle, pull, push], -1)

    def simulate(theta: Tensor, s: Tensor, a: Tensor, noise: Tensor) -> Tensor:
        angle, speed, pull, push = s.unbind(-1)
        mass, length = theta.unbind(-1)
        torque = a[..., 0].clamp(-limit, limit)
        turn = pull / length * angle.sin() + push / (mass * length**2) * torque
        speed = (speed + turn * STEP).clamp(-TOP_SPEED, TOP_SPEED)
        return torch.stack([angle + speed * STEP, speed, pull, push], -1)

    def reward(s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
        angle = s[..., 0] - 2 * math.pi * (s[..., 0] / (2 * math.pi)).round()
        torque = a[..., 0].clamp(-limit, limit)
        return -(angle.square() + 0.1 * s[..., 1].square() + 0.001 * torque.square())

    plant = Simulator(
        simulate,
        reward,
        lambda shape, generator: hanging[0].expand(*shape, 4),
        parameters=["mass", "length"],
        limit=limit,
    )
    as_single = [x.float() for x in (hanging, truth / measured, draws)]
    return Swings(plant, *as_single)
