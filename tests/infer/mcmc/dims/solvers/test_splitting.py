"""Splitting steps and their composition: order, symmetry, ledger and volume."""

import math

import pytest
import torch

from pyro_geo.infer.mcmc.dims.solvers.splitting import Splitting
from pyro_geo.infer.mcmc.dims.solvers.suzuki import Suzuki
from pyro_geo.infer.mcmc.dims.state import is_active
from tests.infer.mcmc.dims.flows import (
    EPS,
    Flow,
    banana,
    double_params,
    free_params,
    network,
    real,
    ring,
)

both_metrics = pytest.mark.parametrize("euclidean", [True, False])
both_solvers = pytest.mark.parametrize(
    ("solver", "order"), [(Splitting(), 2), (Suzuki(), 4)], ids=["splitting", "suzuki"]
)
# Rounding of a step that goes back and forth adds up to more than its own size.
ROUGHNESS = {2: 1, 4: 7}


@pytest.mark.slow
@both_solvers
@both_metrics
@pytest.mark.parametrize("mu", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.4, 0.7)])
def test_the_step_is_of_its_order(solver, order, euclidean, mu):
    params = free_params(alpha=0.3, mu_linear=(mu[0], 0.0), mu_quadratic=(mu[1], 0.0))
    # away from a standstill, where friction by the root of the energy is not smooth
    q, v = real([[0.5, 0.5]]), real([[0.4, 0.9]])
    flow = Flow(banana, params, solver, euclidean=euclidean)
    ends = []
    for count in (64, 128, 256) if order == 2 else (32, 64, 128):
        state = flow.fixed_steps(flow.start(q, v), 0.4 / count, count)
        assert state.n_steps.item() == count
        ends.append(torch.cat([state.q, state.v], -1))
    first, second = (ends[0] - ends[1]).norm(), (ends[1] - ends[2]).norm()
    # Errors in even powers of `h` alone, because the step is self-adjoint.
    assert abs(math.log2(first / second) - order) < 0.1


@both_solvers
@both_metrics
def test_without_friction_time_can_be_reversed(solver, order, euclidean):
    q, v = real([[0.5, 0.5], [1.0, 0.2]]), real([[0.4, -0.3], [0.1, 0.6]])
    flow = Flow(ring, free_params(), solver, euclidean=euclidean)
    there = flow.fixed_steps(flow.start(q, v), 0.02, 10)
    assert (there.q - q).abs().min() > 1e-2
    back = flow.fixed_steps(there._replace(v=-there.v), 0.02, 10)
    atol = ROUGHNESS[order] * 20 * 2 * EPS
    torch.testing.assert_close(back.q, q, rtol=0, atol=atol)
    torch.testing.assert_close(back.v, -v, rtol=0, atol=atol)


@both_solvers
@both_metrics
@pytest.mark.parametrize("h", [0.3, 0.05])
def test_angular_momentum_decays_exactly_at_any_step_size(solver, order, euclidean, h):
    mu, count = 0.6, 6
    params = free_params(mu_linear=(mu, 0.0), end_time=(100.0, 0.0))
    q, v = real([[1.2, 0.1, 0.0]]), real([[0.3, 0.5, 0.9]])
    flow = Flow(ring, params, solver, euclidean=euclidean)
    state = flow.fixed_steps(flow.start(q, v), h, count)
    assert state.n_steps.item() == count
    momentum = torch.linalg.cross(state.q, state.v)
    exact = torch.linalg.cross(q, v) * math.exp(-mu * h * count)
    atol = ROUGHNESS[order] * count * 8 * EPS
    torch.testing.assert_close(momentum, exact, rtol=0, atol=atol)


@both_solvers
@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_volume_shrinks_by_the_friction_alone(solver, order, mu):
    """On a flat surface a step is a kick and shears, and friction scales velocities."""
    h, dim, shift = 0.1, 2, 1e-5
    flow = Flow(banana, free_params(mu_linear=(mu, 0.0)), solver, euclidean=True)
    point = real([0.5, 0.5, 0.4, -0.3])
    shifts = shift * torch.eye(2 * dim, dtype=torch.float64)
    starts = torch.cat([point + shifts, point - shifts])
    state = flow.fixed_steps(flow.start(starts[:, :dim], starts[:, dim:]), h, 1)
    ends = torch.cat([state.q, state.v], -1)
    jacobian = (ends[: 2 * dim] - ends[2 * dim :]) / (2 * shift)
    exact = math.exp(-mu * h * dim)
    # Central differences err by the square of the shift times a third derivative.
    assert torch.linalg.det(jacobian).item() == pytest.approx(exact, abs=1e-8)


@both_solvers
@both_metrics
def test_energy_never_rises_by_more_than_allowed(solver, order, euclidean):
    generator = torch.Generator().manual_seed(0)
    q, v = torch.randn(2, 16, 12, generator=generator, dtype=torch.float64)
    options = {"step_tol": 0.3, "energy_atol": 1e-2, "end_time": (0.5, 0.3)}
    params = double_params(
        **options, mu_quadratic=(0.5, 0.0), mu_linear=(0.0, 3.0), alpha=0.3
    )
    flow = Flow(network, params, solver, euclidean=euclidean)
    state = flow.start(q, 3 * v)
    while bool(is_active(state).any()):
        new = flow.step(state)
        taken = new.n_steps > state.n_steps
        work = new.dissipated - state.dissipated
        allowed = 1e-2 * (new.time_total - state.time_total) / 0.8
        rounding = 64 * EPS * state.energy.abs() + EPS * new.dissipated
        # the composition's negative step may take back more than the others give
        assert bool((work >= (0 if order == 2 else -allowed)).all())
        limit = state.energy - 0.7 * work + allowed + rounding
        assert bool((new.energy <= limit)[taken].all())
        assert torch.equal(new.energy[~taken], state.energy[~taken])
        state = new
    missed = (state.energy - state.energy_initial + state.dissipated).abs()
    slack = state.n_steps * 64 * EPS * state.energy_initial
    assert bool((missed <= 0.3 * state.dissipated + 1e-2 + slack).all())
    assert bool((state.peak_loss >= state.loss).all())
    assert bool((state.path_length >= (state.q - q).norm(dim=-1)).all())


def test_a_step_that_would_fold_the_kick_is_rejected():
    def hill(x):
        return -10 * x.square().sum(-1)

    flow = Flow(hill, free_params(end_time=(10.0, 0.0)), euclidean=False)
    start = flow.start(real([[1.0]]), real([[-1.0]]))
    # 1 + h a.u at the middle is 0.15 for the first and 0.5 for the second.
    for h, accepted in ((0.6, 0), (0.4, 1)):
        state = flow.fixed_steps(start, h, 1)
        assert state.n_steps.item() == accepted
        if not accepted:
            assert torch.equal(state.q, start.q)
            torch.testing.assert_close(state.h, real([0.3 * h]))


@both_solvers
@both_metrics
def test_the_ledger_closes_to_the_order(solver, order, euclidean):
    params = free_params(alpha=0.5, mu_quadratic=(0.8, 0.0))
    q, v = real([[0.5, 0.5]]), real([[0.4, -0.3]])
    flow = Flow(ring, params, solver, euclidean=euclidean)
    missed = []
    for count in (32, 64):
        state = flow.fixed_steps(flow.start(q, v), 0.8 / count, count)
        missed.append(state.energy - state.energy_initial + state.dissipated)
    assert abs(math.log2((missed[0] / missed[1]).item()) - order) < 0.1
