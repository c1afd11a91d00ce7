"""Planning: two routes around a reef, and pendulums of unknown mass and length.

Every planner has the same candidates, iterations, problems and draws. The settings of
each were chosen by one small grid on problems with constants and seeds of their own
(`_decent_cem_planning_settings.py`); what is reported is held out. `CEMPlanner` is also
reported at its defaults, which are one setting for everything. Differences from CEM
are those on the same problems, with their standard errors.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _bench import Row
from _decent_cem_planning_problems import Routes, routes, swings
from _decent_cem_planning_runs import NUM_STEPS, route_costs, swing_costs
from _decent_cem_planning_settings import CHOSEN, POP, make
from _decent_cem_pytorch_icem import peer_plans, peer_swings
from torch import Tensor

from pyro_geo.planning.mpc import Planner

STEPS = 15  # of a plan of two routes
ROWS = 1 << 14  # states simulated at once: what fits the cache
PUBLISHED: dict[str, Any] = {"noise_beta": 0.0, "overshoot": 0.0}
Makers = dict[str, Callable[[], Planner]]


def makers(case: str, plant: Any, iters: int, **options: Any) -> Makers:
    """Planners by name, each with the settings chosen for the case."""
    chosen = CHOSEN[case]
    options = {"max_rows": ROWS, "seed": 1, **options}

    def maker(name: str, given: dict[str, Any]) -> Callable[[], Planner]:
        return lambda: make(name, plant, iters, given, **options)

    return {
        "CEM": maker("CEM", chosen["CEM"]),
        "CEMPlanner": maker("CEMPlanner", {}),
        "CEMPlanner, one instance": maker("one", {}),
        "CEMPlanner, tuned": maker("CEMPlanner", chosen["CEMPlanner"]),
        "iCEM": maker("iCEM", chosen["iCEM"]),
        "MPPI": maker("MPPI", chosen["MPPI"]),
    }


def row(
    case: str, method: str, costs: Tensor, cem: Tensor, seconds: float, each: int
) -> Row:
    """A row of the table; `cem` are the costs of CEM on the first problems or all."""
    gap = (costs - cem[: len(costs)]).double()
    count = len(costs)
    error = float(gap.std()) / count**0.5 if count > 1 else 0.0
    found: Row = {
        "case": case,
        "method": method,
        "metric": "cost",
        "value": float(costs.mean()),
        "sd": float(costs.std()) if count > 1 else 0.0,
        "worst": float(costs.max()),
        "minus_cem": float(gap.mean()),
        "minus_cem_error": error,
        "cem_here": float(cem[:count].mean()),
        "cpu_ms": 1e3 * seconds / (count * each),
        "seeds": count,
        "unit": "cost",
    }
    print(
        f"  {case}, {method}: {found['value']:.1f}, minus CEM {found['minus_cem']:.1f}"
        f" ± {error:.1f} ({count} problems)",
        flush=True,
    )
    return found


def table(
    case: str,
    planners: Makers,
    costs_of: Callable[[Planner], Tensor],
    peer: Callable[[], Tensor | None] | None,
    each: int,
) -> list[Row]:
    """Rows of all planners, CEM first; `each` plans are made for a problem."""
    rows, cem = [], torch.empty(0)
    for name, make_one in planners.items():
        start = time.process_time()
        costs = costs_of(make_one())
        seconds = time.process_time() - start
        cem = costs if name == "CEM" else cem
        rows.append(row(case, name, costs, cem, seconds, each))
    if peer is not None:
        start = time.process_time()
        costs = peer()
        seconds = time.process_time() - start
        if costs is None:
            print("  pytorch-icem: not installed", flush=True)
        else:
            rows.append(row(case, "pytorch-icem", costs, cem, seconds, each))
    return rows


def measure_routes(quick: bool) -> Iterator[list[Row]]:
    """Cost of one plan from starts near the origin."""
    (problem,) = routes(4 if quick else 200, held_out=True)
    few = Routes(problem.plant, problem.starts[: 1 if quick else 40])
    given = CHOSEN["routes"]["pytorch-icem"]
    for iters in (2,) if quick else (5, 15):
        planners = makers("routes", problem.plant, iters, horizon=STEPS)
        for offsets, name in (("none", "one start"), ("coloured", "coloured starts")):
            settings: Any = {**PUBLISHED, "offsets": offsets}
            planners[f"DecentCEM as published, {name}"] = (
                lambda settings=settings, iters=iters: make(
                    "CEMPlanner", problem.plant, iters, settings, horizon=STEPS
                )
            )
        yield table(
            f"two routes, {POP}x{iters}",
            planners,
            lambda planner: route_costs(planner, problem),
            lambda iters=iters: peer_plans(few, POP, iters, given),
            each=1,
        )


def measure_pendulum(quick: bool) -> Iterator[list[Row]]:
    """Cost of swing-ups; the peer, one problem at a time, makes the first of them."""
    count, steps, iters = (3, 4, 2) if quick else (24, NUM_STEPS, 5)
    problem = swings(count, held_out=True)
    first = slice(1 if quick else 6)
    few = problem._replace(down=problem.down[first], truth=problem.truth[first])
    given = CHOSEN["pendulum"]["pytorch-icem"]
    for horizon in (5,) if quick else (30, 50):
        options: dict[str, Any] = {"draws": problem.draws, "horizon": horizon}
        planners = makers("pendulum", problem.plant, iters, **options)
        del planners["CEMPlanner, one instance"]  # to save time
        yield table(
            f"pendulum, {POP}x{iters}, horizon {horizon}",
            planners,
            lambda planner: swing_costs(planner, problem, steps),
            lambda horizon=horizon: peer_swings(few, horizon, POP, iters, given, steps),
            each=steps // 2,
        )


def measure_plans(quick: bool) -> Iterator[list[Row]]:
    """Cost of single plans from random states: the search without what follows it."""
    count, iters = (2, 2) if quick else (64, 5)
    problem = swings(count, held_out=True)
    s = problem.anywhere(7)
    for horizon in (5,) if quick else (30, 50):
        options: dict[str, Any] = {"draws": problem.draws, "horizon": horizon}
        yield table(
            f"pendulum plans, {POP}x{iters}, horizon {horizon}",
            makers("pendulum", problem.plant, iters, **options),
            lambda planner: planner.plan(s).cost,
            None,
            each=1,
        )


def measure(quick: bool) -> Iterator[list[Row]]:
    """Measure two routes, single plans of pendulums, and their swing-up."""
    yield from measure_routes(quick)
    yield from measure_plans(quick)
    yield from measure_pendulum(quick)


def ratios(rows: list[Row]) -> dict[str, float]:
    """Costs of ours over those of others; smaller is better.

    Both sides are tuned; `@default` has ours at its defaults, and theirs tuned.
    """
    found = {}
    named = {(r["case"], r["method"]): r for r in rows if "minus_cem" in r}
    for (case, method), theirs in named.items():
        if method not in ("CEM", "iCEM", "MPPI"):
            continue
        key = f"plan/{case.replace(', ', '/').replace(' ', '_')}/{method}"
        for ours, end in (("CEMPlanner, tuned", ""), ("CEMPlanner", "@default")):
            if (case, ours) in named:
                found[key + end] = named[case, ours]["value"] / theirs["value"]
    return found
