"""The registry: every kernel on every model, for the contract tests.

A kernel enters by one line in `KERNELS`; no test has to be written for it. What is
here at module level pickles, so that kernels on it can be sent to other processes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_geo.engine import Kernel, Noise
from pyro_geo.infer import DIMS, HMC, MCMC
from pyro_geo.testing.contracts import Case
from pyro_geo.testing.hmc import FixedHMC


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, the same on every machine."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def regression(x, y):
    """Linear, with more weights than rows: the minima form a plane."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(x.shape[-1]), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(w @ x.mT, 0.5), obs=y)


def effects(y):
    """Group means around a common one, with a scale: plates and a transform."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 2.0))
    tau = pyro.sample("tau", dist.LogNormal(y.new_zeros(()), 0.5))
    with pyro.plate("group", y.shape[0]):
        eta = pyro.sample("eta", dist.Normal(y.new_zeros(()), 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def effects_permuted(y):
    tau = pyro.sample("tau", dist.LogNormal(y.new_zeros(()), 0.5))
    group = pyro.plate("group", y.shape[0])
    with group:
        eta = pyro.sample("eta", dist.Normal(y.new_zeros(()), 1.0))
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 2.0))
    with group:
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


class Subject(NamedTuple):
    """A model with its data, and the same model with its sites in another order."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    permuted: Callable[..., Any] | None = None


SUBJECTS = {
    "regression": Subject(regression, (numbers(3, 5), numbers(3, seed=1))),
    "effects": Subject(effects, (2 * numbers(4, seed=2),), effects_permuted),
}


class Started(Case):
    """Chains start in groups where they would all together.

    A group of HMC after the first starts around the draws of the first, so other groups
    mean other starts and other draws, on purpose. What can be asked is that a chain
    with a given start and given tuning does not depend on its company.
    """

    def run(self, **options: Any) -> MCMC:
        """Run, with the starts of all chains together where they are in groups."""
        if "chain_batch_size" in options:
            chains = range(self.chains)
            noise = Noise(self.seed).region(1).block(chains, 0)
            generators = [noise.generator(i) for i in chains]
            q = self.target.initial_each(generators, "uniform")
            options["initial_params"] = self.target.layout.unflatten(q)
            options["initial_space"] = "unconstrained"
        return super().run(**options)


class Maker(NamedTuple):
    """A kernel with its settings, and how far regrouping may move its draws."""

    make: Callable[[Any], Kernel]
    regrouping: float = 0.0
    warmup: int | None = None
    chains: tuple[int, ...] = (1, 3)
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32)
    case: type[Case] = Case


# HMC runs as many lanes as there are chains, and another number of rows changes last
# bits; over these short runs they stay small. DiMS runs a fixed number of lanes.
HMC_REGROUPING = 1e-3
# given and so never tuned, whatever the groups
GIVEN = {"step_size": 0.1, "trajectory_length": 0.5}
KERNELS = {
    "fixed_hmc": Maker(
        partial(FixedHMC, step_size=0.1, num_steps=5), HMC_REGROUPING, warmup=5
    ),
    "hmc": Maker(
        partial(HMC, metric="dense", **GIVEN), HMC_REGROUPING, 0, case=Started
    ),
    "hmc_diagonal": Maker(
        partial(HMC, metric="diagonal", unroll=3, **GIVEN),
        HMC_REGROUPING,
        0,
        case=Started,
    ),
    # Chains that tune together are one group, or they would tune to something else:
    # one chain alone has no other grouping. In single precision warm-up turns another
    # order of sites into another tuning.
    "hmc_tuned": Maker(HMC, warmup=60, chains=(1,), dtypes=(torch.float64,)),
    "hmc_tuned_low_rank": Maker(
        partial(HMC, metric="low_rank"),
        warmup=60,
        chains=(1,),
        dtypes=(torch.float64,),
    ),
    "dims": Maker(partial(DIMS, alpha=0.0, anchor_steps=500)),
    "dims_curved": Maker(
        partial(DIMS, explore_time=1.0, settle_time=10.0, anchor_steps=500)
    ),
    "dims_dopri5": Maker(
        partial(DIMS, alpha=0.0, integrator="dopri5", anchor_steps=500)
    ),
    "dims_suzuki": Maker(
        partial(DIMS, alpha=0.0, integrator="suzuki", anchor_steps=500)
    ),
}

ROUNDING = {torch.float64: 1e-6, torch.float32: 2e-2}


def case(kernel: str, subject: str, dtype: torch.dtype, chains: int) -> Case:
    """Put a case together."""
    model, args, permuted = SUBJECTS[subject]
    maker = KERNELS[kernel]
    precision = "double" if dtype == torch.float64 else "single"
    return maker.case(
        f"{kernel}-{subject}-{precision}-{chains}",
        maker.make,
        model,
        args,
        permuted,
        chains=chains,
        warmup=maker.warmup,
        dtype=dtype,
        rounding=ROUNDING[dtype],
        regrouping=maker.regrouping,
    )


FAST = [
    case("fixed_hmc", "effects", torch.float64, 3),
    case("hmc", "effects", torch.float64, 3),
    case("hmc_diagonal", "regression", torch.float32, 2),
    case("hmc_tuned", "effects", torch.float64, 1),
    case("dims", "regression", torch.float64, 3),
]
_NAMES = {one.name for one in FAST}
SLOW = [
    one
    for kernel, maker in KERNELS.items()
    for subject in SUBJECTS
    for dtype in maker.dtypes
    for chains in maker.chains
    if (one := case(kernel, subject, dtype, chains)).name not in _NAMES
]
