"""Sample a model's posterior with Hamiltonian Monte Carlo and write a report.

    python inference/hmc.py models/eight_schools.py --samples 500 --chains 64 --out run/

MODEL is a file that defines `model(...)` and `data()`; with `held_out()` the draws are
scored beside the MAP, a deep ensemble and the linearised Laplace approximation. With
`--store run.zarr` the run is on disk, and the same command continues it.
"""

import argparse
import runpy
from pathlib import Path

import torch

from pyro_geo import Target
from pyro_geo.evaluation.comparison import score_table
from pyro_geo.infer import HMC, MCMC


def main() -> None:
    parser = argparse.ArgumentParser(description="Sample a model's posterior")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--samples", type=int, default=500, help="draws per chain")
    parser.add_argument("--warmup", type=int, help="steps of warm-up per chain")
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--target-accept", type=float, default=0.8, metavar="RATE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="folder of the run, to go on with")
    parser.add_argument("--out", default="hmc_report", help="folder of the report")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    file = runpy.run_path(arguments.model)
    fit = MCMC(
        HMC(file["model"], target_accept_prob=arguments.target_accept),
        num_samples=arguments.samples,
        warmup_steps=arguments.warmup,
        num_chains=arguments.chains,
        seed=arguments.seed,
        store=arguments.store,
    )
    begun = arguments.store and arguments.store.exists()
    (fit.resume if begun else fit.run)(*file["data"]())
    print(fit.summary().head(20).to_string())

    tables = {}
    if "held_out" in file:
        test = Target.from_model(file["model"], *file["held_out"]())
        few = fit.positions[:, :: -(-arguments.samples // 32)].flatten(0, 1)
        scores = score_table(fit.target, test, {"HMC": few}, seed=arguments.seed)
        scores.loc["HMC", "cpu_s"] = fit.cpu_seconds
        tables["Held-out scores"] = scores.round(4)
        print("\nHeld-out scores (nll and calibration: smaller is better)")
        print(scores.round(4).to_string())
    print("\nReport:", fit.report(Path(arguments.out) / "report.html", tables))


if __name__ == "__main__":
    main()
