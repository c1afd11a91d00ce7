"""A line fitted to data of which 15 in 100 agree with one another, and not with it.

The outliers sit together at one point of leverage. Least squares goes through them, and
a likelihood that lets outliers go has two modes: `robust_init` finds the right one to
start from. The truth is known.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.distributions import BoundedLikelihood

COEFFICIENTS = (1.0, -2.0, 0.5, 1.5)
NOISE, GOOD, BAD = 0.3, 85, 15


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    prior = dist.Normal(torch.zeros(x.shape[-1]), 10.0)
    coefficients = pyro.sample("coefficients", prior.to_event(1))
    noise = pyro.sample("noise", dist.HalfNormal(torch.full((), 2.0)))
    mean = x @ coefficients
    anything = dist.Normal(torch.zeros_like(mean), 20.0)
    with pyro.plate("data", len(x)):
        base = dist.Normal(mean, noise)
        pyro.sample("y", BoundedLikelihood(base, anything, 0.1), obs=y)
    return mean


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = torch.cat([normal(GOOD, 3), 4.0 + 0.1 * normal(BAD, 3)])
    x = torch.cat([torch.ones(len(x), 1), x], 1)
    y = x @ torch.tensor(COEFFICIENTS, dtype=torch.float64)
    y[GOOD:] = -15.0
    y = y + NOISE * normal(len(x))
    dtype = torch.get_default_dtype()
    return x.to(dtype), y.to(dtype)


def truth() -> dict[str, Tensor]:
    return {"coefficients": torch.tensor(COEFFICIENTS), "noise": torch.tensor(NOISE)}


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    x, y = data()
    print("coefficients: true, of all data, of the good ones")
    everything = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    good = torch.linalg.lstsq(x[:GOOD], y[:GOOD, None]).solution[:, 0]
    for row in zip(COEFFICIENTS, everything, good, strict=True):
        print("  " + "   ".join(f"{float(value):6.2f}" for value in row))
