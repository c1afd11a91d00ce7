"""Choices between two options of which one pays more often, until they change places.

Where `PYRO_GEO_DATA` names a folder with `prl_example.tsv`, a table with a row for each
trial (subjID, choice 1 or 2, outcome 1 or -1, as hBayesDM has it), those people are
used; otherwise twenty are simulated. An outcome tells which option is the better one
now; belief of it is a filter's, and choices follow by the unit-square sigmoid.
"""

import os
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.filtering import read_trials, response

FILE = Path(os.environ.get("PYRO_GEO_DATA", "nowhere")) / "prl_example.tsv"
PEOPLE, TRIALS = 20, 100


def model(u: Tensor, seen: Tensor, y: Tensor | None = None) -> Tensor:
    zero = torch.zeros(())  # carries the default dtype into the priors
    mean = pyro.sample("omega_mean", dist.Normal(zero - 2.0, 1.0))
    sd = pyro.sample("omega_sd", dist.HalfNormal(zero + 0.5))
    noise = pyro.sample("noise_mean", dist.Normal(zero + 0.5, 1.0))
    noise_sd = pyro.sample("noise_sd", dist.HalfNormal(zero + 0.5))
    with pyro.plate("subject", len(u)):
        z = pyro.sample("omega_z", dist.Normal(zero, 1.0))
        omega = pyro.deterministic("omega", mean + sd * z).unsqueeze(-1)
        z = pyro.sample("noise_z", dist.Normal(zero, 1.0))
        zeta = pyro.deterministic("zeta", torch.exp(noise + noise_sd * z))
        there, start = seen > 0, (None, [0.0], [1.0])
        people = response.BinaryAgent(
            u, zeta, omega, *start, observed=there, answered=there, on_invalid="-inf"
        )
        return pyro.sample("y", people, obs=y)


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Whether each outcome speaks for the second option, what is there, choices."""
    dtype = torch.get_default_dtype()
    if not FILE.is_file():
        u, y = simulate()
        return u.to(dtype), torch.ones_like(u, dtype=dtype), y.to(dtype)
    trials = read_trials(FILE)
    second, seen = trials.values["choice"] == 2, trials.observed.to(dtype)
    u = second == (trials.values["outcome"] > 0)
    return seen * u, seen, seen * second


def simulate() -> tuple[Tensor, Tensor]:
    """People who keep an option, and leave it after most of its losses."""
    generator = torch.Generator().manual_seed(0)
    better = (torch.arange(TRIALS) // 25) % 2
    double = torch.float64
    pays, leaves = torch.rand(2, TRIALS, PEOPLE, generator=generator, dtype=double)
    choice, u, y = torch.zeros(PEOPLE, dtype=double), [], []
    for k in range(TRIALS):
        won = (pays[k] < 0.8) == (choice == better[k])
        y.append(choice)
        u.append(torch.where(won, choice, 1 - choice))
        choice = torch.where(won | (leaves[k] < 0.4), choice, 1 - choice)
    return torch.stack(u, -1), torch.stack(y, -1)


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0, "velocity": "isotropic"}


if __name__ == "__main__":
    u, seen, y = data()
    print(f"{len(u)} people, {int(seen.sum())} trials")
    kept = (u[:, :-1] == y[:, 1:])[seen[:, 1:] > 0].double().mean()
    print(f"choices of the option that the last outcome spoke for\n{kept:.2f}")
