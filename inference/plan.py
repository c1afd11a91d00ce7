"""Plan under a posterior of the dynamics, act, and write a report with pictures.

    python inference/plan.py models/two_routes.py --planner cem --risk 0.8 --out run/

MODEL is a file with a model of data about a plant, `plant()` and `start()`. The
posterior is sampled first; then each step is planned under some of its draws.
"""

import argparse
import runpy
from pathlib import Path

import torch

from pyro_geo.infer import HMC, MCMC
from pyro_geo.planning.mpc.episodes import run_plant
from pyro_geo.planning.mpc.reports import PLANNERS, planner_for, report


def main() -> None:
    parser = argparse.ArgumentParser(description="Plan under uncertain dynamics")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--planner", default="cem", choices=sorted(PLANNERS))
    parser.add_argument("--risk", type=float, default=0.0, help="level of CVaR")
    parser.add_argument("--horizon", type=int, default=25, help="steps of a plan")
    parser.add_argument("--draws", type=int, default=8, help="draws of each plan")
    parser.add_argument("--steps", type=int, default=40, help="steps of the run")
    parser.add_argument("--samples", type=int, default=200, help="draws of a chain")
    parser.add_argument("--compile", action="store_true", help="compile a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="plan_report", help="folder of the report")
    arguments = parser.parse_args()

    torch.set_default_dtype(torch.float64)
    file = runpy.run_path(arguments.model)
    chains = MCMC(HMC(file["model"]), arguments.samples, 200, 4, seed=arguments.seed)
    fit = chains.run(*file["data"]())
    print(fit.summary().round(3).to_string())
    plant, planner = planner_for(
        file,
        fit.get_samples(),
        method=arguments.planner,
        beta=arguments.risk,
        horizon=arguments.horizon,
        num_draws=arguments.draws,
        compile=arguments.compile,
        seed=arguments.seed,
    )
    episode = run_plant(plant, planner, file["start"](), num_steps=arguments.steps)
    print(f"\n{episode.plans[0]}\nCost of the run: {-float(episode.rewards.sum()):.4g}")
    facts = {name: str(value) for name, value in vars(arguments).items()}
    page = Path(arguments.out) / "report.html"
    print("\nReport:", report(episode, page, idata=fit.to_arviz(), facts=facts))


if __name__ == "__main__":
    main()
