"""Find the modes of a model's posterior, start chains in them and write a report.

    python inference/modes.py models/three_tones.py --chains 24 --out run/

MODEL is a file that defines `model(...)` and `data()`. The report shows the history of
the search, the modes with their weights in the plane of the two components that tell
them apart best, where chains started, and how many draws each mode kept.
"""

import argparse
import runpy
import warnings
from pathlib import Path

import torch

from pyro_geo.errors import ModesNotJoinedWarning
from pyro_geo.infer import HMC, MCMC, find_modes
from pyro_geo.io.reports import search_curves


def main() -> None:
    parser = argparse.ArgumentParser(description="Find modes and start chains there")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--samples", type=int, default=200, help="draws per chain")
    parser.add_argument("--warmup", type=int, help="steps of warm-up per chain")
    parser.add_argument("--chains", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="modes_report", help="folder of the report")
    arguments = parser.parse_args()

    torch.set_default_dtype(torch.float64)
    file = runpy.run_path(arguments.model)
    data = file["data"]()
    modes = find_modes(file["model"], *data, seed=arguments.seed)
    print(modes, *modes.symmetries, *modes.notes, sep="\n")
    fit = MCMC(
        HMC(file["model"]),
        num_samples=arguments.samples,
        warmup_steps=arguments.warmup,
        num_chains=arguments.chains,
        seed=arguments.seed,
        initial_params=modes,
    )
    with warnings.catch_warnings():  # the notes below say it
        warnings.simplefilter("ignore", ModesNotJoinedWarning)
        fit.run(*data)
    print(fit.mode_table().round(3).to_string(), *fit.notes, sep="\n")
    tables = {"Modes as they were found": modes.summary().reset_index()}
    path = Path(arguments.out) / "report.html"
    print("Report:", fit.report(path, tables, [search_curves(modes.history)]))


if __name__ == "__main__":
    main()
