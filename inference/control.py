"""Control a plant whose dynamics are unknown, and write a report with pictures.

    python inference/control.py models/unknown_sign_plant.py --select ucb --out run/

MODEL is a file with a prior of the dynamics and `plant()`, or `problem()`, a Boolean
network. The draws of the prior are solved first (`--store run.zarr` keeps them); then
the plant is run by the controller and by rules that learn less, under the same noise.
"""

import argparse
import runpy
from pathlib import Path

import torch

from pyro_geo.planning.reports import BASELINES, compare, report, study_of


def main() -> None:
    parser = argparse.ArgumentParser(description="Control unknown dynamics")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--select", default="ucb", help="rule that chooses actions")
    parser.add_argument("--draws", type=int, default=32, help="draws to be solved")
    parser.add_argument("--steps", type=int, default=30, help="steps of an episode")
    parser.add_argument("--runs", type=int, default=4, help="episodes")
    parser.add_argument("--jobs", type=int, help="processes to spread draws over")
    parser.add_argument("--store", type=Path, help="folder of the offline stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="control_report", help="folder of the report")
    arguments = parser.parse_args()

    torch.set_default_dtype(torch.float64)
    study = study_of(runpy.run_path(arguments.model), arguments.draws)
    begun = arguments.store and arguments.store.exists()
    if begun:
        library = study.planner.resume(
            arguments.store, seed=arguments.seed, n_jobs=arguments.jobs
        )
    else:
        library = study.planner.run(
            seed=arguments.seed, store=arguments.store, n_jobs=arguments.jobs
        )
    print(library)
    found = compare(
        study,
        library,
        (arguments.select, *BASELINES),
        num_runs=arguments.runs,
        num_steps=arguments.steps,
        seed=arguments.seed,
    )
    print(found.table().round(3).to_string())
    page = report(study, library, found, Path(arguments.out))
    print("\nReport:", page)


if __name__ == "__main__":
    main()
