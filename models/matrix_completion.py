"""Complete a 10 x 10 matrix of rank 2 from noisy entries, with factors of rank 4.

Entries are observed at random places, some more than once, with noise of known size.
Predictions are clipped to [-1, 1], where all true entries lie. The model is singular,
because the factors are wider than needed: many pairs of factors give the same matrix.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

SIZE, RANK, FACTORS = 10, 2, 4
BOUND = 1.0
NOISE = 0.5
NUM_ENTRIES = 500


def model(row: Tensor, column: Tensor, y: Tensor | None = None) -> Tensor:
    zeros = torch.zeros(SIZE, FACTORS)
    u = pyro.sample("u", dist.Normal(zeros, 0.5).to_event(2))
    v = pyro.sample("v", dist.Normal(zeros, 0.5).to_event(2))
    entry = (u @ v.mT).flatten()[row * SIZE + column].clamp(-BOUND, BOUND)
    with pyro.plate("entries", len(row)):
        pyro.sample("y", dist.Normal(entry, NOISE), obs=y)
    return entry


def loss(entry: Tensor, y: Tensor) -> Tensor:
    return (entry - y) ** 2


def truth(seed: int = 0) -> dict[str, Tensor]:
    """Factors of the true matrix; those beyond its rank are zero."""
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randn(2, SIZE, RANK, generator=generator, dtype=torch.float64)
    scale = (u @ v.mT).abs().max().sqrt()
    pad = torch.zeros(SIZE, FACTORS - RANK)
    dtype = torch.get_default_dtype()
    factors = {"u": u / scale, "v": v / scale}
    return {name: torch.cat([f.to(dtype), pad], 1) for name, f in factors.items()}


def entries(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1_000 + seed)
    row = torch.randint(SIZE, (count,), generator=generator)
    column = torch.randint(SIZE, (count,), generator=generator)
    factors = truth()
    mean = (factors["u"] @ factors["v"].mT)[row, column]
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    return row, column, mean + NOISE * noise.to(mean)


def data(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return entries(NUM_ENTRIES, seed)


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0, "explore_time": 2.0}


if __name__ == "__main__":
    row, column, y = data()
    seen = torch.bincount(row * SIZE + column, minlength=SIZE**2)
    print(f"{SIZE} x {SIZE} of rank {RANK}, factors of rank {FACTORS}")
    print(f"{len(y)} entries at {int((seen > 0).sum())} of {SIZE**2} places")
    factors = truth()
    matrix = factors["u"] @ factors["v"].mT
    print(
        "singular values:", torch.linalg.svdvals(matrix)[:4].round(decimals=2).tolist()
    )
