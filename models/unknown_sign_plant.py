"""A scalar plant whose actions may push either way: six steps of it.

An action that is not tried tells nothing about its sign. The first four steps push so
little that the noise hides the effect; the last two show it.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.planning.environments import LinearQuadratic, unknown_sign

NOISE, KEEP, PUSH = 0.1, 0.95, -0.7
ACTIONS = (0.0, 0.02, -0.02, 0.0, 0.5, -0.5)


def plant() -> LinearQuadratic:
    return unknown_sign(NOISE)


def model(s: Tensor, a: Tensor, y: Tensor | None = None) -> Tensor:
    keep = pyro.sample("keep", dist.Uniform(torch.full((), 0.8), 1.1))
    push = pyro.sample("push", dist.Uniform(torch.full((), -1.2), 1.2))
    theta = torch.stack([keep, push], -1)
    mean = plant().simulate(theta, s, a, torch.zeros_like(s))
    with pyro.plate("steps", len(s)):
        return pyro.sample("y", dist.Normal(mean, NOISE).to_event(1), obs=y)


def log_likelihood(theta: Tensor, s: Tensor, a: Tensor, s_next: Tensor) -> Tensor:
    mean = plant().simulate(theta, s, a, torch.zeros_like(s))
    return dist.Normal(mean, NOISE).log_prob(s_next).sum(-1)


def data(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g, known = torch.Generator().manual_seed(seed), plant()
    double = torch.float64
    a = torch.tensor(ACTIONS, dtype=double)[:, None]
    w = torch.randn(len(a), 1, generator=g, dtype=double)
    theta = torch.tensor([KEEP, PUSH], dtype=double)
    states = [torch.ones(1, dtype=double)]
    for t in range(len(a)):
        states.append(known.simulate(theta, states[-1], a[t], w[t]))
    s = torch.stack(states)
    dtype = torch.get_default_dtype()
    return s[:-1].to(dtype), a.to(dtype), s[1:].to(dtype)


def truth() -> dict[str, Tensor]:
    return {"keep": torch.tensor(KEEP), "push": torch.tensor(PUSH)}


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    s, a, y = data()
    print("state, action, next state")
    for row in torch.cat([s, a, y], 1).tolist():
        print("  " + "   ".join(f"{value:5.2f}" for value in row))
