"""Settings of planners, and how they were chosen.

Each planner has twelve settings to choose from (`GRIDS`). On the problems that are not
held out, 500 candidates and 5 iterations, the one of lowest mean cost is its choice:
the cost of plans for two routes, and that of the whole swing-up with a horizon of 30
steps for the pendulum (run this file to print them all).
`CHOSEN` is what came out. It is used at all budgets and horizons. There are 120 starts
and 8 pendulums to choose on; `pytorch-icem`, one problem at a time, gets 12 and 2.
Defaults of `CEMPlanner` are the setting of its grid whose costs, each over the lowest
of its plant, have the smallest sum.
"""

import itertools
import sys
from typing import Any

import torch
from _decent_cem_planning_problems import routes, swings
from _decent_cem_planning_runs import route_costs, swing_costs
from _decent_cem_pytorch_icem import peer_plans, peer_swings

from pyro_geo.optim import CEM, DecentCEM
from pyro_geo.planning.mpc import CEMPlanner, ICEMPlanner, MPPIPlanner, Planner

__all__ = ["CHOSEN", "POP", "make"]

POP = 500
Settings = dict[str, float]


def grid(**values: tuple[float, ...]) -> list[Settings]:
    """Every combination."""
    rows = itertools.product(*values.values())
    return [dict(zip(values, row, strict=True)) for row in rows]


STD, BETA = (0.5, 1.0, 2.0), (0.0, 0.5, 1.0, 2.0)
GRIDS = {
    "CEMPlanner": grid(noise_beta=BETA, initial_std=STD),
    "CEM": grid(elite_frac=(0.02, 0.1), overshoot=(0.0, 1.0), initial_std=STD),
    "iCEM": grid(noise_beta=BETA, initial_std=STD),
    "MPPI": grid(
        temperature=(0.1, 1.0, 10.0), noise_beta=(0.0, 1.0), initial_std=(0.5, 1.0)
    ),
    "pytorch-icem": grid(noise_beta=BETA, initial_std=STD),
}
CHOSEN: dict[str, dict[str, Settings]] = {
    "routes": {
        "CEMPlanner": {"noise_beta": 2.0, "initial_std": 2.0},
        "CEM": {"elite_frac": 0.02, "overshoot": 1.0, "initial_std": 2.0},
        "iCEM": {"noise_beta": 2.0, "initial_std": 2.0},
        "MPPI": {"temperature": 1.0, "noise_beta": 1.0, "initial_std": 0.5},
        "pytorch-icem": {"noise_beta": 2.0, "initial_std": 0.5},
    },
    "pendulum": {
        "CEMPlanner": {"noise_beta": 1.0, "initial_std": 1.0},
        "CEM": {"elite_frac": 0.1, "overshoot": 1.0, "initial_std": 1.0},
        "iCEM": {"noise_beta": 0.5, "initial_std": 0.5},
        "MPPI": {"temperature": 0.1, "noise_beta": 0.0, "initial_std": 0.5},
        "pytorch-icem": {"noise_beta": 0.0, "initial_std": 2.0},
    },
}


def make(name: str, plant: Any, iters: int, given: Settings, **options: Any) -> Planner:
    """Make a planner with settings; without any it is at its defaults.

    `CEM` is as published but for its settings, `one` is `CEMPlanner` with one instance.
    """
    if name == "MPPI":
        return MPPIPlanner(plant, num_iters=iters, **given, **options)
    if name == "iCEM":
        return ICEMPlanner(plant, num_iters=iters, **given, **options)
    if name == "CEM":
        frac = given.get("elite_frac", 0.1)
        rest = {key: x for key, x in given.items() if key != "elite_frac"}
        one = CEM(pop_size=POP, max_iters=iters, elite_frac=frac)
        published = {"noise_beta": 0.0, "overshoot": 0.0, **rest}
        return CEMPlanner(plant, optimizer=one, **published, **options)
    if name == "one":
        one = CEM(pop_size=POP, max_iters=iters)
        return CEMPlanner(plant, optimizer=one, **given, **options)
    few = DecentCEM(5, layout="uniform", restart=False, pop_size=POP, max_iters=iters)
    return CEMPlanner(plant, optimizer=few, **given, **options)


def cost_of_routes(name: str, given: Settings, count: int) -> float:
    """Mean cost of plans on the tuning problems; a peer gets fewer of them."""
    costs = []
    for problem in routes(count, held_out=False):
        if name == "pytorch-icem":
            found = peer_plans(problem, POP, 5, given)
            if found is None:
                return float("nan")
        else:
            found = route_costs(
                make(name, problem.plant, 5, given, horizon=15), problem
            )
        costs.append(found)
    return float(torch.cat(costs).mean())


def cost_of_swings(name: str, given: Settings, count: int) -> float:
    """Mean cost of swing-ups on the tuning problems."""
    if name == "pytorch-icem":
        found = peer_swings(swings(count, held_out=False), 30, POP, 5, given)
        return float("nan") if found is None else float(found.mean())
    problem = swings(count, held_out=False)
    options: dict[str, Any] = {"draws": problem.draws, "horizon": 30, "seed": 11}
    planner = make(name, problem.plant, 5, given, max_rows=1 << 14, **options)
    return float(swing_costs(planner, problem).mean())


def main() -> None:
    """Print the cost of every setting, and the choice."""
    torch.set_num_threads(1)
    names = sys.argv[1:] or list(GRIDS)
    for case, cost, count, fewer in (
        ("routes", cost_of_routes, 120, 12),
        ("pendulum", cost_of_swings, 8, 2),
    ):
        for name in names:
            many = fewer if name == "pytorch-icem" else count
            found = [(cost(name, given, many), given) for given in GRIDS[name]]
            for value, given in sorted(found, key=lambda pair: pair[0]):
                print(f"{case} {name} {value:.2f} {given}", flush=True)


if __name__ == "__main__":
    main()
