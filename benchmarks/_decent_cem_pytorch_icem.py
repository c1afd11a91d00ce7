"""The planner of `pytorch-icem`, which plans one problem at a time."""

import importlib
import warnings
from typing import Any

import numpy as np
import torch
from _decent_cem_planning_problems import Routes, Swings
from _decent_cem_planning_runs import EVERY, NUM_STEPS
from torch import Tensor

from pyro_geo.planning.environments import Plant

__all__ = ["peer_plans", "peer_swings"]


def _peer(
    plant: Plant,
    draws: Tensor,
    horizon: int,
    pop_size: int,
    iters: int,
    given: dict[str, float],
) -> Any | None:
    """Make a planner that plans under the draws side by side; None if not installed."""
    try:
        iCEM = importlib.import_module("pytorch_icem.icem").iCEM
    except ImportError:
        return None
    count, n, m = len(draws), plant.state_dim, plant.action_dim
    noise = torch.zeros(count, plant.noise_dim)

    def dynamics(x: Tensor, u: Tensor) -> Tensor:
        s = x.unflatten(-1, (count, n))
        return plant.simulate(draws, s, u.unsqueeze(-2), noise).flatten(-2)

    def cost(x: Tensor, u: Tensor) -> Tensor:
        # from the first state on; what follows each is simulated once more
        s, a = x.unflatten(-1, (count, n)), u.unsqueeze(-2)
        after = plant.simulate(draws, s, a, noise)
        a = a.clamp(-plant.limit, plant.limit)
        return -plant.reward(s, a, after).mean(-1).sum(-1)

    # it takes a spread for each number of an action with as many axes as numbers
    sigma = torch.full((m,) if m == 1 else (1, m), plant.limit)
    return iCEM(
        dynamics,
        cost,
        nx=count * n,
        nu=m,
        sigma=given.get("initial_std", 0.5) * sigma,
        num_samples=pop_size,
        num_elites=10,
        horizon=horizon,
        elites_keep_fraction=0.3,
        alpha=0.1,
        noise_beta=given.get("noise_beta", 1.0),
        warmup_iters=iters,
        online_iters=iters,
        includes_x0=True,
    )


def _actions(peer: Any, s: Tensor, count: int, m: int) -> Tensor:
    """Give the actions of its plan, `(H, m)`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, _ = peer.command(s.repeat(count), return_full_trajectories=True)
    return found[:, -m:]


def peer_plans(
    problem: Routes, pop_size: int, iters: int, given: dict[str, float]
) -> Tensor | None:
    """Cost of one plan from each start, `(B,)`."""
    plant, costs = problem.plant, []
    for number, start in enumerate(problem.starts):
        np.random.seed(number)  # noqa: NPY002 - all it has
        torch.manual_seed(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theta = plant.theta[None].float()
            peer = _peer(plant, theta, 15, pop_size, iters, given)
        if peer is None:
            return None
        s, cost = start, 0.0
        for a in _actions(peer, start, 1, 2):
            a = a.clamp(-plant.limit, plant.limit)
            after = plant.simulate(theta[0], s, a, torch.zeros(2))
            cost -= float(plant.reward(s, a, after))
            s = after
        costs.append(cost)
    return torch.tensor(costs)


def peer_swings(
    problem: Swings,
    horizon: int,
    pop_size: int,
    iters: int,
    given: dict[str, float],
    num_steps: int = NUM_STEPS,
) -> Tensor | None:
    """Cost of the swing-up of each pendulum, `(B,)`."""
    plant, costs = problem.plant, []
    for number, (s, theta) in enumerate(zip(problem.down, problem.truth, strict=True)):
        np.random.seed(number)  # noqa: NPY002 - all it has
        torch.manual_seed(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = _peer(plant, problem.draws, horizon, pop_size, iters, given)
        if peer is None:
            return None
        cost = 0.0
        for _ in range(num_steps // EVERY):
            actions = _actions(peer, s, len(problem.draws), 1)
            for _ in range(EVERY - 1):
                peer.shift()  # it has shifted once by itself
            for a in actions[:EVERY]:
                a = a.clamp(-plant.limit, plant.limit)
                after = plant.simulate(theta, s, a, torch.zeros(1))
                cost -= float(plant.reward(s, a, after))
                s = after
        costs.append(cost)
    return torch.tensor(costs)
