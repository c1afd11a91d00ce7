"""Processor time of a batch of searches: ours, one at a time, and batched peers.

64 problems with 10 instances each, the same evaluations for all: 30 iterations of 50
candidates an instance, the library's population, on a sum of squares of 25 coordinates,
the length of a plan; double precision, one thread. Fewer coordinates are measured as
well, and a cost that takes longer than all else, Rastrigin's function. evotorch's
functional CEM has batch dimensions, as many as one likes; stable-worldmodel's planners
batch over environments, so every instance is one. Nothing stops early: that would spare
us what the peers cannot save. Our loops compile once that pays in a process, which is
before the timing here; the first call of a process is a row of its own.
"""

import contextlib
import importlib
import importlib.util
import io
import math
import sys
import time
import types
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from _bench import Row, Timing, interleaved
from _hmc_common import installed, missing, row
from torch import Tensor

from pyro_geo.optim.cem import CEM, DecentCEM

PROBLEMS, INSTANCES = 64, 10
POP_SIZE, DIM, ITERATIONS = 50, 25, 30
HALF = 5.12
EVERY = 0.1  # share of elites
TIME = "time of a search"
CASE = f"{PROBLEMS} problems x {INSTANCES} instances"
Call = Callable[[], object]
Cost = Callable[[Tensor], Tensor]


class Size(NamedTuple):
    """What one search is like."""

    cost: Cost
    population: int
    dim: int


def squares(x: Tensor) -> Tensor:
    """The sum of squares, `(..., dim)` to `(...,)`."""
    return (x * x).sum(-1)


def rastrigin(x: Tensor) -> Tensor:
    """Rastrigin's function, `(..., dim)` to `(...,)`."""
    return (x.square() - 10.0 * torch.cos(2 * math.pi * x)).sum(-1)


def ours(
    problems: int, instances: int, size: Size, max_points: int | None = None
) -> Call:
    """All searches in one call."""
    cost, population, dim = size
    method = DecentCEM(
        instances,
        pop_size=instances * population,
        layout="uniform",
        restart=False,
        min_var=0.0,
        max_iters=ITERATIONS,
    )
    upper = torch.full((dim,), HALF)

    def call() -> object:
        return method.minimize(
            cost,
            lower=-upper,
            upper=upper,
            batch_shape=(problems,),
            max_points=max_points,
            seed=1,
        )

    return call


def looped(instances: int, size: Size) -> Call:
    """One instance after another by the same code."""
    cost, population, dim = size
    method = CEM(pop_size=population, min_var=0.0, max_iters=ITERATIONS)
    upper = torch.full((dim,), HALF)

    def call() -> object:
        return [
            method.minimize(cost, lower=-upper, upper=upper, seed=seed)
            for seed in range(instances)
        ]

    return call


def evotorch_cem(shape: tuple[int, ...], size: Size) -> Call:
    """Evotorch's functional CEM with batch dimensions."""
    cost, population, dim = size
    functional = importlib.import_module("evotorch.algorithms.functional")
    centre = HALF / 2 * torch.randn(*shape, dim)

    def call() -> object:
        state = functional.cem(
            center_init=centre,
            stdev_init=HALF / 2,
            stdev_min=1e-6,
            parenthood_ratio=EVERY,
            objective_sense="min",
        )
        best = torch.full(shape, math.inf)
        for _ in range(ITERATIONS):
            x = functional.cem_ask(state, popsize=population)
            found = cost(x)
            best = torch.minimum(best, found.amin(-1))
            state = functional.cem_tell(state, x, found)
        return best

    return call


