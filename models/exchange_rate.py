"""The US dollar in Swiss francs over 614 days, a level whose volatility changes.

The days are of 2010 and 2011, when the franc rose until its central bank stepped in
(the series of Mathys et al., 2014; data/hgf_series has its licence). Rates are in per
cent of the first, on a logarithmic scale. The rate walks; the logarithm of the variance
of its steps walks too.
"""

import csv
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.distributions import HGF
from pyro_geo.filtering import hgf_filter

FILE = Path(__file__).parent / "data" / "hgf_series" / "usdchf.csv"
KAPPA, MU0, PI0 = [1.0], [0.0, 0.0], [1.0, 1.0]  # the scale of level 2 is free


def model(t: Tensor, y: Tensor | None = None) -> Tensor:
    zero = torch.zeros(())  # carries the default dtype into the priors
    omega = [
        pyro.sample(f"omega_{level}", dist.Normal(zero + mean, 1.5))
        for level, mean in ((1, -1.0), (2, -4.0))
    ]
    noise = pyro.sample("noise", dist.LogNormal(zero - 2.0, 1.0))
    step = torch.cat([t.new_ones(1), t.diff()])
    levels = torch.stack(omega, -1)
    rate = HGF(levels, KAPPA, MU0, PI0, noise**-2, time_step=step)
    return pyro.sample("y", rate, obs=y)


def data() -> tuple[Tensor, Tensor]:
    with FILE.open() as rows:
        rate = [float(row["rate"]) for row in csv.DictReader(rows)]
    y = torch.tensor(rate, dtype=torch.float64)
    y = 100.0 * torch.log(y / y[0])
    return torch.arange(float(len(y))), y.to(torch.get_default_dtype())


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0, "velocity": "isotropic"}


if __name__ == "__main__":
    y = data()[1].double()
    beliefs = hgf_filter(y, [-1.0, -4.0], KAPPA, MU0, PI0, 50.0, kind="continuous")
    print("days       rate   deviation of a day's step, as believed")
    for k in range(0, len(y), 100):
        spread = (0.5 * (beliefs.mu[k : k + 100, 1] - 1.0)).exp().mean()
        print(f"{k:3d}...  {y[k]:8.1f}   {spread:.2f} %")
