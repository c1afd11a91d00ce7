"""Twenty people learn which of two outcomes comes, in stable and volatile times.

The chance of an outcome is 0.8 or 0.2; it stays for 75 trials, then turns every 25, and
stays again (the design of Behrens et al., 2007). Each person has a filter of binary
inputs with a tonic volatility `omega` and responds by the unit-square sigmoid with an
inverse decision noise `zeta`; both vary over people. The data are simulated. Three
hundred trials tell most of a person: both are centred, `omega` not all the way.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor

from pyro_geo.filtering import response

PEOPLE, MEAN, SD, TOP, NOISE, NOISE_SD = 20, -2.5, 0.7, -4.0, 0.7, 0.4
SIDES = [0.8] * 3 + [0.2, 0.8, 0.2, 0.8, 0.2, 0.8] + [0.2] * 3  # for 25 trials each


def agents(u: Tensor, zeta: Tensor, omega: Tensor, top: Tensor) -> response.BinaryAgent:
    levels = torch.stack([omega, top.expand_as(omega)], -1)
    start = [1.0], [0.0, 0.0], [1.0, 1.0]
    return response.BinaryAgent(u, zeta, levels, *start, on_invalid="-inf")


@poutine.reparam(config={"omega": LocScaleReparam(0.8, shape_params=())})
def model(u: Tensor, y: Tensor | None = None) -> Tensor:
    zero = torch.zeros(())  # carries the default dtype into the priors
    mean = pyro.sample("omega_mean", dist.Normal(zero - 3.0, 1.0))
    sd = pyro.sample("omega_sd", dist.HalfNormal(zero + 1.0))
    top = pyro.sample("omega_top", dist.Normal(zero - 4.0, 1.0))
    noise = pyro.sample("noise_mean", dist.Normal(zero + 0.5, 1.0))
    noise_sd = pyro.sample("noise_sd", dist.HalfNormal(zero + 0.5))
    with pyro.plate("subject", len(u)):
        omega = pyro.sample("omega", dist.Normal(mean, sd))
        log_zeta = pyro.sample("log_zeta", dist.Normal(noise, noise_sd))
        zeta = pyro.deterministic("zeta", log_zeta.exp())
        return pyro.sample("y", agents(u, zeta, omega, top), obs=y)


def draw(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outcomes, responses, omega and zeta of everyone, in double precision."""
    generator, double = torch.Generator().manual_seed(seed), torch.float64
    chance = torch.tensor(SIDES, dtype=double).repeat_interleave(25)
    coins = torch.rand(2, PEOPLE, len(chance), generator=generator, dtype=double)
    z = torch.randn(2, PEOPLE, generator=generator, dtype=double)
    omega, zeta = MEAN + SD * z[0], torch.exp(NOISE + NOISE_SD * z[1])
    u = (coins[0] < chance).double()
    people = agents(u, zeta, omega, torch.tensor(TOP, dtype=double))
    return u, (coins[1] < people.base.probs).double(), omega, zeta


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    u, y, *_ = draw(seed)
    return u.to(torch.get_default_dtype()), y.to(torch.get_default_dtype())


def truth(seed: int = 0) -> dict[str, Tensor]:
    """What the data were simulated with."""
    names = "omega_mean", "omega_sd", "omega_top", "noise_mean", "noise_sd"
    values = map(torch.tensor, (MEAN, SD, TOP, NOISE, NOISE_SD))
    people = dict(zip(("omega", "zeta"), draw(seed)[2:], strict=True))
    return {**dict(zip(names, values, strict=True)), **people}


def options() -> dict[str, object]:
    return {"loss": "joint", "alpha": 0.0, "velocity": "isotropic"}


if __name__ == "__main__":
    (u, y), people = data(), truth()
    print("person  omega   zeta  responses that name the likelier side")
    likely = torch.tensor(SIDES).repeat_interleave(25) > 0.5
    for k in range(0, PEOPLE, 5):
        omega, zeta, right = people["omega"][k], people["zeta"][k], y[k] == likely
        print(f"{k:6d} {omega:6.2f} {zeta:6.2f}  {right.float().mean():.2f}")
