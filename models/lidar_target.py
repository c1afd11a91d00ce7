"""A vehicle that a LiDAR sees: range and bearing, some of them in bursts too near.

It turns three times. Four bursts of ten reports are too near, and one report in twenty
is clutter. The model walks in velocity; `tracker` filters the reports as they come.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.distributions import BoundedLikelihood
from pyro_geo.filtering import BoundedTracker

DT, STEPS, SPEED = 0.1, 300, 8.0
SIGMA = (0.15, 0.0105)  # metres, radians
LOWER, UPPER = (2.0, -1.5), (150.0, 1.5)  # the field of view


def polar(position: Tensor) -> Tensor:
    x, y = position.unbind(-1)
    return torch.stack([torch.hypot(x, y), torch.atan2(y, x)], -1)


def model(t: Tensor, y: Tensor | None = None) -> Tensor:
    zero = torch.zeros(2)
    start = pyro.sample("start", dist.Normal(zero + 30.0, 20.0).to_event(1))
    first = pyro.sample("velocity", dist.Normal(zero, 10.0).to_event(1))
    pushes = dist.Normal(torch.zeros(len(t), 2), 4.0 * DT**0.5)
    push = pyro.sample("push", pushes.to_event(2))
    position = start + DT * torch.cumsum(first + torch.cumsum(push, 0), 0)
    base = dist.Normal(polar(position), torch.tensor(SIGMA)).to_event(1)
    field = dist.Uniform(torch.tensor(LOWER), torch.tensor(UPPER)).to_event(1)
    with pyro.plate("time", len(t)):
        pyro.sample("y", BoundedLikelihood(base, field, 0.15), obs=y)
    return position


def draw(seed: int) -> tuple[Tensor, Tensor]:
    """Positions, and reports of them."""
    g, double = torch.Generator().manual_seed(seed), torch.float64
    rate = torch.zeros(STEPS, dtype=double)
    for k, turn in enumerate((0.8, -1.1, 0.6)):
        rate[40 + 90 * k : 60 + 90 * k] = turn
    heading = 1.0 + DT * torch.cumsum(rate, 0)
    steps = SPEED * DT * torch.stack([heading.cos(), heading.sin()], -1)
    position = torch.tensor([30.0, -60.0], dtype=double) + torch.cumsum(steps, 0)
    y = torch.tensor(SIGMA) * torch.randn(STEPS, 2, generator=g, dtype=double)
    y += polar(position)
    for begin, short in ((30, 4.0), (110, 7.0), (190, 3.0), (260, 6.0)):
        y[begin : begin + 10, 0] -= short
    where, hit = torch.rand(2, STEPS, 2, generator=g, dtype=double)
    clutter = torch.tensor(LOWER) + where * torch.tensor((118.0, 3.0))
    y = torch.where(hit[:, :1] < 0.05, clutter, y)
    dtype = torch.get_default_dtype()
    return position.to(dtype), y.to(dtype)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    return DT * torch.arange(float(STEPS)), draw(seed)[1]


def truth(seed: int = 0) -> dict[str, Tensor]:
    return {"position": draw(seed)[0]}


def tracker() -> BoundedTracker:
    return BoundedTracker.preset("lidar", noise=SIGMA)


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    t, y = data()
    error = (tracker().filter(y, t).position[0] - truth()["position"]).norm(dim=-1)
    print(f"{len(t)} reports\nerror of the tracker in metres")
    print(f"median {error.median():.2f}, largest {error.max():.2f}")
