"""The level behind an order flow: it walks and jumps, and its reports spike.

One report in thirty is off by 10 to 10,000 standard deviations, and twelve bursts are
off together. On arrival a burst and a jump of the level cannot be told apart: no filter
is right about both. The model is a random walk whose steps have heavy tails.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.distributions import BoundedLikelihood
from pyro_geo.filtering import BoundedTracker

STEPS = 600


def model(t: Tensor, y: Tensor | None = None) -> Tensor:
    first = pyro.sample("first", dist.Normal(torch.zeros(()), 10.0))
    rate = pyro.sample("rate", dist.HalfNormal(torch.full((), 0.5)))
    unit = dist.StudentT(3.0, torch.zeros(len(t)), 1.0)
    step = pyro.sample("step", unit.to_event(1))
    level = first + rate * torch.cumsum(step, 0)
    base = dist.Normal(level[:, None], 1.0).to_event(1)
    anything = dist.Normal(torch.zeros(len(t), 1), 1000.0).to_event(1)
    with pyro.plate("time", len(t)):
        pyro.sample("y", BoundedLikelihood(base, anything, 0.1), obs=y)
    return level


def draw(seed: int) -> tuple[Tensor, Tensor]:
    """Levels, and reports of them."""
    g, double = torch.Generator().manual_seed(seed), torch.float64
    walk, jump, noise = torch.randn(3, STEPS, generator=g, dtype=double)
    jumped, spiked, size, sign = torch.rand(4, STEPS, generator=g, dtype=double)
    level = torch.cumsum(0.2 * walk + 4.0 * jump * (jumped < 0.004), 0)
    y = level + noise
    for k in range(12):
        y[20 + 45 * k : 32 + 45 * k] += 8.0 * (-1) ** k
    spike = 10 ** (1 + 3 * size) * torch.sign(sign - 0.5)
    y = torch.where(spiked < 0.03, level + spike, y)
    dtype = torch.get_default_dtype()
    return level[:, None].to(dtype), y[:, None].to(dtype)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.arange(float(STEPS)), draw(seed)[1]


def truth(seed: int = 0) -> dict[str, Tensor]:
    return {"position": draw(seed)[0]}


def tracker() -> BoundedTracker:
    return BoundedTracker.preset("level", noise=1.0)


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    t, y = data()
    track = tracker().filter(y, t)
    error = (track.position[0] - truth()["position"]).abs()
    print(f"{len(t)} reports, {int((track.severed > 10).sum())} refused")
    print(f"error of the tracker\nmedian {error.median():.2f}, mean {error.mean():.2f}")
