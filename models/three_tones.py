"""Three tones in noise, which may be named in any order.

Each tone has a frequency and the amplitudes of its cosine and sine. The likelihood is
a sum over the tones, so that the posterior has 3! = 6 modes of equal mass, one for
each order; and many low ones, at frequencies that fit side lobes of the spectrum. A
chain stays in the mode next to its start.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

OMEGA = [0.6, 1.4, 2.3]  # radians per step
AMPLITUDES = [[1.0, 0.5], [-0.6, 0.8], [0.9, -0.4]]  # of cosine and sine
SIGMA = 0.5
NUM_POINTS = 60


def waves(omega: Tensor, a: Tensor, t: Tensor) -> Tensor:
    """Sum of the tones at times `t`."""
    angle = omega[:, None] * t
    return (a[:, :1] * angle.cos() + a[:, 1:] * angle.sin()).sum(0)


def model(t: Tensor, y: Tensor | None = None) -> Tensor:
    zero = torch.zeros(3)
    omega = pyro.sample("omega", dist.Uniform(zero, math.pi).to_event(1))
    a = pyro.sample("a", dist.Normal(torch.zeros(3, 2), 2.0).to_event(2))
    sigma = pyro.sample("sigma", dist.LogNormal(torch.zeros(()), 1.0))
    with pyro.plate("times", len(t)):
        return pyro.sample("y", dist.Normal(waves(omega, a, t), sigma), obs=y)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(NUM_POINTS, dtype=torch.float64)
    omega, a = (torch.tensor(x, dtype=torch.float64) for x in (OMEGA, AMPLITUDES))
    noise = torch.randn(NUM_POINTS, generator=generator, dtype=torch.float64)
    y = waves(omega, a, t) + SIGMA * noise
    return t.to(torch.get_default_dtype()), y.to(torch.get_default_dtype())


def truth() -> dict[str, Tensor]:
    """What the data were simulated with, in one of the six orders."""
    names = "omega", "a", "sigma"
    values = map(torch.tensor, (OMEGA, AMPLITUDES, SIGMA))
    return dict(zip(names, values, strict=True))


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    t, y = data()
    omega = torch.linspace(0.1, 3.0, 30)
    angle = omega[:, None] * t
    power = ((angle.cos() @ y) ** 2 + (angle.sin() @ y) ** 2) / len(y)
    print("power by frequency")
    for w, p in zip(omega, power, strict=True):
        print(f"  {w:4.1f}   {'#' * int(2 * p)}")
