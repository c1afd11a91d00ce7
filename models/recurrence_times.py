"""Time from breast surgery to recurrence or death: Weibull regression, censored.

The 686 women of the trial of the German Breast Cancer Study Group. Of 299 an event was
seen; of the others it is known that there was none until they were last observed.
"""

import csv
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

PATH = Path(__file__).parent / "data" / "hospital" / "gbsg2.csv"
NUMBERS = ("age", "tsize", "pnodes", "progrec", "estrec")
NAMES = (*NUMBERS, "hormone therapy", "after menopause")


def model(x: Tensor, seen: Tensor, y: Tensor | None = None) -> Tensor:
    zero = torch.zeros(())  # carries the default dtype into the priors
    shape = pyro.sample("shape", dist.LogNormal(zero, 0.5))
    intercept = pyro.sample("intercept", dist.Normal(zero + 2.0, 1.0))
    prior = dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1)
    weights = pyro.sample("weights", prior)
    scale = (intercept + (x * weights).sum(-1)).exp()
    with pyro.plate("women", len(x)):
        if y is not None:  # a censored time counts by its survival alone
            pyro.factor("survival", -(1 - seen) * (y / scale) ** shape)
        times = dist.Weibull(scale, shape).mask(seen.bool())
        return pyro.sample("y", times, obs=y)


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Standardised measurements, whether an event was seen, and years until then."""
    with PATH.open() as file:
        rows = list(csv.DictReader(file))
    columns = []
    for name in NUMBERS:
        column = torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
        if name in ("pnodes", "progrec", "estrec"):  # counts with a long tail
            column = column.log1p()
        columns.append((column - column.mean()) / column.std())
    for name, value in (("horTh", "yes"), ("menostat", "Post")):
        column = [float(row[name] == value) for row in rows]
        columns.append(torch.tensor(column, dtype=torch.float64))
    dtype = torch.get_default_dtype()
    years = torch.tensor([int(row["time"]) / 365.25 for row in rows], dtype=dtype)
    seen = torch.tensor([float(row["cens"]) for row in rows], dtype=dtype)
    return torch.stack(columns, -1).to(dtype), seen, years


def withdrawn(seed: int = 0) -> Tensor:
    """Rows of 10 women who take back their consent."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(data()[1]), generator=generator)[:10]


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0, "velocity": "isotropic"}


if __name__ == "__main__":
    x, seen, years = data()
    print(f"{len(years)} women, {x.shape[1]} measurements, {int(seen.sum())} events")
    print(f"observed for {years.median():.1f} years (median)")
