"""Run many chains of a large model with their draws on disk; print the largest size.

python tests/faults/memory.py --chains 4096 --dim 1000 --samples 100 --store run.zarr
"""

from __future__ import annotations

import argparse
import json
import resource
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import torch

from pyro_geo.infer import HMC, MCMC
from pyro_geo.io.arviz import get_group
from pyro_geo.io.store import open_run


def model(dim: int) -> None:
    pyro.sample("x", dist.Normal(torch.zeros(dim), 1.0).to_event(1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chains", type=int)
    parser.add_argument("--dim", type=int)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--store")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    options: dict[str, Any] = {"step_size": 0.3, "trajectory_length": 1.5}
    fit = MCMC(
        HMC(model, metric="diagonal", **options),
        chosen.samples,
        25,
        chosen.chains,
        seed=0,
        store=chosen.store,
        memory_limit=1 << 26,
        progress_bar=False,
        compile=False,
    ).run(chosen.dim)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    posterior = get_group(open_run(chosen.store), "posterior")
    assert posterior is not None
    some = posterior["x"].isel(x_dim_0=slice(0, 5)).compute()
    report = {
        "peak": peak,
        "draws": posterior["x"].nbytes,
        "spilled": fit.to_arviz(log_likelihood=False).posterior["x"].chunks is not None,
        "mean": float(some.mean()),
        "var": float(some.var()),
        "seconds": fit.seconds,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
