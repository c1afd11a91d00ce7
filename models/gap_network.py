"""Regression with a gap: what does a network predict where there are no data?

Forty points of sin 2.5x + 0.3x, with known noise, lie beside an empty middle. A network
1-16-16-1 of 321 weights fits them in many ways, which differ most inside the gap.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

NOISE = 0.15
PRIOR_PRECISION = 0.05
HIDDEN = 16


def weights(name: str, *shape: int) -> Tensor:
    prior = dist.Normal(torch.zeros(shape), PRIOR_PRECISION**-0.5)
    return pyro.sample(name, prior.to_event(len(shape)))


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    w1, b1 = weights("w1", 1, HIDDEN), weights("b1", HIDDEN)
    w2, b2 = weights("w2", HIDDEN, HIDDEN), weights("b2", HIDDEN)
    w3, b3 = weights("w3", HIDDEN, 1), weights("b3", 1)
    h = torch.tanh(torch.tanh(x @ w1 + b1) @ w2 + b2)
    mean = (h @ w3 + b3).squeeze(-1)
    with pyro.plate("data", x.shape[0]):
        return pyro.sample("y", dist.Normal(mean, NOISE), obs=y)


def signal(x: Tensor) -> Tensor:
    return torch.sin(2.5 * x) + 0.3 * x


def draw(num_points: int, inside_gap: bool, seed: int) -> tuple[Tensor, Tensor]:
    # Drawn in float32 whatever the default is: the same data at both precisions.
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(num_points, generator=generator, dtype=torch.float32)
    noise = torch.randn(num_points, generator=generator, dtype=torch.float32)
    left = torch.arange(num_points) < num_points // 2
    outside = torch.where(left, -2.0 + 1.2 * u, 0.8 + 1.2 * u)
    x = -0.8 + 1.6 * u if inside_gap else outside
    y = signal(x) + NOISE * noise
    dtype = torch.get_default_dtype()
    return x.unsqueeze(-1).to(dtype), y.to(dtype)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    return draw(40, False, seed)


def held_out(seed: int = 0) -> tuple[Tensor, Tensor]:
    return draw(400, False, seed + 1_000_000)


def out_of_distribution(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Test points inside the gap."""
    return draw(400, True, seed + 2_000_000)


def truth(seed: int = 0) -> dict[str, Tensor]:  # at the inputs of `data`
    return {"mean": signal(data(seed)[0]).squeeze(-1)}


def options() -> dict[str, object]:
    # weights that only the prior holds come to rest slowly
    slow = {"settle_time": 40.0, "settle_friction": 0.7, "polish_max_steps": 200}
    flat = {"alpha": 0.0, "velocity_scale": 0.2, "max_evals": 80_000}
    return {"loss": "joint", **flat, **slow}


if __name__ == "__main__":
    pyro.set_rng_seed(0)
    x = torch.linspace(-2.0, 2.0, 5).unsqueeze(-1)
    curves = torch.stack([model(x) for _ in range(500)])
    print("prior predictive of y")
    for point, mean, sd in zip(x[:, 0], curves.mean(0), curves.std(0), strict=True):
        print(f"  x = {point:5.2f}   mean {mean:6.2f}   sd {sd:6.2f}")
