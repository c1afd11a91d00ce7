"""A ReLU network fitted to a curve of two kinks: squared loss, known noise.

The network has 10 hidden units where 2 are enough. The data do not determine most
directions of its weights, and its learning coefficient is far below half their number.
Outputs are clipped to [-1, 1], where the curve lies. The excess of the squared loss
over that of the curve is then bounded and can be certified.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

HIDDEN = 10
BOUND = 1.0
NOISE = 0.3
NUM_POINTS = 400


def weights(name: str, *shape: int) -> Tensor:
    prior = dist.Normal(torch.zeros(shape), 1.0)
    return pyro.sample(name, prior.to_event(len(shape)))


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    w1, b1 = weights("w1", HIDDEN), weights("b1", HIDDEN)
    w2, b2 = weights("w2", HIDDEN), weights("b2")
    mean = torch.relu(x[:, None] * w1 + b1) @ w2 + b2
    mean = mean.clamp(-BOUND, BOUND)
    with pyro.plate("points", x.shape[0]):
        pyro.sample("y", dist.Normal(mean, NOISE), obs=y)
    return mean


def loss(mean: Tensor, y: Tensor) -> Tensor:
    return (mean - y) ** 2


def curve(x: Tensor) -> Tensor:
    return 0.8 - 1.2 * torch.relu(x + 0.3) + 1.8 * torch.relu(x - 0.4)


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    dtype = torch.get_default_dtype()
    return x.to(dtype), (curve(x) + NOISE * noise).to(dtype)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    return points(NUM_POINTS, 2 * seed)


def held_out(seed: int = 0) -> tuple[Tensor, Tensor]:
    return points(200, 2 * seed + 1)


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0, "explore_time": 2.0}


if __name__ == "__main__":
    x, y = data()
    noise = loss(curve(x), y).mean()
    print(f"{len(y)} points; squared loss")
    print(f"of the curve itself {noise:.3f}")
    pyro.set_rng_seed(0)
    print(f"of a network from the prior {loss(model(x, y), y).mean():.3f}")
