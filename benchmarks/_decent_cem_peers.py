"""Minimisers of scipy, pycma and evotorch on two functions, each at its best setting.

All may use 6,000 evaluations of one run. Of the settings tried, the row shows the one
with the highest success, of equals the quickest. Peers of scipy and pycma get a
function of NumPy, ours and evotorch's one of torch; a run of theirs solves one problem,
ours and evotorch's solve all runs in one batch, and what that costs is shared out.
"""

import importlib
import math
import statistics
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from _bench import Row
from _decent_cem_problems import SHIFT, WITHIN, Problem, problems, single_elites
from _hmc_common import installed, missing, row
from scipy import optimize

from pyro_geo._process import Seconds
from pyro_geo.optim.cem import CEM, DecentCEM

CAP = 6_000
BATCH = 200
SUCCESS, SPENT = "success", "processor time of a run"
Array = np.ndarray


class Run(NamedTuple):
    """Lowest value and evaluations of one run."""

    fun: float
    evaluations: int


class Found(NamedTuple):
    """What one setting of a method gave: a mean over runs each."""

    success: float
    evaluations: float
    cpu: float
    setting: str


def toy(x: Array) -> Any:
    """The toy of a point `(dim,)` or of columns `(dim, n)`."""
    return (np.sin(x) + np.sin(10.0 * x / 3.0)).sum(0)


def rastrigin(x: Array) -> Any:
    """Shifted Rastrigin of a point or of columns."""
    z = x - np.array(SHIFT).reshape(-1, *[1] * (np.ndim(x) - 1))
    return (z * z - 10.0 * np.cos(2 * math.pi * z) + 10.0).sum(0)


CASES = {"toy": toy, "shifted Rastrigin, d = 3": rastrigin}
Solver = Callable[[Callable[[Array], Any], Problem, int], Run]


def differential_evolution(popsize: int, vectorized: bool) -> Solver:
    """scipy's, whose population can be evaluated at once."""

    def solve(f: Callable[[Array], Any], problem: Problem, seed: int) -> Run:
        box = [(-problem.half, problem.half)] * problem.dim
        rounds = CAP // (popsize * problem.dim) - 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = optimize.differential_evolution(
                f,
                box,
                popsize=popsize,
                maxiter=rounds,
                rng=seed,
                vectorized=vectorized,
                updating="deferred" if vectorized else "immediate",
            )
        # evaluated at once, scipy counts calls, but for the polish at the end
        count = found.nit * popsize * problem.dim if vectorized else found.nfev
        return Run(float(found.fun), count)

    return solve


def dual_annealing(rounds: int) -> Solver:
    """scipy's, with its local searches."""

    def solve(f: Callable[[Array], Any], problem: Problem, seed: int) -> Run:
        box = [(-problem.half, problem.half)] * problem.dim
        found = optimize.dual_annealing(f, box, maxiter=rounds, maxfun=CAP, rng=seed)
        return Run(float(found.fun), found.nfev)

    return solve


def multistart(starts: int) -> Solver:
    """Scipy's L-BFGS-B from uniform starts, slopes by differences."""

    def solve(f: Callable[[Array], Any], problem: Problem, seed: int) -> Run:
        box = [(-problem.half, problem.half)] * problem.dim
        rng = np.random.default_rng(seed)
        best, count = math.inf, 0
        for start in rng.uniform(-problem.half, problem.half, (starts, problem.dim)):
            found = optimize.minimize(f, start, method="L-BFGS-B", bounds=box)
            best, count = min(best, float(found.fun)), count + found.nfev
            if count >= CAP:
                break
        return Run(best, count)

    return solve


def bipop(sigma: float) -> Solver:
    """Pycma's CMA-ES with restarts of two sizes."""

    def solve(f: Callable[[Array], Any], problem: Problem, seed: int) -> Run:
        cma = importlib.import_module("cma")
        # it refuses one coordinate: a second one that does nothing
        dim, half = max(2, problem.dim), problem.half
        options = {"bounds": [-half, half], "seed": seed + 1, "verbose": -9}
        options |= {"maxfevals": CAP}
        rng = np.random.default_rng(seed)
        seen: list[float] = []

        def cost(x: Array) -> float:
            seen.append(float(f(np.asarray(x)[: problem.dim])))
            return seen[-1]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cma.fmin2(
                cost,
                lambda: rng.uniform(-half, half, dim),
                sigma * half,
                options,
                restarts=9,
                bipop=True,
            )
        # what it returns may be of the last restart alone
        return Run(min(seen), len(seen))

    return solve


def evotorch_runs(population: int, problem: Problem, runs: int) -> list[Run]:
    """Evotorch's functional CEM, all runs in one batch; the best sample counts."""
    functional = importlib.import_module("evotorch.algorithms.functional")
    state = functional.cem(
        center_init=torch.zeros(runs, problem.dim),
        stdev_init=problem.half / 2,
        stdev_min=1e-6,  # it stops with an error once rounding makes one negative
        parenthood_ratio=0.1,
        objective_sense="min",
    )
    best = torch.full((runs,), math.inf)
    rounds = CAP // population
    for _ in range(rounds):
        x = functional.cem_ask(state, popsize=population)
        # it knows no bounds
        x = x.clamp(-problem.half, problem.half)
        cost = problem.f(x)
        best = torch.minimum(best, cost.amin(-1))
        state = functional.cem_tell(state, x, cost)
    return [Run(float(fun), rounds * population) for fun in best]


