"""Part `speed`: draws per processor second beside two loops over particles.

256 particles from one anchor, `alpha` 0, explore + settle, float32, default tolerances,
one thread, warm. Ours is a whole block on the default number of lanes, starts and final
statistics included. The loops are timed on some of the particles and only while they
step; a step costs the same for every particle, so their cost per draw is the cost of
a step times the mean number of steps of all 256.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from _bench import Row, Timing
from _dims_common import (
    FILES,
    Case,
    Outcome,
    in_turn,
    make_case,
    row,
    seconds,
    slices,
    throw,
)
from _dims_eager import loss_of, trajectory

from pyro_geo.infer.mcmc.dims.flow import advance, start_flow
from pyro_geo.infer.mcmc.dims.problem import Problem
from pyro_geo.infer.mcmc.dims.solvers.splitting import Splitting
from pyro_geo.infer.mcmc.dims.state import ACTIVE

PARTICLES = 256
# particles of the two loops: enough for half a second or more of work
ONE_LANE = {"gap_network": 4, "overparameterised": 16, "eight_schools": 256}
EAGER = {"gap_network": 1, "overparameterised": 4, "eight_schools": 16}
OURS = "ours"
COMPILED_LOOP, EAGER_LOOP = "loop over the compiled step, one lane", "eager loop"


def measure(quick: bool) -> Outcome:
    """Compare all three models."""
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    eager = {}
    for name in ["overparameterised"] if quick else FILES:
        found, loops = compare(name, quick)
        rows += found
        ratios[f"draws_per_cpu_s/compiled_loop@256/{name}"] = loops[COMPILED_LOOP]
        eager[name] = loops[EAGER_LOOP]
    ratios = {"draws_per_cpu_s/eager_loop@256": min(eager.values()), **ratios}
    rows += [
        row(name, EAGER_LOOP, "our draws per processor second over theirs", value, "")
        for name, value in eager.items()
    ]
    return Outcome(rows, ratios)


def compare(name: str, quick: bool) -> tuple[list[Row], dict[str, float]]:
    """Time one model on all three sides, in turn."""
    limits: dict[str, Any] = {"max_evals": 40} if quick else {}
    n = 4 if quick else PARTICLES
    rung = "traced" if quick else "compiled"
    case = make_case(name, n, quick=quick, **limits)
    (stats, _), warm = seconds(lambda: throw(case, rung=rung))
    tried = (stats["n_steps"] + stats["n_rejected"]).double()
    one_lane, tries, warm_one = one_lane_loop(
        case, rung, 1 if quick else ONE_LANE[name]
    )
    loss, few = loss_of(case), 1 if quick else EAGER[name]
    ends = []

    def eager_loop() -> None:
        with pyro.validation_enabled(False):
            pairs = zip(case.q[:few], case.v[:few], strict=True)
            ends[:] = [trajectory(loss, q, v, case.options) for q, v in pairs]

    functions: dict[str, Callable[[], object]] = {
        OURS: lambda: throw(case, rung=rung),
        COMPILED_LOOP: one_lane,
        EAGER_LOOP: eager_loop,
    }
    repeats = 1 if quick else 5
    times = in_turn(functions, dict.fromkeys(functions, repeats))
    mean = float(tried.mean())
    draws = {
        OURS: float(n),
        COMPILED_LOOP: tries() / mean,
        EAGER_LOOP: sum(end.steps for end in ends) / mean,
    }
    rows = [
        row(name, OURS, "first block with compilation", warm, "s"),
        row(name, COMPILED_LOOP, "compilation and one step", warm_one, "s"),
        row(
            name,
            OURS,
            "evaluations per draw",
            float(stats["n_evals"].double().mean()),
            "",
        ),
        row(name, OURS, "steps per draw", mean, "", sd=float(tried.std())),
    ]
    ours_few = float(tried[:few].mean())
    theirs_few = sum(end.steps for end in ends) / few
    note = f"ours took {ours_few:.1f} steps for the same {few} particles"
    rows.append(row(name, EAGER_LOOP, "steps per draw", theirs_few, "", note=note))
    per_draw = {}
    for method, t in times.items():
        per_draw[method] = t.cpu / draws[method]
        rows += timed(name, method, t, draws[method])
    loops = (COMPILED_LOOP, EAGER_LOOP)
    return rows, {loop: per_draw[loop] / per_draw[OURS] for loop in loops}


def timed(name: str, method: str, t: Timing, draws: float) -> list[Row]:
    """Rows of a timing, per draw."""
    scale = 1e3 / draws
    note = f"median of 5 repetitions, each the work of {draws:.3g} draws"
    more = {"sd": t.sd * scale, "wall": t.wall * scale, "note": note}
    return [row(name, method, "processor per draw", t.cpu * scale, "ms", **more)]


def one_lane_loop(
    case: Case, rung: str, count: int
) -> tuple[Callable[[], None], Callable[[], int], float]:
    """Prepare the plain loop over particles on the same step for one lane.

    Returns:
        The loop, a function that tells how many steps it took, and the processor
        seconds of compiling and a first step.
    """
    target, objective = case.target, case.objective
    params = case.options.params(case.q.dtype)
    solver = Splitting()
    problem = Problem(objective.on(target), params, euclidean=True)
    starts = start_flow(problem, solver, case.q[:count], case.v[:count])
    lifted = target.lift(
        (*objective.key, "benchmark step"),
        lambda target, params, state: advance(
            Problem(objective.on(target), params, euclidean=True), solver, state
        ),
        "a step of one lane",
    )
    first = slices(starts, 0)
    bind = partial(lifted.specialise, target.data, params, first)
    step, bound = seconds(lambda: bind(rung=rung))  # pyright: ignore
    _, once = seconds(lambda: step(params, first))
    tried = 0

    def loop() -> None:
        nonlocal tried
        tried = 0
        with torch.no_grad():
            for i in range(count):
                state = slices(starts, i)
                while int(state.status) == ACTIVE:
                    state = step(params, state)
                    tried += 1

    return loop, lambda: tried, bound + once
