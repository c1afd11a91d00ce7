"""A page with a plan, how it was found, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.citations import citation
from pyro_geo.errors import UnsupportedError
from pyro_geo.io.reports import Curves, page_title, write_report
from pyro_geo.planning.environments import Plant
from pyro_geo.planning.mpc.cem import CEMPlanner
from pyro_geo.planning.mpc.episodes import Episode
from pyro_geo.planning.mpc.icem import ICEMPlanner
from pyro_geo.planning.mpc.mppi import MPPIPlanner
from pyro_geo.planning.mpc.plan import Plan
from pyro_geo.planning.mpc.planner import Planner
from pyro_geo.planning.mpc.risk import CVaR

if TYPE_CHECKING:
    from pyro_geo.io.arviz import ArvizData

__all__ = ["PLANNERS", "plan_curves", "planner_for", "report"]

PLANNERS: dict[str, type[Planner]] = {
    "cem": CEMPlanner,
    "icem": ICEMPlanner,
    "mppi": MPPIPlanner,
}
_NAMES: dict[type[Planner], str] = {
    CEMPlanner: "CEM",
    ICEMPlanner: "iCEM",
    MPPIPlanner: "MPPI",
}
_MOST_LINES = 8


def planner_for(
    file: Mapping[str, Any],
    draws: Mapping[str, Tensor],
    *,
    method: str = "cem",
    beta: float = 0.0,
    **options: Any,
) -> tuple[Plant, Planner]:
    """Make a planner for a file of the gallery.

    Args:
        file: its names: `plant`, `model` and `start`, and perhaps `sites`, those of the
            model that are the plant's parameters, in their order.
        draws: of the posterior of the model, site to `(M, ...)`.
        method: `"cem"`, `"icem"` or `"mppi"`.
        beta: level of the risk; 0 for the mean.
        **options: of the planner.

    Returns:
        The plant and the planner.

    Raises:
        UnsupportedError: the file has no plant to plan for.
    """
    known = method in PLANNERS
    check(known, "method", repr(method), " or ".join(map(repr, PLANNERS)))
    if "plant" not in file or "start" not in file:
        raise UnsupportedError(
            "nothing to plan for",
            where="the file of the model",
            found="no plant() with start()",
            expected="both, and a model of their data",
            todo="Look at models/two_routes.py.",
        )
    plant = file["plant"]()
    sites = file["sites"]() if "sites" in file else plant.parameters
    theta = torch.stack([draws[name].reshape(-1) for name in sites], -1)
    risk = CVaR(beta) if beta else None
    return plant, PLANNERS[method](plant, draws=theta, risk=risk, **options)


def plan_curves(plan: Plan, names: tuple[str, ...] = ()) -> list[Curves]:
    """Picture a plan of one problem: predictions by draw, actions, and the search.

    Args:
        plan: without an axis of problems.
        names: of the numbers of a state.

    Returns:
        Pictures for a report.
    """
    check(plan.cost.dim() == 0, "plan", "a batch of plans", "the plan of one problem")
    count = plan.states.shape[-1]
    names = names or tuple(f"state {i}" for i in range(count))
    steps = list(range(plan.states.shape[1]))
    low, middle, high = plan.quantiles()
    pictures = []
    for i, name in enumerate(names):
        lines = {
            "median": middle[:, i].tolist(),
            "5 %": low[:, i].tolist(),
            "95 %": high[:, i].tolist(),
        }
        for draw, path in enumerate(plan.states[: _MOST_LINES - 3, :, i]):
            lines[f"draw {draw}"] = path.tolist()
        text = f"Plan: {name} predicted under {len(plan.states)} draws"
        pictures.append(Curves(text, steps, lines, "step", name))
    acts = {f"action {i}": a.tolist() for i, a in enumerate(plan.actions.T)}
    pictures.append(Curves("Plan: actions", steps[:-1], acts, "step", "action"))
    rounds = list(range(1, plan.iterations + 1))
    found = {
        f"instance {i}" + " (winner)" * (i == int(plan.instance)): line.tolist()
        for i, line in enumerate(plan.history.T[:_MOST_LINES])
    }
    text = "Search: lowest cost so far of each instance"
    pictures.append(Curves(text, rounds, found, "iteration", "cost"))
    return pictures


def report(
    episode: Episode,
    path: str | os.PathLike[str],
    *,
    idata: ArvizData,
    facts: Mapping[str, str],
    names: tuple[str, ...] = (),
) -> Path:
    """Write a report of a run: its first plan, its course, the posterior behind it.

    Args:
        episode: the run.
        path: the file to write.
        idata: the posterior that the draws are from.
        facts: what was run; `model` and `planner` are named in the title.
        names: of the numbers of a state.

    Returns:
        The path.
    """
    first = episode.plans[0]
    steps = list(range(len(episode.states)))
    columns = episode.states.T
    names = names or tuple(f"state {i}" for i in range(len(columns)))
    seen = {name: x.tolist() for name, x in zip(names, columns, strict=True)}
    acts = {f"action {i}": a.tolist() for i, a in enumerate(episode.actions.T)}
    costs = [float(plan.cost) for plan in episode.plans]
    spread = [float(plan.costs.std(correction=0)) for plan in episode.plans]
    table = [
        ["", "value"],
        ["cost of the run", f"{-float(episode.rewards.sum()):.4g}"],
        ["predicted cost of the first plan", f"{costs[0]:.4g}"],
        ["its standard deviation over draws", f"{spread[0]:.4g}"],
        ["plans evaluated at each step", str(first.n_evals)],
        [
            "plans without a finite cost",
            str(sum(int(plan.n_non_finite.sum()) for plan in episode.plans)),
        ],
        [
            "calls that the deadline ended",
            str(sum(plan.reason == "deadline" for plan in episode.plans)),
        ],
    ]
    planner = PLANNERS.get(str(facts.get("planner", "")))
    name = "posterior draws" if planner is None else _NAMES[planner]
    expected = {"cost": costs, "standard deviation over draws": spread}
    return write_report(
        idata,
        path,
        title=page_title(f"Planning by {name}", str(facts.get("model", "a plant"))),
        facts=facts,
        citation=citation(planner),
        tables={"Run": table},
        curves=[
            *plan_curves(first, names),
            Curves("Run: states", steps, seen, "step", "state"),
            Curves("Run: actions", steps[:-1], acts, "step", "action"),
            Curves("Predicted cost of each plan", steps[:-1], expected, "step", "cost"),
        ],
    )
