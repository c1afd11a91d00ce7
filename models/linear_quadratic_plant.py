"""A mass on a track, pushed by a force, with unknown friction and strength.

The dynamics are linear and the costs quadratic, so that the optimal control of the true
plant is known exactly. The data are thirty steps under random forces.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.planning.environments import LinearQuadratic

STEPS, NOISE = 30, 0.05
FRICTION, STRENGTH = 0.9, 0.15


def plant() -> LinearQuadratic:
    return LinearQuadratic(
        torch.tensor([[1.0, 0.1], [0.0, FRICTION]]),
        torch.tensor([[0.0], [STRENGTH]]),
        state_cost=torch.tensor([[1.0, 0.0], [0.0, 0.1]]),
        action_cost=torch.tensor([[0.01]]),
        noise=NOISE * torch.eye(2),
        unknown=[(1, 1), (1, 2)],
    )


def start() -> Tensor:
    return torch.tensor([1.0, 0.0])


def model(s: Tensor, a: Tensor, y: Tensor | None = None) -> Tensor:
    friction = pyro.sample("friction", dist.Uniform(torch.full((), 0.5), 1.0))
    strength = pyro.sample("strength", dist.Normal(torch.full((), 0.1), 0.1))
    noise = pyro.sample("noise", dist.HalfNormal(torch.full((), 0.2)))
    theta = torch.stack([friction, strength], -1)
    mean = plant().simulate(theta, s, a, torch.zeros_like(s))
    with pyro.plate("steps", len(s)):
        return pyro.sample("y", dist.Normal(mean, noise).to_event(1), obs=y)


def sites() -> list[str]:
    return ["friction", "strength"]


def log_likelihood(theta: Tensor, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
    mean = plant().simulate(theta, s, a, torch.zeros_like(s))
    return dist.Normal(mean, NOISE).log_prob(s_next).sum(-1)


def data(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g, known = torch.Generator().manual_seed(seed), plant()
    a = 6 * torch.rand(STEPS, 1, generator=g, dtype=torch.float64) - 3
    w = torch.randn(STEPS, 2, generator=g, dtype=torch.float64)
    theta = torch.tensor([FRICTION, STRENGTH], dtype=torch.float64)
    states = [torch.tensor([1.0, 0.0], dtype=torch.float64)]
    for t in range(STEPS):
        states.append(known.simulate(theta, states[-1], a[t], w[t]))
    s = torch.stack(states)
    dtype = torch.get_default_dtype()
    return s[:-1].to(dtype), a.to(dtype), s[1:].to(dtype)


def truth() -> dict[str, Tensor]:
    values = {"friction": FRICTION, "strength": STRENGTH, "noise": NOISE}
    return {name: torch.tensor(value) for name, value in values.items()}


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    s, a, _ = data()
    gain, _ = plant().optimal(discount=0.95)
    print(f"{len(s)} steps\noptimal gain {gain[0, 0]:.3f}, {gain[0, 1]:.3f}")
    for position, speed in s[::10].tolist():
        print(f"  position {position:5.2f}   speed {speed:5.2f}")
