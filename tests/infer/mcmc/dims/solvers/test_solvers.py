"""What every solver must do: converge, agree, count, and keep lanes apart."""

import math
from typing import get_args

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from pyro_geo.infer.mcmc.dims.options import FlowOptions
from pyro_geo.infer.mcmc.dims.solvers import SOLVERS, Integrator
from pyro_geo.infer.mcmc.dims.state import DIVERGING, is_active
from tests.infer.mcmc.dims.flows import (
    INTEGRATORS,
    Flow,
    double_params,
    free_params,
    network,
    real,
    ring,
    run,
)

every_solver = pytest.mark.parametrize("integrator", INTEGRATORS)
ORDERS = {"splitting": 2, "dopri5": 5, "suzuki": 4}


def test_every_solver_can_be_chosen_by_name():
    assert get_args(Integrator) == INTEGRATORS
    for name, kind in SOLVERS.items():
        solver = FlowOptions(integrator=name, rtol=1e-3).solver()  # pyright: ignore[reportArgumentType]
        assert type(solver) is kind
        assert getattr(solver, "rtol", 1e-3) == 1e-3
        assert solver == FlowOptions(integrator=name, rtol=1e-3).solver()  # pyright: ignore[reportArgumentType]


@every_solver
def test_the_error_falls_with_the_order(integrator):
    """A damped oscillator, whose motion is known."""
    stiffness, mu, time = real([1.0, 4.0]), 0.5, 2.0
    x0, v0 = real([1.0, -0.5]), real([0.3, 1.0])
    omega = (stiffness - mu**2 / 4).sqrt()
    wave = x0 * (omega * time).cos() + (v0 + mu * x0 / 2) / omega * (omega * time).sin()
    exact = math.exp(-mu * time / 2) * wave
    # a tolerance under which every step is taken
    solver = SOLVERS[integrator](**({"atol": 1e9} if integrator == "dopri5" else {}))
    params = free_params(mu_linear=(mu, 0.0), end_time=(10.0, 0.0))
    flow = Flow(
        lambda x: 0.5 * (stiffness * x * x).sum(-1), params, solver, euclidean=True
    )
    errors = []
    for count in (40, 80, 160):
        start = flow.start(x0[None], v0[None])
        state = flow.fixed_steps(start, time / count, count)
        assert state.n_steps.item() == count
        errors.append((state.q - exact).norm().item())
    order = ORDERS[integrator]
    slopes = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    # Errors of the next order bend the slope, half as much at half the step.
    assert abs(slopes[0] - order) < 0.3
    assert abs(slopes[1] - order) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_all_solvers_end_at_the_same_points(alpha):
    q, v = real([[0.5, 0.5], [1.0, 0.2]]), real([[0.4, -0.3], [0.1, 0.6]])
    options = {"time": 1.0, "settle_time": 1.0, "alpha": alpha}
    tolerances = {"splitting": 1e-5, "dopri5": 1e-10, "suzuki": 1e-8}
    ends = {}
    for name in INTEGRATORS:
        result = run(ring, q, v, tolerances[name], integrator=name, **options)
        assert bool(result.finished.all())
        ends[name] = result
    exact = ends["dopri5"]
    # of second order, so it would need far more steps to agree to more digits
    for name, atol in (("splitting", 1e-4), ("suzuki", 1e-7)):
        for field in ("theta", "velocity", "energy_dissipated"):
            one, other = getattr(ends[name], field), getattr(exact, field)
            torch.testing.assert_close(one, other, rtol=0, atol=atol)


@every_solver
def test_evaluations_are_counted(integrator):
    q = torch.randn(3, 12, generator=torch.Generator().manual_seed(0)).double()
    calls = []

    def loss(x):
        calls.append(1)
        return network(x)

    params = double_params(end_time=(0.2, 0.0))
    flow = Flow(loss, params, SOLVERS[integrator](), euclidean=False)
    state = flow.start(q, q)
    while bool(is_active(state).all()):
        state = flow.step(state)
    assert state.n_evals_total.max().item() == len(calls)
    tries = state.n_steps + state.n_rejected
    assert torch.equal(state.n_evals_total, 1 + flow.solver.num_evals * tries)


@every_solver
def test_finished_lanes_stay_bitwise(integrator):
    q, v = real([[1.5, 0.1], [0.8, 0.1]]), real([[0.0, 5.0], [0.1, 0.0]])
    params = double_params(end_time=(0.5, 0.0))
    flow = Flow(ring, params, SOLVERS[integrator](), euclidean=False)
    state = flow.start(q, v)
    waited = 0
    while bool(is_active(state).any()):
        new, done = flow.step(state), ~is_active(state)
        waited += int(done.any())
        pairs = zip(pytree.tree_leaves(new), pytree.tree_leaves(state), strict=True)
        assert all(torch.equal(one[done], other[done]) for one, other in pairs)
        state = new
    assert waited > 0


@pytest.mark.parametrize("loss", [ring, network], ids=["elementwise", "matmul"])
@every_solver
def test_lanes_are_independent_bitwise(loss, integrator):
    generator = torch.Generator().manual_seed(5)
    q, v = torch.randn(2, 64, 12, generator=generator, dtype=torch.float64)
    params = double_params(mu_quadratic=(0.5, 0.0), end_time=(0.3, 0.0))
    flow = Flow(loss, params, SOLVERS[integrator](), euclidean=False)

    def after(q, v):
        state = flow.start(q, v)
        for _ in range(12):
            state = flow.step(state)
        return pytree.tree_leaves(state), state.status

    plain, _ = after(q, v)
    order = torch.randperm(64, generator=generator)
    permuted, _ = after(q[order], v[order])
    for one, other in zip(plain, permuted, strict=True):
        assert torch.equal(one[order], other)
    poisoned = q.clone()
    poisoned[17] = math.nan
    rest = torch.arange(64) != 17
    broken, status = after(poisoned, v)
    for one, other in zip(plain, broken, strict=True):
        assert torch.equal(one[rest], other[rest])
    assert status[17].item() == DIVERGING


@pytest.mark.parametrize("euclidean", [True, False])
@every_solver
def test_a_batch_is_its_lanes_one_at_a_time(euclidean, integrator):
    generator = torch.Generator().manual_seed(6)
    q, v = torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)
    params = double_params(mu_quadratic=(0.5, 0.0), end_time=(0.3, 0.0))
    flow = Flow(network, params, SOLVERS[integrator](), euclidean=euclidean)

    def after(q, v):
        state = flow.start(q, v)
        for _ in range(15):
            state = flow.step(state)
        return state

    together = after(q, v)
    for i in range(5):
        rows = slice(i, i + 1)
        alone = after(q[rows], v[rows])
        torch.testing.assert_close(together.q[rows], alone.q, rtol=1e-10, atol=1e-12)
        assert torch.equal(together.n_steps[rows], alone.n_steps)


@pytest.mark.slow
@pytest.mark.parametrize("euclidean", [True, False])
@every_solver
def test_a_traced_step_gives_the_same_numbers(euclidean, integrator):
    generator = torch.Generator().manual_seed(7)
    q, v = torch.randn(2, 4, 12, generator=generator, dtype=torch.float64)
    params = double_params(mu_quadratic=(0.5, 0.0), end_time=(0.3, 0.3))
    flow = Flow(network, params, SOLVERS[integrator](), euclidean=euclidean)
    state = flow.start(q, v)
    graph = make_fx(lambda x: flow.step(x))(state)
    traced, eager = state, state
    for _ in range(20):
        traced, eager = graph(traced), flow.step(eager)
    pairs = zip(pytree.tree_leaves(traced), pytree.tree_leaves(eager), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
