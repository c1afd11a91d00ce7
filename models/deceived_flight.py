"""An airliner whose satellite receiver is deceived: false reports of a hovering target.

Where `PYRO_GEO_DATA` names a folder with the recording `spoofed.npz`, every tenth
report of that flight is used. Otherwise one is simulated: the receiver falls silent,
reports a decoy far aside for ten minutes, and comes back. The model is a walk of the
velocity whose reports may be anything; `tracker` filters them as they come.
"""

import os
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.distributions import BoundedLikelihood
from pyro_geo.filtering import BoundedTracker

NOISE = 30.0  # metres
FILE = Path(os.environ.get("PYRO_GEO_DATA", "nowhere")) / "spoofed.npz"


def model(t: Tensor, y: Tensor | None = None) -> Tensor:
    dt = torch.cat([t.new_ones(1), t.diff()])[:, None]
    start = pyro.sample("start", dist.Normal(torch.zeros(2), 1e6).to_event(1))
    first = pyro.sample("velocity", dist.Normal(torch.zeros(2), 200.0).to_event(1))
    unit = dist.Normal(torch.zeros(len(t), 2), 1.0)
    push = dt.sqrt() * pyro.sample("push", unit.to_event(2))
    position = start + torch.cumsum(dt * (first + torch.cumsum(push, 0)), 0)
    base = dist.Normal(position, NOISE).to_event(1)
    anywhere = dist.Normal(0.0 * position, 1e6).to_event(1)
    with pyro.plate("time", len(t)):
        pyro.sample("y", BoundedLikelihood(base, anywhere, 0.3), obs=y)
    return position


def flight() -> tuple[Tensor, Tensor, Tensor]:
    """Times, reports and positions, in double precision."""
    if FILE.is_file():
        file = np.load(FILE)
        t, x, y = (torch.as_tensor(file[k][::10]).double() for k in ("t", "x", "y"))
        y = torch.stack([x, y], -1)
        last, back = int((t <= 3625).sum()) - 1, int((t < 6825).sum())
        share = ((t - t[last]) / (t[back] - t[last])).clamp(0, 1)[:, None]
        gap = (share > 0) & (share < 1)
        return t, y, torch.where(gap, torch.lerp(y[last], y[back], share), y)
    t = 5.0 * torch.arange(480, dtype=torch.float64)
    position = torch.stack([230.0 * t, 23.0 * t], -1)
    decoy = torch.tensor([2e5, 1e5]) + torch.stack([26.0 * t, 0.0 * t], -1)
    y = torch.where(((t >= 1000) & (t < 1600))[:, None], decoy, position)
    g = torch.Generator().manual_seed(0)
    y += NOISE * torch.randn(480, 2, generator=g, dtype=torch.float64)
    heard = (t < 800) | (t >= 1000)
    return t[heard], y[heard], position[heard]


def data() -> tuple[Tensor, ...]:
    return tuple(part.to(torch.get_default_dtype()) for part in flight()[:2])


def truth() -> dict[str, Tensor]:
    return {"position": flight()[2].to(torch.get_default_dtype())}


def tracker() -> BoundedTracker:
    return BoundedTracker.preset("en_route", noise=NOISE)


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    t, y = data()
    aside = (y - truth()["position"]).norm(dim=-1)
    print(f"{len(t)} reports in {t[-1]:.0f} s\nlongest pause {t.diff().max():.0f} s")
    print(f"{(aside > 1000).sum()} are false")
