"""A whole run on eight schools in a fresh process: `_hmc_child.py SIDE OUT DRAWS`.

Each side does what its user would write, in double precision, and saves its draws for
the parent to check. Nothing is imported that the side does not need.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

CHAINS = 4


def ours(draws: int, **options: Any) -> dict[str, Any]:
    """Our runner on the gallery's model, compiled before the first step."""
    import torch
    from _bench import load

    from pyro_geo.infer import HMC, MCMC

    torch.set_default_dtype(torch.float64)
    module = load("eight_schools")
    kernel = HMC(module.model)
    fit = MCMC(kernel, draws, draws, CHAINS, seed=0, progress_bar=False, **options)
    fit.run(*module.data())
    samples = fit.get_samples(group_by_chain=True)
    return {name: value.numpy() for name, value in samples.items()}


def pyro_nuts(draws: int) -> dict[str, Any]:
    """Pyro's runner on the same model, chain after chain."""
    import pyro
    import torch
    from _bench import load
    from pyro.infer import MCMC, NUTS

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    module = load("eight_schools")
    chains = []
    for _ in range(
        CHAINS
    ):  # one after the other: how many cores there are says nothing
        chain = MCMC(NUTS(module.model), draws, warmup_steps=draws)
        chain.run(*module.data())
        chains.append(chain.get_samples(group_by_chain=True))
    return {
        name: torch.cat([chain[name] for chain in chains]).numpy() for name in chains[0]
    }


def numpyro_nuts(draws: int, **options: Any) -> dict[str, Any]:
    """NumPyro's runner on the same model, at its defaults where nothing is said."""
    # of the `bench` extra: not there where only `dev` is installed
    jax: Any = importlib.import_module("jax")
    numpyro: Any = importlib.import_module("numpyro")
    dist: Any = importlib.import_module("numpyro.distributions")
    infer: Any = importlib.import_module("numpyro.infer")
    jnp = jax.numpy
    numpyro.enable_x64()
    sigma = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", len(y)):
            eta = numpyro.sample("eta", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)

    chains = infer.MCMC(
        infer.NUTS(model),
        num_warmup=draws,
        num_samples=draws,
        num_chains=CHAINS,
        **options,
    )
    chains.run(jax.random.PRNGKey(0))
    samples = chains.get_samples(group_by_chain=True)
    return {name: np.asarray(value) for name, value in samples.items()}


SIDES: dict[str, Callable[[int], dict[str, Any]]] = {
    "ours": lambda draws: ours(draws, compile=True),
    "ours_auto": lambda draws: ours(draws),
    "ours_traced": lambda draws: ours(draws, compile=False),
    "pyro_nuts": pyro_nuts,
    "numpyro_nuts": numpyro_nuts,
    "numpyro_nuts_vectorized": lambda draws: numpyro_nuts(
        draws, chain_method="vectorized", progress_bar=False
    ),
}


if __name__ == "__main__":
    side, out, count = sys.argv[1:]
    np.savez(out, **SIDES[side](int(count)))
