"""Searches, planners and values of states on both devices."""

import itertools
import os

import torch
from _gpu_case import Case, Result, Work, numbers
from torch import Tensor

from pyro_geo.gp import ExactGPTD, SparseGPTD, Transitions
from pyro_geo.optim import CEM, DecentCEM
from pyro_geo.planning import mpc
from pyro_geo.planning.environments import Pendulum


def wave(x: Tensor) -> Tensor:
    """A function with several basins, lowest at one point of each coordinate."""
    return (x.sin() + (10 / 3 * x).sin()).sum(-1)


def search(problems: int, dim: int, decentral: bool, population: int) -> Case:
    """Minimise many problems at once, in a box."""
    lower = torch.full((dim,), -7.5, dtype=torch.float64)

    def make(device: torch.device) -> Work:
        method = (
            DecentCEM(num_instances=10, pop_size=population, max_iters=10)
            if decentral
            else CEM(pop_size=population, max_iters=10)
        )
        low = lower.to(device)

        def work() -> Result:
            found = method.minimize(
                wave, lower=low, upper=7.5, batch_shape=(problems,), seed=0
            )
            # problems are alike, and candidates are drawn by the device
            cost = found.fun.double()
            return {
                "mean": cost.mean()[None],
                "error": cost.std()[None] / problems**0.5,
            }

        return work

    return Case(make, None, threads=os.cpu_count() or 1)


def planner(name: str, draws: int, horizon: int, problems: int) -> Case:
    """Plan for a pendulum under draws of its mass and length."""
    theta = (1.0 + 0.05 * numbers(draws, 2)).double()
    angle = numbers(problems, seed=1).double()
    states = torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)

    def make(device: torch.device) -> Work:
        kind = getattr(mpc, name)
        drawn, s = theta.to(device), states.to(device)
        seeds = itertools.count()

        def work() -> Result:
            # made anew: a planner goes on from its last plan
            made = kind(
                Pendulum(),
                draws=drawn,
                horizon=horizon,
                seed=next(seeds),
                num_draws=draws,
            )
            return {"call": made.plan(s).cost.double().mean()}

        return work

    return Case(make, None, threads=os.cpu_count() or 1)


def values(name: str, steps: int) -> Case:
    """Condition a Gaussian process on the values of states."""
    x = numbers(steps, 2, dtype=torch.float64)
    after = 0.9 * x + 0.1 * numbers(steps, 2, seed=1, dtype=torch.float64)
    reward = -x.square().sum(-1) + 0.1 * numbers(steps, seed=2, dtype=torch.float64)
    nodes = numbers(256, 2, seed=3, dtype=torch.float64)

    def make(device: torch.device) -> Work:
        here = [t.to(device) for t in (x, after, reward)]
        at = nodes.to(device)
        steps_of = Transitions(
            here[0], here[1], here[2], 0.9, episode=torch.arange(steps)
        )
        kind = {"ExactGPTD": ExactGPTD, "SparseGPTD": SparseGPTD}[name]
        options = {"num_inducing": 128} if name == "SparseGPTD" else {}

        def work() -> Result:
            found = kind(steps_of, **options).fit(num_steps=0).value(at)
            return {"mean": found.mean.detach(), "sd": found.stddev.detach()}

        return work

    return Case(make, 1e-4, threads=os.cpu_count() or 1)


def cases(quick: bool) -> dict[str, Case]:
    """Name the cases."""
    if quick:
        return {
            "DecentCEM, 2 problems of 2": search(2, 2, True, 150),
            "CEMPlanner, 4 draws": planner("CEMPlanner", 4, 4, 1),
            "ExactGPTD, 50 steps": values("ExactGPTD", 50),
        }
    return {
        "CEM, 64 problems of 10": search(64, 10, False, 300),
        "DecentCEM, 64 problems of 10": search(64, 10, True, 300),
        "DecentCEM, 2,048 problems of 10": search(2048, 10, True, 300),
        "CEMPlanner, 8 draws, 1 problem": planner("CEMPlanner", 8, 30, 1),
        "CEMPlanner, 64 draws, 16 problems": planner("CEMPlanner", 64, 30, 16),
        "ICEMPlanner, 64 draws, 16 problems": planner("ICEMPlanner", 64, 30, 16),
        "MPPIPlanner, 64 draws, 16 problems": planner("MPPIPlanner", 64, 30, 16),
        "ExactGPTD, 4,000 steps": values("ExactGPTD", 4000),
        "SparseGPTD, 50,000 steps": values("SparseGPTD", 50_000),
    }
