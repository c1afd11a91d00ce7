"""A boat that must pass a reef: above it or below it, never across it.

How hard the engine pushes and how strong the current is, is learned from thirty trial
steps. Plans that pass the reef on either side are good, and their average runs onto it.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.planning.environments import TwoRoutes

STEPS, NOISE = 30, 0.05
PUSH, CURRENT = 1.0, 0.1


def plant() -> TwoRoutes:
    return TwoRoutes(PUSH, CURRENT, noise=NOISE)


def start() -> Tensor:
    return torch.zeros(2)


def model(s: Tensor, a: Tensor, y: Tensor | None = None) -> Tensor:
    push = pyro.sample("push", dist.LogNormal(torch.zeros(()), 0.5))
    current = pyro.sample("current", dist.Normal(torch.zeros(()), 0.3))
    theta = torch.stack([push, current], -1)
    mean = plant().simulate(theta, s, a, torch.zeros_like(s))
    with pyro.plate("steps", len(s)):
        return pyro.sample("y", dist.Normal(mean, NOISE).to_event(1), obs=y)


def data(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g, double = torch.Generator().manual_seed(seed), torch.float64
    s = 8 * torch.rand(STEPS, 2, generator=g, dtype=double)
    a = 0.2 * torch.rand(STEPS, 2, generator=g, dtype=double) - 0.1
    w = torch.randn(STEPS, 2, generator=g, dtype=double)
    y = plant().simulate(plant().theta.double(), s, a, w)
    s, a, y = (x.to(torch.get_default_dtype()) for x in (s, a, y))
    return s, a, y


def truth() -> dict[str, Tensor]:
    return {"push": torch.tensor(PUSH), "current": torch.tensor(CURRENT)}


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    for name, side in (("across", 0.0), ("above", 1.0), ("below", -1.0)):
        s, cost = start(), 0.0
        for t in range(12):
            a = torch.tensor([1.0 * (t < 8), side * (t < 4) - side * (8 <= t)])
            after = plant().simulate(plant().theta, s, a, torch.zeros(2))
            cost, s = cost - float(plant().reward(s, a, after)), after
        print(f"{name}: cost {cost:.1f}, ends at {s[0]:.1f}, {s[1]:.1f}")