def our_runs(method: CEM, problem: Problem, budget: int, runs: int) -> list[Run]:
    """Ours, all runs in one batch."""
    found = method.minimize(
        problem.f,
        lower=-problem.upper,
        upper=problem.upper,
        batch_shape=(runs,),
        budget=budget,
        seed=1,
    )
    pairs = zip(found.fun.tolist(), found.n_evals.tolist(), strict=True)
    return [Run(fun, count) for fun, count in pairs]


def scalar_settings() -> dict[str, dict[str, Solver]]:
    """Settings of the methods that solve one problem at a time, by method."""
    found = {
        "scipy differential evolution": {
            f"popsize {size}{', vectorized' if at_once else ''}": (
                differential_evolution(size, at_once)
            )
            for size in (15, 40)
            for at_once in (False, True)
        },
        "scipy dual annealing": {
            f"maxiter {rounds}": dual_annealing(rounds) for rounds in (100, 300, 1000)
        },
        "scipy L-BFGS-B, many starts": {
            f"{starts} starts": multistart(starts) for starts in (20, 100)
        },
    }
    if installed("cma"):
        found["pycma BIPOP-CMA-ES"] = {
            f"sigma {s} of half the box": bipop(s) for s in (0.25, 0.5)
        }
    return found


def batched_settings(
    problem: Problem,
) -> dict[str, dict[str, Callable[[int], list[Run]]]]:
    """Settings of the methods that solve all runs at once, by method."""

    def of(kind: Callable[..., CEM]) -> dict[str, Callable[[int], list[Run]]]:
        return {
            f"population {n}, {budget} evaluations": partial(
                our_runs, kind(pop_size=n), problem, budget
            )
            for n, budget in ((100, 1_000), (100, CAP), (200, CAP), (300, CAP))
        }

    found = {
        "CEM": of(partial(CEM, restart=True)),
        "DecentCEM, default": of(DecentCEM),
        "DecentCEM, uniform, M = 10": of(partial(DecentCEM, 10, layout="uniform")),
    }
    if installed("evotorch"):
        found["evotorch CEM"] = {
            f"population {n}": partial(evotorch_runs, n, problem)
            for n in (100, 200, 300, 500)
        }
    return found


def one_by_one(
    solve: Solver, f: Callable[[Array], Any], problem: Problem, seeds: int
) -> list[Run]:
    """Solve a problem with several seeds."""
    return [solve(f, problem, seed) for seed in range(seeds)]


def measured(call: Callable[[], list[Run]], problem: Problem, setting: str) -> Found:
    """Run a setting and sum it up."""
    before = Seconds.now()
    runs = call()
    cpu = (Seconds.now() - before).cpu / len(runs)
    success = statistics.fmean(run.fun - problem.lowest < WITHIN for run in runs)
    return Found(success, statistics.fmean(r.evaluations for r in runs), cpu, setting)


def measure(quick: bool) -> Iterator[list[Row]]:
    """Run all on both functions."""
    seeds, batch = (3, 10) if quick else (30, BATCH)
    for case, f in CASES.items():
        problem = problems()[case]
        rows: list[Row] = []
        for name, settings in scalar_settings().items():
            chosen = dict(list(settings.items())[:1]) if quick else settings
            tried = [
                measured(partial(one_by_one, solve, f, problem, seeds), problem, label)
                for label, solve in chosen.items()
            ]
            rows += best_rows(case, name, tried, seeds)
        with single_elites():
            torch.manual_seed(0)
            for name, calls in batched_settings(problem).items():
                for call in calls.values():
                    call(batch)  # the first call of a function costs more
                    if quick:
                        break
                tried = [
                    measured(partial(call, batch), problem, label)
                    for label, call in list(calls.items())[: 1 if quick else None]
                ]
                rows += best_rows(case, name, tried, batch)
        for package, name in (
            ("cma", "pycma BIPOP-CMA-ES"),
            ("evotorch", "evotorch CEM"),
        ):
            if not installed(package):
                rows.append(missing(case, name, SUCCESS))
        yield rows


def best_rows(case: str, name: str, tried: list[Found], runs: int) -> list[Row]:
    """Make the rows of the best setting."""
    best = max(tried, key=lambda found: (found.success, -found.cpu))
    words = "; ".join(f"{t.setting}: {t.success:.2f}" for t in tried)
    error = (best.success * (1 - best.success) / runs) ** 0.5
    more = {"setting": best.setting, "tried": words, "runs": runs}
    return [
        row(case, name, SUCCESS, best.success, "", sd=error, **more),
        row(case, name, "evaluations of a run", best.evaluations, ""),
        row(case, name, SPENT, 1e3 * best.cpu, "ms"),
    ]


def ratios(rows: list[Row]) -> dict[str, float]:
    """Success less that of the best peer, and its time over ours."""
    result: dict[str, float] = {}
    peer = ("scipy", "pycma", "evotorch")
    for case in CASES:
        found: dict[str, dict[str, float]] = {}
        for r in rows:
            if (
                r.get("part") == "peers"
                and r["case"] == case
                and r["value"] is not None
            ):
                found.setdefault(r["method"], {})[r["metric"]] = r["value"]
        if "DecentCEM, default" not in found:
            continue
        key = "toy" if case == "toy" else "rastrigin_3"
        ours = found["DecentCEM, default"]
        theirs = {m: v for m, v in found.items() if m.startswith(peer)}
        name = max(theirs, key=lambda m: (theirs[m][SUCCESS], -theirs[m][SPENT]))
        result[f"success_less_best_peer/{key}"] = ours[SUCCESS] - theirs[name][SUCCESS]
        result[f"cpu/best_peer/{key}"] = theirs[name][SPENT] / ours[SPENT]
        annealing = found["scipy dual annealing"]
        used = "evaluations of a run"
        result[f"evaluations/dual_annealing/{key}"] = ours[used] / annealing[used]
    return result
