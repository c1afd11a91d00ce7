"""Our side of the HMC benchmark."""

import warnings
from collections.abc import Mapping
from typing import Any

from _hmc_common import Run

from pyro_geo.density import Target
from pyro_geo.errors import PyroGeoWarning
from pyro_geo.infer import HMC, MCMC

PHASES = {"warmup": "warm-up", "compile": "compilation", "sampling": "sampling"}


def run(
    target: Target, num_chains: int, num_samples: int, seed: int, **options: Any
) -> Run:
    """Sample a target; its compiled functions are kept for the next run.

    Args:
        target: in double precision.
        num_chains: side by side.
        num_samples: draws per chain.
        seed: of the run.
        **options: of the runner (`compile`, `warmup_steps`).

    Returns:
        The run, starts counted as warm-up.
    """
    options = {"compile": True, "progress_bar": False} | options
    with warnings.catch_warnings():
        # what the draws have not reached is among the figures
        warnings.simplefilter("ignore", PyroGeoWarning)
        fit = MCMC(
            HMC(target), num_samples, num_chains=num_chains, seed=seed, **options
        ).run()
    draws = fit.get_samples(group_by_chain=True)
    return Run(
        {name: value.numpy() for name, value in draws.items()},
        phases(fit.timings),
        int(fit.stats["diverging"].sum()),
        f"{num_chains} chain" + "s" * (num_chains > 1),
        gradients=fit.num_gradients,
    )


def phases(timings: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Rename the phases of a run; starting belongs to the warm-up."""
    spent = {name: timings[key] for key, name in PHASES.items() if key in timings}
    if "start" in timings:
        spent["warm-up"] = spent["warm-up"] + timings["start"]
    return {name: (value.cpu, value.wall) for name, value in spent.items()}
