"""Part `lockstep`: a step size for each particle beside one step size for all.

256 particles on the gap network's surface at `alpha` 1, float64, one stage, velocities
of the Laplace approximation, from three anchors: the MAPs of three data seeds, because
the gain depends on how stiff the surface is around the anchor. Theirs is torchdiffeq's
dopri5 at rtol 1e-7 and atol 1e-6 on one state of all particles, its error norm over
positions and velocities; ours is the fastest of our integrators whose largest ledger
error is no worse. A search finds the tolerance of each. Both call the same right-hand
side, compiled: theirs once per stage, ours within its compiled step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from _bench import Row
from _dims_common import Case, Outcome, in_turn, make_case, row, seconds
from _dims_integrations import (
    METHODS,
    Method,
    Run,
    lockstep,
    own_steps,
    right_hand_side,
    splitting,
    start_of,
)

LANES = 32
EAGER_SHARE = 0.002  # of the time integrated, for the slow right-hand side
SPLITTING = (0.1, 0.03, 0.01)
THEIRS, OURS = "torchdiffeq dopri5, one step for all", "ours, the fastest"
EAGER = f"{THEIRS}, eager"
CASE = "gap_network, alpha 1, float64"


class Race(NamedTuple):
    """Processor seconds of both sides from one anchor."""

    ours: float
    theirs: float
    eager: float
    eager_evaluation: float


def measure(quick: bool) -> Outcome:
    """Compare both ways of choosing steps, with a compiled and an eager right side."""
    try:
        import torchdiffeq  # noqa: F401
    except ImportError:
        note = "not installed"
        return Outcome([row(CASE, THEIRS, "draw", float("nan"), "s", note=note)], {})
    options: dict[str, Any] = {
        "alpha": 1.0,
        "explore_time": 1e-5 if quick else 0.05,
        "settle_time": 0.0,
        "k_stop": 0.0,
        "max_evals": 10**7,
        "num_lanes": 2 if quick else LANES,
    }
    rows: list[Row] = []
    races: list[Race] = []
    shared = None
    for seed in range(1 if quick else 3):
        case = make_case(
            "gap_network",
            2 if quick else 256,
            quick=quick,
            dtype=torch.float64,
            seed=seed,
            shared=shared,
            **options,
        )
        shared = case.target  # its compiled functions serve the next seed
        first = races[0] if races else None
        found, race = compare(case, f"{CASE}, seed {seed}", first, quick)
        rows += found
        races.append(race)
    ours, theirs, eager, _ = (sum(parts) for parts in zip(*races, strict=True))
    key = "draws_per_cpu_s/dopri5_lockstep"
    ratios = {f"{key}@256": theirs / ours, f"{key}_as_published@256": eager / ours}
    return Outcome(rows, ratios)


def compare(
    case: Case, name: str, before: Race | None, quick: bool
) -> tuple[list[Row], Race]:
    """Find the tolerance at which ours is as good, then time both sides in turn.

    What does not depend on the anchor is taken from the race `before`.
    """
    rung = "traced" if quick else "compiled"
    fast, compiling = seconds(lambda: right_hand_side(case, rung))
    fast(start_of(case))
    theirs = lockstep(case, fast, case.options.explore_time)
    speed = float(case.v.norm(dim=-1).mean())
    rows = [row(name, "start", "mean speed", speed, "")]
    rows += described(name, THEIRS, theirs)
    if before is None:
        rows.append(row(name, THEIRS, "compilation", compiling, "s"))
        for method in METHODS:
            loose = partial(own_steps, case, method, 100 * method.first, rung)
            _, spent = seconds(loose)
            metric = "compilation and a loose run"
            rows.append(row(name, method.name, metric, spent, "s"))
        rows += too_loose(case, name, theirs.error, quick)
    found: list[tuple[Run, Method, float]] = []
    for method in METHODS:
        tol, run = search(case, method, theirs.error, rung, quick)
        rows += described(name, method.name, run, method.described(tol))
        found.append((run, method, tol))
    ours, method, tol = min(found, key=lambda one: one[0].spent)
    functions: dict[str, Callable[[], object]] = {
        OURS: lambda: own_steps(case, method, tol, rung),
        THEIRS: lambda: lockstep(case, fast, case.options.explore_time),
    }
    rounds = {OURS: 1 if quick else 3, THEIRS: 0}
    if before is None and not quick:
        rounds = {OURS: 5, THEIRS: 1}
    times = in_turn(functions, rounds)
    # the run before is a repetition too: its right-hand side was warm
    slow = times[THEIRS].cpu if rounds[THEIRS] else theirs.spent
    cost = eager_cost(case, quick) if before is None else before.eager_evaluation
    spent = times[OURS].cpu, 0.5 * (theirs.spent + slow)
    race = Race(*spent, cost * theirs.evaluations, cost)
    notes = [
        f"{method.name}, median of {rounds[OURS]}, {case.options.num_lanes} lanes",
        f"mean of {1 + rounds[THEIRS]}",
        "some evaluations timed, from the first anchor, the rest at the same cost each",
    ]
    for side, cpu, text in zip((OURS, THEIRS, EAGER), race[:3], notes, strict=True):
        value = 1e3 * cpu / len(case.q)
        rows.append(row(name, side, "processor per draw", value, "ms", note=text))
    gain = race.theirs / race.ours
    rows.append(row(name, OURS, "our draws per processor second over theirs", gain, ""))
    return rows, race


def too_loose(case: Case, name: str, error: float, quick: bool) -> list[Row]:
    """Say what our splitting step costs and how far its ledger is from theirs."""
    rows: list[Row] = []
    for step_tol in SPLITTING[: 1 if quick else None]:
        run = splitting(case, step_tol, "traced" if quick else "compiled")
        good = run.error <= error
        if good and not quick:
            raise RuntimeError("the splitting is accurate enough: time it as well")
        note = "its ledger is as good" if good else "its ledger is worse: not compared"
        rows += described(name, f"ours, splitting, step_tol {step_tol}", run, note)
    return rows


def search(
    case: Case, method: Method, error: float, rung: str, quick: bool
) -> tuple[float, Run]:
    """Find a loose tolerance whose ledger error is no worse than `error`."""
    tol, best = method.first, None
    run = own_steps(case, method, tol, rung)
    for turn in range(1 if quick else 5):
        run = own_steps(case, method, tol, rung) if turn else run
        if run.error <= error and (best is None or tol > best[0]):
            best = tol, run
        if 0.8 * error <= run.error <= error:
            break
        # the error grows about like the tolerance
        tol *= min(max(0.9 * error / run.error, 0.2), 5.0)
    if best is None and not quick:
        raise RuntimeError(f"no tolerance keeps an error of {error:.2g}")
    return best or (tol, run)


def eager_cost(case: Case, quick: bool) -> float:
    """Time an evaluation of theirs with an eager right-hand side, part of the way."""
    slow = right_hand_side(case, "mapped")
    length = (0.5 if quick else EAGER_SHARE) * case.options.explore_time
    runs = [lockstep(case, slow, length) for _ in range(1 if quick else 5)]
    return sorted(run.spent / run.evaluations for run in runs)[len(runs) // 2]


def described(name: str, method: str, run: Run, note: str | None = None) -> list[Row]:
    """Rows of one integration."""
    more = {} if note is None else {"note": note}
    return [
        row(name, method, "largest ledger error", run.error, "", **more),
        row(name, method, "evaluations per draw", run.evaluations, "", **more),
        row(name, method, "processor, once", run.spent, "s", **more),
    ]
