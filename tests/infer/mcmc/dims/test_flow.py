"""The loop of the flow: stages, endings and lanes that meet bad numbers."""

import math

import pytest
import torch
from torch.utils import _pytree as pytree

from pyro_geo.infer.mcmc.dims.problem import flow_params
from pyro_geo.infer.mcmc.dims.state import (
    ACTIVE,
    DIVERGING,
    OUT_OF_BUDGET,
    OUT_OF_TIME,
    STOPPED,
    is_active,
)
from tests.infer.mcmc.dims.flows import (
    Flow,
    double_params,
    free_params,
    hyperbola,
    real,
    ring,
)


def test_exploring_goes_over_into_settling_lane_by_lane():
    params = double_params(
        end_time=(1.0, 2.0), mu_quadratic=(0.1, 0.0), mu_linear=(0.0, 3.0)
    )
    q, v = real([[1.0, 1.0], [1.0, 1.0]]), real([[0.5, -0.5], [3.0, 2.0]])
    flow = Flow(hyperbola, params, euclidean=False)
    state = flow.start(q, v)
    seen = set()
    while bool(is_active(state).any()):
        new = flow.step(state)
        seen.add(tuple(new.stage.tolist()))
        switched = new.stage > state.stage
        assert torch.equal(new.t[switched], torch.zeros_like(new.t[switched]))
        assert torch.equal(new.loss_explored[switched], new.loss[switched])
        settling = state.stage == 1
        kept = new.loss_explored == state.loss_explored
        assert bool(kept[settling].all())
        state = new
    assert (1, 0) in seen or (0, 1) in seen
    assert state.status.tolist() == [OUT_OF_TIME, OUT_OF_TIME]
    torch.testing.assert_close(state.time_total, real([3.0, 3.0]))
    assert bool((state.energy < state.energy_initial).all())
    evals = 1 + 2 * (state.n_steps + state.n_rejected)
    assert torch.equal(state.n_evals_total, evals)
    assert bool((state.n_evals < evals).all())


@pytest.mark.parametrize("times", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_stage_of_no_time_is_skipped(times):
    params = double_params(end_time=times, mu_linear=(1.0, 1.0))
    flow = Flow(ring, params, euclidean=True)
    state = flow.to_end(flow.start(real([[1.0]]), real([[0.5]])))
    assert state.status.item() == OUT_OF_TIME
    assert state.time_total.item() == pytest.approx(sum(times), abs=1e-14)


def test_spent_evaluations_end_exploring_and_are_recorded():
    params = double_params(max_evals=20, end_time=(50.0, 1.0), mu_linear=(0.0, 3.0))
    flow = Flow(ring, params, euclidean=True)
    state = flow.to_end(flow.start(real([[1.5, 0.0]]), real([[0.0, 2.0]])))
    assert state.status.item() == OUT_OF_BUDGET
    assert state.stage.item() == 1
    assert state.n_evals_total.item() <= 2 * 21


def test_standing_still_ends_a_stage_and_a_turning_point_does_not():
    params = double_params(k_stop=1e-4, end_time=(6.0, 6.0), mu_linear=(0.0, 3.0))
    # Both start at rest, swing in a bowl and pass turning points in small steps.
    q = real([[1.0, 0.0], [0.1, 0.0]])
    flow = Flow(lambda x: x.square().sum(-1), params, euclidean=True)
    state = flow.start(q, 0 * q)
    slow = False
    while bool(is_active(state).any()):
        new = flow.step(state._replace(h=state.h.clamp(max=0.02)))
        switched = new.stage > state.stage
        whole = torch.full_like(new.time_total, 6.0)
        torch.testing.assert_close(new.time_total[switched], whole[switched])
        slow = slow or bool((new.kinetic < 1e-4)[new.stage == 0].any())
        state = new
    assert slow
    assert state.status.tolist() == [STOPPED, STOPPED]
    assert bool((state.kinetic < 1e-4).all())
    assert bool((state.time_total < 12.0).all())


def test_a_step_cut_to_the_end_of_a_stage_does_not_shorten_the_next():
    flow = Flow(ring, free_params(end_time=(0.1, 5.0)), euclidean=True)
    state = flow.start(real([[0.5, 0.5]]), real([[0.4, -0.3]]))
    state = flow.fixed_steps(state, 0.5, 1)
    assert state.stage.item() == 1
    assert state.time_total.item() == pytest.approx(0.1)
    assert state.h.item() >= 0.5


def test_a_lane_that_meets_nan_is_frozen_at_its_last_good_point():
    def cliff(x):
        return torch.where(x[..., 0] > 1, torch.nan, 0 * x[..., 0])

    flow = Flow(cliff, double_params(end_time=(4.0, 0.0)), euclidean=True)
    state = flow.to_end(flow.start(real([[0.0], [0.0]]), real([[1.0], [-1.0]])))
    assert state.status.tolist() == [DIVERGING, OUT_OF_TIME]
    assert 1 - 1e-9 < state.q[0].item() <= 1
    leaves, again = pytree.tree_leaves(state), pytree.tree_leaves(flow.step(state))
    assert all(bool(x.isfinite().all()) for x in leaves)
    assert all(torch.equal(a, b) for a, b in zip(leaves, again, strict=True))


@pytest.mark.parametrize("euclidean", [True, False])
def test_a_start_that_is_not_finite_has_the_status_diverging(euclidean):
    q = real([[math.nan], [1.0]])
    flow = Flow(ring, double_params(), euclidean=euclidean)
    state = flow.start(q, torch.ones_like(q))
    assert state.status.tolist() == [DIVERGING, ACTIVE]
    leaves = pytree.tree_leaves(state)
    assert len({x.data_ptr() for x in leaves}) == len(leaves)
    assert all(len(x) == 2 for x in leaves)


def test_float32_does_not_stall_on_the_rounding_of_the_energy():
    generator = torch.Generator().manual_seed(8)
    q, v = torch.randn(2, 32, 10, generator=generator, dtype=torch.float64)
    stiffness = torch.logspace(0, 2, 10, dtype=torch.float64)

    def bowl(x):
        return 1e4 + 0.5 * (stiffness.to(x.dtype) * x * x).sum(-1)

    ends = []
    for dtype in (torch.float64, torch.float32):
        params = flow_params(
            dtype=dtype, end_time=(0.2, 0.2), mu_linear=(0.0, 3.0), energy_atol=1e-4
        )
        flow = Flow(bowl, params, euclidean=True)
        ends.append(flow.to_end(flow.start(0.1 * q.to(dtype), v.to(dtype))))
    exact, rounded = ends
    assert rounded.q.dtype == torch.float32
    assert rounded.status.tolist() == [OUT_OF_TIME] * 32
    # Rounding only lets steps be longer, never makes them shorter.
    assert bool((rounded.n_evals_total <= 2 * exact.n_evals_total).all())


@pytest.mark.parametrize("euclidean", [True, False])
def test_the_loss_keeps_no_history_of_its_parameters(euclidean):
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    q = real([[1.0, 2.0]])
    flow = Flow(lambda x: (weight * x).sum(-1), double_params(), euclidean=euclidean)
    state = flow.step(flow.start(q, q))
    assert not any(x.requires_grad for x in pytree.tree_leaves(state))
