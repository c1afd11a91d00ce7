"""Tomography of a qubit, where some batches of measurements are flipped.

Sixty batches of forty shots each measure one Pauli axis. The state is a point of the
Bloch ball, flat before the data: a support with a hard edge, near which the truth lies.
A batch is a binomial count or, with a chance of 15 %, any count at all.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.distributions import BoundedFlat, BoundedLikelihood

BATCHES, SHOTS, BAD = 60, 40, 9
BLOCH = (0.55, -0.45, 0.64)  # of length .96: almost a pure state


def model(axis: Tensor, counts: Tensor | None = None) -> Tensor:
    ball = BoundedFlat(torch.zeros(3), scale_tril=torch.eye(3), radius=1.0)
    bloch = pyro.sample("bloch", ball)
    shots = torch.full((len(axis),), float(SHOTS))
    up = ((1 + bloch[axis]) / 2).clamp(1e-4, 1 - 1e-4)
    any_count = dist.Categorical(logits=torch.zeros(SHOTS + 1))
    with pyro.plate("batches", len(axis)):
        batch = BoundedLikelihood(dist.Binomial(shots, up), any_count, 0.15)
        pyro.sample("y", batch, obs=counts)
    return bloch


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Axes of the batches, and how many shots of each were up."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(BATCHES) % 3
    up = (1 + torch.tensor(BLOCH, dtype=torch.float64)[axis]) / 2
    shots = torch.rand(SHOTS, BATCHES, generator=generator, dtype=torch.float64)
    counts = (shots < up).sum(0)
    flipped = torch.randperm(BATCHES, generator=generator)[:BAD]
    counts[flipped] = SHOTS - counts[flipped]
    return axis, counts.to(torch.get_default_dtype())


def truth() -> dict[str, Tensor]:
    return {"bloch": torch.tensor(BLOCH)}


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    axis, counts = data()
    print("Bloch vector from the mean and the median of the batches, and true")
    for k, value in enumerate(BLOCH):
        share = counts[axis == k] / SHOTS
        mean, median = 2 * share.mean() - 1, 2 * share.median() - 1
        print(f"  {mean:.2f}   {median:.2f}   {value:.2f}")
