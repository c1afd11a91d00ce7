"""A published gene network of which four rule entries are unknown.

The development of the cortex as five genes: the state of each is read once a step, and
one reading in twenty is wrong. The sixteen sets of rules are summed out exactly, and so
are the hidden states. The rule entries behind the data are the published ones.
"""

from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.planning.boolean_network import (
    BooleanHMM,
    Channel,
    NetworkControl,
    load_networks,
)
from pyro_geo.planning.environments import BooleanPlant

FILE = Path(__file__).parent / "data" / "gene_networks" / "networks.json"
STEPS, MUTATION, ERROR = 40, 0.05, 0.05


def problem() -> NetworkControl:
    channel = Channel.bernoulli(ERROR)
    return load_networks(FILE, mutation=MUTATION, channel=channel)[0]


def model(actions: Tensor, y: Tensor | None = None) -> Tensor:
    known = problem()
    sets = known.network.rule_sets()
    p = pyro.sample("mutation", dist.Beta(torch.full((), 1.0), 20.0))
    q = pyro.sample("error", dist.Beta(torch.full((), 2.0), 20.0))
    every = dist.Categorical(torch.ones(len(sets)))
    rules = pyro.sample("rules", every, infer={"enumerate": "parallel"})
    series = BooleanHMM(
        known.network,
        len(actions) + 1,
        mutation=p,
        channel=Channel.bernoulli(q),
        flips=known.actions[actions],
        values=sets[rules],
    )
    return pyro.sample("y", series, obs=y)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    g, plant = torch.Generator().manual_seed(seed), BooleanPlant(problem())
    actions = torch.randint(3, (STEPS - 1,), generator=g)
    states = [plant.initial((), g).double()]
    for action in actions:
        noise = plant.draw_noise((), g)
        states.append(plant.simulate(plant.theta, states[-1], action, noise))
    x = torch.stack(states)
    wrong = torch.rand(x.shape, generator=g, dtype=torch.float64) < ERROR
    return actions, torch.where(wrong, 1 - x, x).to(torch.get_default_dtype())


def truth() -> dict[str, Tensor]:
    return {"mutation": torch.tensor(MUTATION), "error": torch.tensor(ERROR)}


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0}


if __name__ == "__main__":
    network, (_, y) = problem().network, data()
    print(f"{len(y)} steps; readings that say on")
    for name, share in zip(network.genes, y.mean(0), strict=True):
        print(f"  {name:10s} {share:5.2f}")
    for gene, row in network.unknown:
        print(f"row {row} of {network.genes[gene]} is unknown")
