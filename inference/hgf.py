"""Fit a hierarchical Gaussian filter to people's trials, and picture their beliefs.

    python inference/hgf.py models/volatility_cohort.py --samples 250 --out run/

MODEL defines `model(...)` and `data()`, and observes inputs with the distribution `HGF`
or responses to a filter's beliefs. With `--store run.zarr` the same command continues.
"""

import argparse
import runpy
from pathlib import Path

import torch

from pyro_geo.evaluation.loo import loo_table
from pyro_geo.filtering import HGFSeries
from pyro_geo.infer import HMC, MCMC


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit a hierarchical Gaussian filter")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--samples", type=int, default=250, help="draws per chain")
    parser.add_argument("--warmup", type=int, help="steps of warm-up per chain")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--target-accept", type=float, default=0.8, dest="rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="folder of the run, to go on with")
    parser.add_argument("--out", default="hgf_report", help="folder of the report")
    arguments = parser.parse_args()

    torch.set_default_dtype(torch.float64)
    file = runpy.run_path(arguments.model)
    start, rate = "median", arguments.rate  # elsewhere beliefs may run away
    fit = MCMC(
        HMC(file["model"], init_strategy=start, target_accept_prob=rate),
        num_samples=arguments.samples,
        warmup_steps=arguments.warmup,
        num_chains=arguments.chains,
        seed=arguments.seed,
        store=arguments.store,
    )
    begun = arguments.store and arguments.store.exists()
    (fit.resume if begun else fit.run)(*file["data"]())
    print(fit.summary().head(20).round(3).to_string())

    beliefs = HGFSeries.from_posterior(fit)
    print("\nBeliefs after the last trial")
    print(beliefs.summary().head().round(3).T.to_string())
    loo = {"Leave-one-out over trials": loo_table(idata := fit.to_arviz())}
    if beliefs.num_series > 1:
        loo["Leave-one-out over trials, by subject"] = loo_table(idata, "subject")
    for title, table in loo.items():
        print(f"\n{title}\n{table.head(10).round(2).to_string()}")
    print("\nReport:", fit.report(f"{arguments.out}/report.html", loo, series=beliefs))


if __name__ == "__main__":
    main()
