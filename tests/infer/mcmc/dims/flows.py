"""Losses and runs shared by the tests of the flow."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_geo.infer.mcmc.dims.driver import dissipative_flow
from pyro_geo.infer.mcmc.dims.flow import advance, start_flow
from pyro_geo.infer.mcmc.dims.problem import FlowParams, Problem, flow_params
from pyro_geo.infer.mcmc.dims.result import FlowResult
from pyro_geo.infer.mcmc.dims.solvers import SOLVERS, Solver
from pyro_geo.infer.mcmc.dims.solvers.splitting import Splitting
from pyro_geo.infer.mcmc.dims.state import FlowState, is_active

INTEGRATORS = tuple(SOLVERS)
BY_LEDGER = ("splitting", "suzuki")  # whose steps are controlled by the ledger
EPS = torch.finfo(torch.float64).eps


def real(x: object) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64)


def ring(x: Tensor) -> Tensor:
    return (x.square().sum(-1) - 1) ** 2


def hyperbola(x: Tensor) -> Tensor:
    return (x[..., 0] * x[..., 1] - 1) ** 2


def banana(x: Tensor) -> Tensor:
    return (1 - x[..., 0]) ** 2 + 10 * (x[..., 1] - x[..., 0] ** 2) ** 2


INPUTS = torch.linspace(-2, 2, 10, dtype=torch.float64)


def network(x: Tensor) -> Tensor:
    """Fit a tanh network 1-4-1 to ten points; its products are matrix products."""
    inputs = INPUTS.to(x.dtype)
    w, b, out = x[..., :4], x[..., 4:8], x[..., 8:12]
    hidden = torch.tanh(inputs[:, None] * w[..., None, :] + b[..., None, :])
    fit = (hidden @ out[..., :, None]).squeeze(-1)
    return 4 * (fit - torch.sin(2 * inputs)).square().sum(-1)


def run(loss: Callable, q: object, v: object, tol: float, **options: Any) -> FlowResult:
    """Run the flow with every tolerance of the integrator set to `tol`."""
    tolerances: dict[str, Any] = {
        "step_tol": tol,
        "energy_atol": tol,
        "rtol": tol,
        "atol": tol,
    }
    defaults = {"k_stop": 0.0, "batched": True, "max_evals": 100_000}
    options = tolerances | defaults | options
    return dissipative_flow(loss, real(q), real(v), **options)


def assert_converges(
    run_at: Callable[[float], Tensor], exact: object, tol: float = 1e-3
) -> None:
    """Hold two runs against the closed form.

    The splitting step is of second order under a defect per time, and Suzuki's of
    fourth, so their errors are proportional to the tolerance. Dormand and Prince's is
    of fifth order under an error per step, so its error goes as the 4/5th power. At a
    sixteenth of the tolerance any may keep a quarter of its error, and no formula that
    is wrong gets that far.
    """
    exact = real(exact)
    coarse = (run_at(tol) - exact).abs().max().item()
    fine = (run_at(tol / 16) - exact).abs().max().item()
    rounding = 1e3 * EPS * max(1.0, exact.abs().max().item())
    assert fine <= max(coarse / 4, rounding), (coarse, fine)


def double_params(**options: Any) -> FlowParams:
    return flow_params(dtype=torch.float64, **options)


def free_params(**options: Any) -> FlowParams:
    """Parameters under which every step is accepted."""
    loose: dict[str, Any] = {"energy_atol": 1e9, "step_tol": 0.9}
    return flow_params(dtype=torch.float64, **(loose | options))


class Flow:
    """A problem with a solver: its start, its steps and its end.

    Args:
        loss: batched loss.
        params: of the flow.
        solver: what takes the steps.
        euclidean: whether to leave the metric out.
    """

    def __init__(
        self,
        loss: Callable,
        params: FlowParams,
        solver: Solver | None = None,
        *,
        euclidean: bool,
    ) -> None:
        self.problem = Problem(loss, params, euclidean)
        self.solver = Splitting() if solver is None else solver

    def start(self, q: Tensor, v: Tensor) -> FlowState:
        return start_flow(self.problem, self.solver, q, v)

    def step(self, state: FlowState) -> FlowState:
        return advance(self.problem, self.solver, state)

    def fixed_steps(self, state: FlowState, h: float, count: int) -> FlowState:
        """Take steps of one size, whatever the control makes of it."""
        for _ in range(count):
            state = self.step(state._replace(h=torch.full_like(state.h, h)))
        return state

    def to_end(self, state: FlowState, limit: int = 20_000) -> FlowState:
        """Step until no lane is under way."""
        for _ in range(limit):
            if not bool(is_active(state).any()):
                return state
            state = self.step(state)
        raise AssertionError("the flow did not end")
