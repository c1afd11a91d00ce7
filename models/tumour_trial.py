"""Recurrence or death within two years of breast surgery: logistic regression.

The trial of the German Breast Cancer Study Group. Of 686 women 623 were observed for
two years or had an event before; the others are left out. The records name no hospital;
`shards` deals women to hospitals by a seed.
"""

import csv
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

PATH = Path(__file__).parent / "data" / "hospital" / "gbsg2.csv"
NUMBERS = ("age", "tsize", "pnodes", "progrec", "estrec")
NAMES = (*NUMBERS, "hormone therapy", "after menopause", "grade II", "grade III")
DAYS = 730


def model(x: Tensor, y: Tensor | None = None) -> Tensor:
    zero = torch.zeros(())  # carries the default dtype into the priors
    intercept = pyro.sample("intercept", dist.Normal(zero, 2.0))
    prior = dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1)
    weights = pyro.sample("weights", prior)
    with pyro.plate("women", x.shape[0]):
        logits = intercept + (x * weights).sum(-1)
        return pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def data() -> tuple[Tensor, Tensor]:
    """Standardised measurements, and whether there was an event."""
    with PATH.open() as file:
        rows = [r for r in csv.DictReader(file) if kept(r)]
    columns = []
    for name in NUMBERS:
        column = torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
        if name in ("pnodes", "progrec", "estrec"):  # counts with a long tail
            column = column.log1p()
        columns.append((column - column.mean()) / column.std())
    for name, value in (("horTh", "yes"), ("menostat", "Post")):
        columns.append(torch.tensor([float(row[name] == value) for row in rows]))
    for grade in ("II", "III"):
        columns.append(torch.tensor([float(row["tgrade"] == grade) for row in rows]))
    dtype = torch.get_default_dtype()
    x = torch.stack([column.double() for column in columns], -1)
    y = [float(int(row["time"]) < DAYS and row["cens"] == "1") for row in rows]
    return x.to(dtype), torch.tensor(y, dtype=dtype)


def kept(row: dict[str, str]) -> bool:
    return row["cens"] == "1" or int(row["time"]) >= DAYS


def shards(num_hospitals: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """The same women, dealt to hospitals of one size."""
    x, y = data()
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randperm(len(y), generator=generator).tensor_split(num_hospitals)
    return [(x[part], y[part]) for part in parts]


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    x, y = data()
    print(f"{len(y)} women, {x.shape[1]} measurements")
    print(f"an event within two years: {y.mean():.0%}")
    print(f"with hormone therapy: {y[x[:, 5] == 1].mean():.0%}")
