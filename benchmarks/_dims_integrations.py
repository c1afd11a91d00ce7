"""Integrations of one case: own steps for every particle, or one step for all."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _dims_common import Case, seconds, throw
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_geo import Target
from pyro_geo.infer.mcmc.dims.flow import advance, start_flow
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.problem import FlowParams, Problem
from pyro_geo.infer.mcmc.dims.result import FlowResult, flow_result
from pyro_geo.infer.mcmc.dims.solvers import Solver
from pyro_geo.infer.mcmc.dims.solvers.dopri5 import DormandPrince
from pyro_geo.infer.mcmc.dims.solvers.suzuki import Suzuki
from pyro_geo.infer.mcmc.dims.state import FlowState, is_active
from pyro_geo.ops.derivatives import value_grad_hvp
from pyro_geo.ops.lanes import map_lanes, run_lanes

RTOL, ATOL = 1e-7, 1e-6  # theirs
FRICTION = 0.1
RightHandSide = Callable[[Tensor], Tensor]


class Run(NamedTuple):
    """What one integration of all particles came to."""

    error: float  # largest ledger error of a particle
    evaluations: float  # per particle
    spent: float  # processor seconds


def with_options(case: Case, changes: dict[str, Any]) -> Case:
    """The same particles under other tolerances."""
    kept = {name: getattr(case.options, name) for name in vars(case.options)}
    return case._replace(options=DIMSOptions(**kept | changes))


def splitting(case: Case, step_tol: float, rung: str) -> Run:
    """Integrate with our splitting step."""
    warm = with_options(case, {"step_tol": step_tol, "max_evals": 2})
    throw(warm, rung=rung, count=case.options.num_lanes)
    changed = with_options(case, {"step_tol": step_tol})
    (stats, _), spent = seconds(lambda: throw(changed, rung=rung))
    error = float(stats["energy_error"].abs().max())
    return Run(error, float(stats["n_evals"].double().mean()), spent)


class Method(NamedTuple):
    """One of our solvers whose every particle has its own steps."""

    name: str
    solver: Callable[[Tensor], Solver]  # by its tolerance
    first: float  # tolerance to begin a search with
    shown: str  # how the tolerance reads in the table

    def described(self, tol: float) -> str:
        return self.shown.format(tol=f"{tol:.2g}", ten=f"{10 * tol:.2g}")


METHODS = (
    Method(
        "ours, dopri5",
        lambda tol: DormandPrince(rtol=tol, atol=10 * tol),
        7e-7,
        "rtol {tol}, atol {ten}",
    ),
    Method("ours, suzuki", lambda _: Suzuki(), 2e-3, "step_tol {tol}, energy_atol 0"),
)


def own_steps(case: Case, method: Method, tol: float, rung: str) -> Run:
    """Integrate with steps of every particle's own.

    The tolerance is an input of the graph here, so that one serves the search. For
    the solver that the energy ledger controls it is `step_tol`.
    """
    target, objective, lanes = case.target, case.objective, case.options.num_lanes
    assert lanes is not None
    params = case.options.params(case.q.dtype)

    def parts(
        target: Target, params: FlowParams, tol: Tensor
    ) -> tuple[Problem, Solver]:
        params = params._replace(step_tol=tol, energy_atol=0 * tol)
        problem = Problem(objective.on(target), params, euclidean=False)
        return problem, method.solver(tol)

    start = target.lift(
        (*objective.key, "benchmark start", method.name),
        lambda target, params, tol, q, v: start_flow(*parts(target, params, tol), q, v),
        "the start",
    )
    lifted = target.lift(
        (*objective.key, "benchmark step", method.name),
        lambda target, params, tol, state: advance(*parts(target, params, tol), state),
        f"a step of {method.name}",
    )
    tolerance = torch.tensor(tol, dtype=case.q.dtype)

    def run() -> FlowResult:
        queue: FlowState = map_lanes(
            lambda pair: start(target.data, params, tolerance, *pair),
            (case.q, case.v),
            lanes,
        )
        examples = pytree.tree_map(lambda leaf: leaf[:lanes], queue)
        step = lifted.specialise(target.data, params, tolerance, examples, rung=rung)  # pyright: ignore[reportArgumentType]
        final = run_lanes(
            lambda state: step(params, tolerance, state),
            queue,
            lanes,
            active=is_active,
        )
        return flow_result(final)

    flow, spent = seconds(run)
    assert bool(flow.finished.all())
    error = float(flow.energy_error.abs().max())
    return Run(error, float(flow.n_evals.double().mean()), spent)


def start_of(case: Case) -> Tensor:
    """State of all particles: positions, velocities, friction work."""
    return torch.cat([case.q, case.v, torch.zeros_like(case.q[:, :1])], -1)


def right_hand_side(case: Case, rung: str) -> RightHandSide:
    """Put the equations of motion and the friction work on the ladder."""
    dim, objective = case.target.dim, case.objective

    def field(target: Target, state: Tensor) -> Tensor:
        q, v = state[:, :dim], state[:, dim : 2 * dim]
        _, d, product = value_grad_hvp(objective.on(target), q, v)
        kinetic = 0.5 * ((v * v).sum(-1) + (d * v).sum(-1) ** 2)
        pull = ((v * product).sum(-1) + 1.0) / (1.0 + (d * d).sum(-1))
        drag = FRICTION * kinetic.sqrt()
        accel = -pull[:, None] * d - drag[:, None] * v
        return torch.cat([v, accel, (2.0 * drag * kinetic)[:, None]], -1)

    lifted = case.target.lift(
        (*objective.key, "benchmark field"),
        field,
        "the equations of motion",
    )
    return lifted.specialise(case.target.data, start_of(case), rung=rung)  # pyright: ignore[reportArgumentType]


def lockstep(case: Case, field: RightHandSide, length: float) -> Run:
    """Integrate all particles with one step, as torchdiffeq does a batch."""
    from torchdiffeq import odeint

    n, dim = case.q.shape
    count = 0

    def counted(_: Tensor, state: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return field(state)

    def norm(state: Tensor) -> Tensor:
        return state.reshape(n, -1)[:, : 2 * dim].square().mean().sqrt()

    times = torch.tensor([0.0, length], dtype=case.q.dtype)
    before = time.process_time()
    path = odeint(
        counted,
        start_of(case),
        times,
        rtol=RTOL,
        atol=ATOL,
        method="dopri5",
        options={"norm": norm},
    )
    spent = time.process_time() - before
    assert isinstance(path, Tensor)
    return Run(ledger_error(case, path[-1]), count, spent)


def ledger_error(case: Case, end: Tensor) -> float:
    """Largest miss of the energy balance, in the units of our own `energy_error`."""
    dim = case.q.shape[1]

    def energies(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        value, d = case.objective.value_and_grad(case.target, q)
        kinetic = 0.5 * ((v * v).sum(-1) + (d * v).sum(-1) ** 2)
        return kinetic + value, kinetic

    first, kinetic = energies(case.q, case.v)
    last, _ = energies(end[:, :dim], end[:, dim : 2 * dim])
    work = end[:, -1]
    missed = last - first + work
    return float((missed / torch.maximum(kinetic, work)).abs().max())
