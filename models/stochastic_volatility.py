"""Stochastic volatility: 256 returns whose variance follows a process of its own.

The logarithm of the variance is an autoregression around `level`, with innovations
that are latent as well, so there are more latents than data (Kim, Shephard and Chib
1998, but with a prior that keeps the persistence away from one). The recurrence is
computed in eight steps by doubling, not in 256. With the shift L,
1 / (1 - aL) = (1 + aL) (1 + a^2 L^2) (1 + a^4 L^4) ... The data are simulated.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

LEVEL, PERSISTENCE, VOLATILITY = -1.0, 0.9, 0.4


def autoregression(innovations: Tensor, a: Tensor) -> Tensor:
    """Sum `h[t] = a h[t - 1] + innovations[t]` from a zero before the first."""
    h, shift = innovations, 1
    while shift < len(h):
        h = h + a**shift * torch.cat([h.new_zeros(shift), h[:-shift]])
        shift *= 2
    return h


def log_variance(level: Tensor, a: Tensor, volatility: Tensor, z: Tensor) -> Tensor:
    first = (
        z[:1] / (1.0 - a.square()).sqrt()
    )  # as wide as the series is in the long run
    return level + volatility * autoregression(torch.cat([first, z[1:]]), a)


def model(times: Tensor, y: Tensor | None = None) -> Tensor:
    zero = torch.zeros(())  # carries the default dtype into the priors
    level = pyro.sample("level", dist.Normal(zero, 2.0))
    root = pyro.sample("persistence_atanh", dist.Normal(zero + 1.2, 0.5))
    persistence = pyro.deterministic("persistence", torch.tanh(root))
    volatility = pyro.sample("volatility", dist.HalfNormal(zero + 0.5))
    z = pyro.sample("z", dist.Normal(torch.zeros(len(times)), 1.0).to_event(1))
    h = pyro.deterministic("h", log_variance(level, persistence, volatility, z))
    with pyro.plate("times", len(times)):
        return pyro.sample("y", dist.Normal(0.0, (0.5 * h).exp()), obs=y)


def draw(seed: int) -> tuple[Tensor, Tensor]:
    """Logarithms of the variance, and returns."""
    generator = torch.Generator().manual_seed(seed)
    z, noise = torch.randn(2, 256, generator=generator, dtype=torch.float64)
    level, a, volatility = z.new_tensor([LEVEL, PERSISTENCE, VOLATILITY])
    h = log_variance(level, a, volatility, z)
    dtype = torch.get_default_dtype()
    return h.to(dtype), ((0.5 * h).exp() * noise).to(dtype)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.arange(256.0), draw(seed)[1]


def truth(seed: int = 0) -> dict[str, Tensor]:
    """What the data were simulated with."""
    names = "level", "persistence", "volatility"
    values = map(torch.tensor, (LEVEL, PERSISTENCE, VOLATILITY))
    return {**dict(zip(names, values, strict=True)), "h": draw(seed)[0]}


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    (_, y), h = data(), truth()["h"]
    print("deviation of the returns, simulated and of 32 returns")
    for part, log_var in zip(y.split(32), h.split(32), strict=True):
        print(
            f"  {(0.5 * log_var).exp().mean():.2f}   {part.square().mean().sqrt():.2f}"
        )
