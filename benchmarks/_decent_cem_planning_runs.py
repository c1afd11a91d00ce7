"""Costs of single plans, and of whole swing-ups, of many problems at once."""

import torch
from _decent_cem_planning_problems import Routes, Swings
from torch import Tensor

from pyro_geo.planning.mpc import Planner

__all__ = ["EVERY", "NUM_STEPS", "route_costs", "swing_costs"]

NUM_STEPS, EVERY = 100, 2  # of a swing-up, and actions that are taken of each plan


def route_costs(planner: Planner, problem: Routes) -> Tensor:
    """Cost of one plan from each start, `(B,)`."""
    return planner.plan(problem.starts).cost


def swing_costs(
    planner: Planner, problem: Swings, num_steps: int = NUM_STEPS
) -> Tensor:
    """Cost of the swing-up of each pendulum, `(B,)`."""
    s, cost = problem.down, torch.zeros(len(problem.down))
    planner.reset()
    nothing = torch.zeros(len(s), 1)
    for _ in range(num_steps // EVERY):
        plan = planner.plan(s, elapsed=EVERY)
        for t in range(EVERY):
            a = plan.actions[:, t]
            after = problem.plant.simulate(problem.truth, s, a, nothing)
            cost -= problem.plant.reward(s, a, after)
            s = after
    return cost
