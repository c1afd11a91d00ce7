"""Fit hospitals apart, combine their posteriors and compare with all data at once.

    python inference/merging.py models/hiv_trial.py --hospitals 4 --out run/

MODEL is a file that defines `model(...)`, `data()` and `shards(num_hospitals, seed)`.
The last hospital is also fitted with the posterior of the others as its prior.
"""

import argparse
import runpy
from pathlib import Path
from typing import Any

import torch

from pyro_geo.infer import HMC, MCMC
from pyro_geo.summaries import GaussianPosterior, combine, compare, conflict, overlays


def main() -> None:
    parser = argparse.ArgumentParser(description="Combine posteriors of hospitals")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--hospitals", type=int, default=4)
    parser.add_argument("--samples", type=int, default=250, help="draws per chain")
    parser.add_argument("--warmup", type=int, help="steps per chain")
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="merging_report", help="folder of the report")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    file = runpy.run_path(arguments.model)
    model, shards = file["model"], file["shards"](arguments.hospitals, arguments.seed)

    def fit(model: Any, data: Any) -> GaussianPosterior:
        sizes = arguments.samples, arguments.warmup, arguments.chains
        run = MCMC(HMC(model), *sizes, seed=arguments.seed)
        return GaussianPosterior.from_mcmc(run.run(*data), shrinkage="oas")

    parts = {f"hospital {k}": fit(model, data) for k, data in enumerate(shards)}
    prior = GaussianPosterior.from_prior(model, *shards[0])
    product, others = (
        combine(some, how="product", prior=prior, on_indefinite="clip")
        for some in (list(parts.values()), list(parts.values())[:-1])
    )
    full, last = fit(model, file["data"]()), fit(others.as_prior()(model), shards[-1])
    found = {**parts, "product": product, "others as prior": last}
    tables = {
        "Distance from the posterior of all data": compare(full, found),
        "Agreement of hospitals": conflict(parts, prior=prior),
    }
    for title, rows in tables.items():
        print(f"\n{title}\n{rows.round(3).to_string()}")
    curves = overlays({"all data": full, "product": product, **parts})
    out = Path(arguments.out) / "report.html"
    print("\nReport:", product.report(out, tables=tables, curves=curves))


if __name__ == "__main__":
    main()
