"""A pendulum of unknown mass and length, swung by random torques for two seconds.

The speed is measured with noise. Gravity tells the length, and how far a torque moves
the pendulum tells the mass. A controller is to swing it up.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.planning.environments import Pendulum

STEPS, NOISE = 40, 0.05
MASS, LENGTH = 1.2, 0.8


def plant() -> Pendulum:
    return Pendulum(MASS, LENGTH, noise=NOISE)


def start() -> Tensor:
    return torch.tensor([-1.0, 0.0, 0.0])  # it hangs


def model(s: Tensor, a: Tensor, y: Tensor | None = None) -> Tensor:
    mass = pyro.sample("mass", dist.LogNormal(torch.zeros(()), 0.3))
    length = pyro.sample("length", dist.LogNormal(torch.zeros(()), 0.3))
    theta = torch.stack([mass, length], -1)
    speed = plant().simulate(theta, s, a, torch.zeros_like(a))[..., 2]
    with pyro.plate("steps", len(s)):
        return pyro.sample("y", dist.Normal(speed, NOISE), obs=y)


def log_likelihood(theta: Tensor, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
    speed = plant().simulate(theta, s, a, torch.zeros_like(a))[..., 2]
    return dist.Normal(speed, NOISE).log_prob(s_next[..., 2])


def states(count: int, generator: torch.Generator) -> Tensor:
    """Any angle with any speed that a swing reaches, where values are learned."""
    u = 2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1
    angle = torch.pi * u[:, 0]
    return torch.stack([angle.cos(), angle.sin(), 8 * u[:, 1]], -1)


def data(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g, known, double = torch.Generator().manual_seed(seed), plant(), torch.float64
    a = 4 * torch.rand(STEPS, 1, generator=g, dtype=double) - 2
    w = torch.randn(STEPS, 1, generator=g, dtype=double)
    theta = torch.tensor([MASS, LENGTH], dtype=double)
    states = [torch.tensor([-1.0, 0.0, 0.0], dtype=double)]
    for t in range(STEPS):
        states.append(known.simulate(theta, states[-1], a[t], w[t]))
    s = torch.stack(states)
    dtype = torch.get_default_dtype()
    return s[:-1].to(dtype), a.to(dtype), s[1:, 2].to(dtype)


def truth() -> dict[str, Tensor]:
    return {"mass": torch.tensor(MASS), "length": torch.tensor(LENGTH)}


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    s, a, _ = data()
    angles = torch.atan2(s[:, 1], s[:, 0]).rad2deg()
    print("angle from upright, speed, torque")
    for angle, speed, torque in zip(angles[::8], s[::8, 2], a[::8, 0], strict=True):
        print(f"  {angle:7.1f}   {speed:5.2f}   {torque:5.2f}")