class Model(torch.nn.Module):
    """The cost as a world model of stable-worldmodel; a parameter tells the type."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.cost = cost
        self.scale = torch.nn.Parameter(torch.ones(()))

    def get_cost(self, info: dict[str, Any], candidates: Tensor) -> Tensor:
        """Costs `(envs, samples)` of `(envs, samples, horizon, actions)`."""
        return self.cost(candidates.flatten(2))


def planner_of_worlds(name: str, solver: str) -> Any:
    """Import a planner of stable-worldmodel alone.

    The package itself imports data formats and environments that planners do not need.
    """
    package = "stable_worldmodel"
    if package not in sys.modules:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        bare = types.ModuleType(package)
        bare.__spec__ = spec
        bare.__path__ = list(spec.submodule_search_locations or ())
        sys.modules[package] = bare
    return getattr(importlib.import_module(f"{package}.solver.{name}"), solver)


def world_planner(solver: Any, searches: int, size: Size) -> Call:
    """One of stable-worldmodel's planners, every search an environment.

    Its horizon is as many steps as there are coordinates, of one action each.
    """
    cost, population, dim = size
    gymnasium = importlib.import_module("gymnasium")
    planner = solver(
        Model(cost),
        batch_size=searches,
        num_samples=population,
        n_steps=ITERATIONS,
        topk=round(EVERY * population),
        var_scale=HALF / 2,
    )
    space = gymnasium.spaces.Box(-HALF, HALF, (searches, 1), np.float64)
    config = SimpleNamespace(horizon=dim, action_block=1)
    planner.configure(action_space=space, n_envs=searches, config=config)
    info = {"state": torch.zeros(searches, 1)}

    def call() -> object:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its time
            return planner.solve(info)

    return call


def peers(size: Size) -> dict[str, Call]:
    """Every batched peer that is installed."""
    found: dict[str, Call] = {}
    searches = PROBLEMS * INSTANCES
    if installed("evotorch"):
        found["evotorch CEM, 64 x 10"] = evotorch_cem((PROBLEMS, INSTANCES), size)
        found["evotorch CEM, 640"] = evotorch_cem((searches,), size)
    if installed("stable_worldmodel") and installed("loguru"):
        for label, name, solver in (
            ("stable-worldmodel CEM", "cem", "CEMSolver"),
            ("stable-worldmodel iCEM", "icem", "ICEMSolver"),
        ):
            kind = planner_of_worlds(name, solver)
            found[label] = world_planner(kind, searches, size)
    return found


def sizes(quick: bool) -> dict[str, Size]:
    """What is measured, by case."""
    found = {CASE: Size(squares, POP_SIZE, DIM)}
    if quick:
        return found
    return found | {
        f"{CASE}, d = 10": Size(squares, POP_SIZE, 10),
        f"{CASE}, d = 10, P = 100": Size(squares, 100, 10),
        f"{CASE}, Rastrigin": Size(rastrigin, POP_SIZE, DIM),
    }


def measure(quick: bool) -> Iterator[list[Row]]:
    """Time all in turns."""
    torch.manual_seed(0)
    first = ours(PROBLEMS, INSTANCES, Size(squares, POP_SIZE, DIM))
    before = time.process_time()
    first()
    spent = 1e3 * (time.process_time() - before)
    yield [row(CASE, "DecentCEM", "time of the first call of a process", spent, "ms")]
    until = time.perf_counter() + (0.0 if quick else 10.0)
    while time.perf_counter() < until:
        first()
    for case, size in sizes(quick).items():
        functions = {
            "DecentCEM": ours(PROBLEMS, INSTANCES, size),
            "DecentCEM, 16,000 points a call": ours(
                PROBLEMS, INSTANCES, size, max_points=16_000
            ),
            **peers(size),
        }
        yield timed(case, functions, quick)
    absent = []
    for label, package in (
        ("evotorch CEM", "evotorch"),
        ("stable-worldmodel CEM", "stable_worldmodel"),
    ):
        if not installed(package):
            absent.append(missing(CASE, label, TIME))
    yield absent
    for instances in (5,) if quick else (2, 5, 10, 50):
        size = Size(squares, 100, 10)
        functions = {
            "DecentCEM": ours(1, instances, size),
            "looping instances": looped(instances, size),
        }
        yield timed(f"1 problem x {instances} instances", functions, quick)


def timed(case: str, functions: dict[str, Call], quick: bool) -> list[Row]:
    """Time functions in turns and make their rows."""
    found: dict[str, Timing] = interleaved(
        functions, repetitions=1 if quick else 7, seconds=0.0 if quick else 0.5
    )
    return [
        row(case, name, TIME, 1e3 * t.cpu, "ms", sd=1e3 * t.sd, wall=1e3 * t.wall)
        for name, t in found.items()
    ]


def ratios(rows: list[Row]) -> dict[str, float]:
    """Processor seconds, theirs over ours; of several settings the fastest."""
    result: dict[str, float] = {}
    table = {
        (r["case"], r["method"]): r["value"]
        for r in rows
        if r["metric"] == TIME and r["value"] is not None
    }
    for case in dict.fromkeys(case for case, _ in table if case.startswith(CASE)):
        here = {method: v for (other, method), v in table.items() if other == case}
        own = min(v for m, v in here.items() if m.startswith("DecentCEM"))
        for key, start in (
            ("evotorch", "evotorch CEM"),
            ("stable_worldmodel", "stable-worldmodel CEM"),
            ("stable_worldmodel_icem", "stable-worldmodel iCEM"),
        ):
            times = [v for m, v in here.items() if m.startswith(start)]
            more = case[len(CASE) :].replace(", ", "/").replace(" ", "")
            if times:
                result[f"cpu/{key}@64x10{more}"] = min(times) / own
    for (case, method), value in table.items():
        if method == "looping instances":
            count = case.split(" x ")[1].split()[0]
            ours_here = table[case, "DecentCEM"]
            result[f"speed/looping_instances@{count}"] = value / ours_here
    return result
