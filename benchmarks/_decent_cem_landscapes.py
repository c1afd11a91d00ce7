"""The toy of the paper at four populations, and five landscapes at one budget."""

from collections.abc import Iterator

import torch
from _bench import Row
from _decent_cem_problems import Problem, problems, single_elites
from _hmc_common import row

from pyro_geo.optim.cem import CEM, CEMGMM, DecentCEM

POPULATIONS = (100, 200, 500, 1000)
BUDGET = 6_000
POP_SIZE = 300  # twenty populations use the budget up
SUCCESS = "success"
POPULATIONS_OF_OURS = 10
OURS = "DecentCEM, default"
PUBLISHED = "DecentCEM, M = 10, best sample"


def measure_toy(quick: bool) -> Iterator[list[Row]]:
    """Run the paper's methods, and ours that return their best sample."""
    problem = problems()["toy"]
    runs = 50 if quick else 1000
    for pop_size in POPULATIONS[:1] if quick else POPULATIONS:
        rows = []
        with single_elites():
            methods = {
                "CEM": CEM(pop_size=pop_size, score="mean"),
                "CEM, best sample": CEM(pop_size=pop_size),
                "CEM-GMM, M = 10, best sample": CEMGMM(10, pop_size=pop_size),
            }
            for count in (3, 5, 8, 10):
                options = {"pop_size": pop_size, "layout": "uniform", "restart": False}
                methods |= {
                    f"DecentCEM, M = {count}": DecentCEM(
                        count, score="mean", **options
                    ),
                    f"DecentCEM, M = {count}, best sample": DecentCEM(count, **options),
                }
            case = f"toy, N = {pop_size}"
            for name, method in methods.items():
                rows += rows_of(case, name, method, problem, runs)
            # restarts use up what they get: as much as CEM takes to converge
            ours, budget = DecentCEM(pop_size=pop_size), POPULATIONS_OF_OURS * pop_size
            rows += rows_of(case, OURS, ours, problem, runs, budget)
        yield rows


def measure_landscapes(quick: bool) -> Iterator[list[Row]]:
    """Give all methods the same evaluations."""
    runs = 20 if quick else 300
    for name, problem in problems().items():
        if name == "toy":
            continue
        rows = []
        with single_elites():
            for method, optimizer in at_equal_budget().items():
                rows += rows_of(name, method, optimizer, problem, runs, BUDGET)
        yield rows
        if quick:
            break


def at_equal_budget() -> dict[str, CEM]:
    """One search, many and the mixture, with restarts and without."""
    options = {"pop_size": POP_SIZE, "layout": "uniform"}
    return {
        "CEM": CEM(pop_size=POP_SIZE),
        "CEM, restarts": CEM(pop_size=POP_SIZE, restart=True),
        "CEM-GMM, M = 10": CEMGMM(10, pop_size=POP_SIZE),
        "DecentCEM, M = 10": DecentCEM(10, restart=False, **options),
        "DecentCEM, M = 10, restarts": DecentCEM(10, **options),
        "DecentCEM, M = 5, restarts": DecentCEM(5, **options),
        OURS: DecentCEM(pop_size=POP_SIZE),
    }


def rows_of(
    case: str,
    name: str,
    method: CEM,
    problem: Problem,
    runs: int,
    budget: int | None = None,
) -> list[Row]:
    """Solve one problem many times, all runs in one batch.

    A centre in the middle of the box and a deviation of a quarter of it, as in the
    paper; centres of several instances are drawn from that normal.
    """
    found = method.minimize(
        problem.f,
        lower=-problem.upper,
        upper=problem.upper,
        batch_shape=(runs,),
        budget=budget,
        seed=1,
    )
    evaluations = float(found.n_evals.double().mean())
    # at a centre, the cost is not what the search saw
    fun = problem.f(found.x)
    share = problem.solved(torch.as_tensor(fun))
    more = {"evaluations": evaluations, "runs": runs}
    error = (share * (1 - share) / runs) ** 0.5
    return [
        row(case, name, SUCCESS, share, "", sd=error, **more),
        row(case, name, "evaluations", evaluations, ""),
    ]


def ratios(rows: list[Row]) -> dict[str, float]:
    """Success on the toy, and the landscapes against one search."""
    found = {
        (row["case"], row["method"]): row["value"]
        for row in rows
        if row["metric"] == SUCCESS and row["part"] in ("toy", "landscapes")
    }
    result = {}
    for pop_size in POPULATIONS:
        for key, method in (("toy", OURS), ("toy_as_published", PUBLISHED)):
            share = found.get((f"toy, N = {pop_size}", method))
            if share is not None:
                result[f"success/{key}@{pop_size}"] = share
    for case in problems():
        ours = found.get((case, OURS))
        if ours is not None and case != "toy":
            theirs = found[case, "CEM, restarts"]
            key = case.replace(", d = ", "_").replace(" ", "_")
            result[f"success_less_cem/{key}"] = ours - theirs
    return result
