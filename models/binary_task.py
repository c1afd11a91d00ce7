"""One person's 320 guesses of a coin whose chance changes.

The outcomes and responses are those of the task that toolboxes for hierarchical
Gaussian filters teach with (Iglesias et al., 2013; data/hgf_series has the licence).
The person's belief of the coin's log-odds is a filter's; the third state, how fast the
volatility changes, is left out. Responses follow from the prediction of each trial by
the unit-square sigmoid with decision noise 1 / zeta.
"""

import csv
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.filtering import hgf_filter, response

FILE = Path(__file__).parent / "data" / "hgf_series" / "binary_task.csv"


def model(u: Tensor, y: Tensor | None = None) -> Tensor:
    zero = torch.zeros(())  # carries the default dtype into the priors
    omega = pyro.sample("omega_1", dist.Normal(zero - 3.0, 1.0))
    top = pyro.sample("omega_2", dist.Normal(zero - 5.0, 1.0))
    zeta = pyro.sample("zeta", dist.LogNormal(zero + 1.0, 1.0))
    levels = torch.stack([omega, top], -1)
    start = [1.0], [0.0, 0.0], [1.0, 1.0]
    person = response.BinaryAgent(u, zeta, levels, *start, on_invalid="-inf")
    return pyro.sample("y", person, obs=y)


def data() -> tuple[Tensor, Tensor]:
    with FILE.open() as rows:
        table = [[float(x) for x in row.values()] for row in csv.DictReader(rows)]
    u, y = torch.tensor(table, dtype=torch.get_default_dtype()).unbind(-1)
    return u, y


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0, "velocity": "isotropic"}


if __name__ == "__main__":
    u, y = data()
    print(f"{len(u)} trials, {int((u == y).sum())} guesses right")
    print("omega_1   log-likelihood of the responses at zeta = 1, 2, 4")
    for omega in (-6.0, -4.0, -2.0):
        levels = torch.tensor([omega, -5.0])
        beliefs = hgf_filter(u, levels, [1.0], [0.0, 0.0], [1.0, 1.0], kind="binary")
        fits = [response.unit_square(beliefs, y, zeta).sum() for zeta in (1, 2, 4)]
        print(f"{omega:5.0f}    ", "  ".join(f"{fit:8.1f}" for fit in fits))
