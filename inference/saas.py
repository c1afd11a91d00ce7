"""Find the inputs that matter to a SAAS process, predict new points, write a report.

    python inference/saas.py models/saas_gp.py --samples 250 --chains 16 --out run/

MODEL is a file whose `model(x, y)` has the sites of `models/saas_gp.py`, with `data()`
and points to predict in `new_points()`.
"""

import argparse
import runpy
from pathlib import Path

import torch

from pyro_geo.gp import relevance, saas_hyperparameters, saas_scores
from pyro_geo.infer import HMC, MCMC


def main() -> None:
    parser = argparse.ArgumentParser(description="Sample a sparse Gaussian process")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--samples", type=int, default=250, help="draws per chain")
    parser.add_argument("--warmup", type=int, help="steps of warm-up per chain")
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="saas_report", help="folder of the report")
    arguments = parser.parse_args()

    torch.set_default_dtype(torch.float64)  # covariances are close to singular
    file = runpy.run_path(arguments.model)
    x, y = file["data"]()
    fit = MCMC(
        HMC(file["model"]),
        num_samples=arguments.samples,
        warmup_steps=arguments.warmup,
        num_chains=arguments.chains,
        seed=arguments.seed,
    ).run(x, y)

    inputs = relevance(saas_hyperparameters(fit.get_samples()), x, y)
    scores = saas_scores(fit.target, fit.positions, (x, y), file["new_points"]())
    scores.loc["posterior", "cpu_s"] = fit.cpu_seconds
    tables = {
        "Inputs, and the share of draws in which each matters": (
            inputs.reset_index().round(3)
        ),
        "Predictions of new points": scores.round(3),
    }
    for title, table in tables.items():
        print(f"\n{title}\n{table.head(10).to_string()}")
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    print("\nReport:", fit.report(folder / "report.html", tables))


if __name__ == "__main__":
    main()
