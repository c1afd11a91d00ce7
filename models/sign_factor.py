"""A factor model: six tests, two abilities, and signs that nobody can tell.

Results are normal with covariance `L L' + diag(noise ** 2)`, abilities integrated out.
The first test depends on the general ability alone, which fixes the rotation of the
loadings `L`. The sign of each column is left: there are four modes of equal mass.
Posterior means of loadings over all of them are zero. Products of loadings, such as
covariances, are the same in all four.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

GENERAL = [0.9, 0.8, 0.7, 0.6, 0.7, 0.5]
SPECIAL = [0.7, 0.6, -0.5, -0.6, 0.4]  # of all tests but the first
NOISE = [0.4, 0.5, 0.5, 0.6, 0.4, 0.7]
NUM_PEOPLE = 150


def loadings(general: Tensor, special: Tensor) -> Tensor:
    """The matrix `L`, one row for each test."""
    second = torch.cat([torch.zeros_like(special[:1]), special])
    return torch.stack([general, second], -1)


def model(people: Tensor, y: Tensor | None = None) -> Tensor:
    general = pyro.sample("general", dist.Normal(torch.zeros(6), 1.0).to_event(1))
    special = pyro.sample("special", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(torch.zeros(6) - 0.7, 0.5).to_event(1))
    columns = loadings(general, special)
    covariance = columns @ columns.T + torch.diag(noise**2)
    results = dist.MultivariateNormal(torch.zeros_like(noise), covariance)
    with pyro.plate("people", len(people)):
        return pyro.sample("y", results, obs=y)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    general, special, noise = (
        torch.tensor(x, dtype=torch.float64) for x in (GENERAL, SPECIAL, NOISE)
    )
    shape = (NUM_PEOPLE, 8)
    z = torch.randn(shape, generator=generator, dtype=torch.float64)
    y = z[:, :2] @ loadings(general, special).T + z[:, 2:] * noise
    return torch.arange(NUM_PEOPLE), y.to(torch.get_default_dtype())


def truth() -> dict[str, Tensor]:
    """What the data were simulated with, with one of the four pairs of signs."""
    names = "general", "special", "noise"
    values = map(torch.tensor, (GENERAL, SPECIAL, NOISE))
    return dict(zip(names, values, strict=True))


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    _, y = data()
    print("correlations of the six tests")
    for row in torch.corrcoef(y.T):
        print("  " + " ".join(f"{value:6.2f}" for value in row))
