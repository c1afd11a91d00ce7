"""Whose CD4 count falls in 20 weeks of treatment: logistic regression.

The 2,139 people of the ACTG 175 trial. The records name no hospital; `shards` deals
people to hospitals by a seed.
"""

import csv
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

PATH = Path(__file__).parent / "data" / "hospital" / "actg175.csv"
NUMBERS = ("age", "wtkg", "karnof", "cd40", "cd80", "preanti")
FLAGS = ("hemo", "homo", "drugs", "race", "gender", "str2", "symptom")
ARMS = (1, 2, 3)  # beside zidovudine alone
NAMES = (*NUMBERS, *FLAGS, *(f"arm {arm}" for arm in ARMS))


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    zero = torch.zeros(())  # carries the default dtype into the priors
    intercept = pyro.sample("intercept", dist.Normal(zero, 2.0))
    prior = dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1)
    weights = pyro.sample("weights", prior)
    with pyro.plate("people", x.shape[0]):
        logits = intercept + (x * weights).sum(-1)
        return pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def data() -> tuple[Tensor, Tensor]:
    """Standardised measurements, and whether the count fell."""
    with PATH.open() as file:
        rows = list(csv.DictReader(file))
    table = {
        name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
        for name in (*NUMBERS, *FLAGS, "arms", "cd420")
    }
    columns = [(c - c.mean()) / c.std() for c in (table[name] for name in NUMBERS)]
    columns += [table[name] for name in FLAGS]
    columns += [(table["arms"] == arm).double() for arm in ARMS]
    dtype = torch.get_default_dtype()
    fell = table["cd420"] < table["cd40"]
    return torch.stack(columns, -1).to(dtype), fell.to(dtype)


def shards(num_hospitals: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """The same people, dealt to hospitals of one size."""
    x, y = data()
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randperm(len(y), generator=generator).tensor_split(num_hospitals)
    return [(x[part], y[part]) for part in parts]


def withdrawn(seed: int = 0) -> Tensor:
    """Rows of 20 people who take back their consent."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(data()[1]), generator=generator)[:20]


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    x, y = data()
    print(f"{len(y)} people, {x.shape[1]} measurements")
    print(f"the CD4 count fell in {y.mean():.0%}")
    alone = (x[:, -3:] == 0).all(-1)
    print(f"with zidovudine alone in {y[alone].mean():.0%}")
