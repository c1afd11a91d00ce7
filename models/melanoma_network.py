"""Ten genes of melanoma under control, of which only noisy expression is measured.

The states are hidden: a series of measurements is one observation of a hidden Markov
model with 1,024 states, which are summed out. How often genes flip by themselves and
how expression depends on the state are unknown. Flips of RET1 and S100P, made at
random, are part of the data.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.planning.boolean_network import (
    BooleanHMM,
    Channel,
    NetworkControl,
    melanoma,
)
from pyro_geo.planning.environments import BooleanPlant

STEPS = 40
MUTATION, OFF, GAP, NOISE = 0.02, 1.0, 2.0, 0.8


def problem() -> NetworkControl:
    channel = Channel.normal(OFF, NOISE, OFF + GAP, NOISE)
    return melanoma(mutation=MUTATION, channel=channel)


def model(actions: Tensor, y: Tensor | None = None) -> Tensor:
    known = melanoma()
    p = pyro.sample("mutation", dist.Beta(torch.full((), 1.0), 30.0))
    off = pyro.sample("off", dist.Normal(torch.zeros(()), 3.0))
    gap = pyro.sample("gap", dist.HalfNormal(torch.full((), 3.0)))
    noise = pyro.sample("noise", dist.HalfNormal(torch.full((), 2.0)))
    series = BooleanHMM(
        known.network,
        len(actions) + 1,
        mutation=p,
        channel=Channel.normal(off, noise, off + gap, noise),
        flips=known.actions[actions],
    )
    return pyro.sample("y", series, obs=y)


def draw(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Actions, hidden states and measurements."""
    g, plant = torch.Generator().manual_seed(seed), BooleanPlant(problem())
    actions = torch.randint(3, (STEPS - 1,), generator=g)
    states = [plant.initial((), g).double()]
    for action in actions:
        noise = plant.draw_noise((), g)
        states.append(plant.simulate(plant.theta, states[-1], action, noise))
    x = torch.stack(states)
    noise = torch.randn(x.shape, generator=g, dtype=torch.float64)
    return actions, x, OFF + GAP * x + NOISE * noise


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    actions, _, y = draw(seed)
    return actions, y.to(torch.get_default_dtype())


def truth() -> dict[str, Tensor]:
    values = {"mutation": MUTATION, "off": OFF, "gap": GAP, "noise": NOISE}
    return {name: torch.tensor(value) for name, value in values.items()}


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    _, states, y = draw(0)
    print("gene        share of time on, mean expression")
    for gene, name in enumerate(problem().network.genes):
        print(f"{name:10s}  {states[:, gene].mean():5.2f}   {y[:, gene].mean():5.2f}")
