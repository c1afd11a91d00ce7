"""The splitting step: order, symmetry, ledger, stages, endings and separate lanes."""

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from pyro_geo.infer.mcmc.dims.flow import (
    ACTIVE,
    DIVERGING,
    OUT_OF_BUDGET,
    OUT_OF_TIME,
    STOPPED,
    FlowParams,
    FlowState,
    flow_params,
    init_state,
    is_active,
    splitting_step,
)
from tests.infer.mcmc.dims.flows import (
    EPS,
    banana,
    fixed_steps,
    free_params,
    hyperbola,
    network,
    real,
    ring,
    start_and_step,
)

both_metrics = pytest.mark.parametrize("euclidean", [True, False])


def double_params(**options) -> FlowParams:
    return flow_params(dtype=torch.float64, **options)


def to_end(step, state, limit=20_000):
    for _ in range(limit):
        if not bool(is_active(state).any()):
            return state
        state = step(state)
    raise AssertionError("the flow did not end")


@both_metrics
@pytest.mark.parametrize("mu", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.4, 0.7)])
def test_the_step_is_of_second_order(euclidean, mu):
    params = free_params(alpha=0.3, mu_linear=(mu[0], 0.0), mu_quadratic=(mu[1], 0.0))
    q, v = real([[0.5, 0.5]]), real([[0.4, -0.3]])
    ends = []
    for count in (64, 128, 256):
        state = init_state(banana, q, v, params, euclidean=euclidean)
        state = fixed_steps(
            banana, params, state, 0.4 / count, count, euclidean=euclidean
        )
        assert state.n_steps.item() == count
        ends.append(state.q)
    first, second = (ends[0] - ends[1]).norm(), (ends[1] - ends[2]).norm()
    # Errors in h^2 and h^4 alone, because the step is self-adjoint.
    assert abs(math.log2(first / second) - 2) < 0.1


@both_metrics
def test_without_friction_time_can_be_reversed(euclidean):
    params = free_params()
    q, v = real([[0.5, 0.5], [1.0, 0.2]]), real([[0.4, -0.3], [0.1, 0.6]])
    start = init_state(ring, q, v, params, euclidean=euclidean)
    there = fixed_steps(ring, params, start, 0.02, 10, euclidean=euclidean)
    assert (there.q - q).abs().min() > 1e-2
    turned = there._replace(v=-there.v)
    back = fixed_steps(ring, params, turned, 0.02, 10, euclidean=euclidean)
    torch.testing.assert_close(back.q, q, rtol=0, atol=20 * 2 * EPS)
    torch.testing.assert_close(back.v, -v, rtol=0, atol=20 * 2 * EPS)


@both_metrics
@pytest.mark.parametrize("h", [0.3, 0.05])
def test_angular_momentum_decays_exactly_at_any_step_size(euclidean, h):
    mu, count = 0.6, 6
    params = free_params(mu_linear=(mu, 0.0), end_time=(100.0, 0.0))
    q, v = real([[1.2, 0.1, 0.0]]), real([[0.3, 0.5, 0.9]])
    state = init_state(ring, q, v, params, euclidean=euclidean)
    state = fixed_steps(ring, params, state, h, count, euclidean=euclidean)
    assert state.n_steps.item() == count
    momentum = torch.linalg.cross(state.q, state.v)
    exact = torch.linalg.cross(q, v) * math.exp(-mu * h * count)
    torch.testing.assert_close(momentum, exact, rtol=0, atol=count * 8 * EPS)


@both_metrics
def test_energy_never_rises_by_more_than_allowed(euclidean):
    generator = torch.Generator().manual_seed(0)
    q, v = torch.randn(2, 16, 12, generator=generator, dtype=torch.float64)
    options = {"step_tol": 0.3, "energy_atol": 1e-2, "end_time": (0.5, 0.3)}
    params = double_params(
        **options, mu_quadratic=(0.5, 0.0), mu_linear=(0.0, 3.0), alpha=0.3
    )
    state = init_state(network, q, 3 * v, params, euclidean=euclidean)
    while bool(is_active(state).any()):
        new = splitting_step(network, params, state, euclidean=euclidean)
        taken = new.n_steps > state.n_steps
        work = new.dissipated - state.dissipated
        allowed = 1e-2 * (new.time_total - state.time_total) / 0.8
        rounding = 64 * EPS * state.energy.abs() + EPS * new.dissipated
        assert bool((work >= 0).all())
        limit = state.energy - 0.7 * work + allowed + rounding
        assert bool((new.energy <= limit)[taken].all())
        assert torch.equal(new.energy[~taken], state.energy[~taken])
        state = new
    missed = (state.energy - state.energy_initial + state.dissipated).abs()
    slack = state.n_steps * 64 * EPS * state.energy_initial
    assert bool((missed <= 0.3 * state.dissipated + 1e-2 + slack).all())
    assert bool((state.peak_loss >= state.loss).all())
    assert bool((state.path_length >= (state.q - q).norm(dim=-1)).all())


def test_exploring_goes_over_into_settling_lane_by_lane():
    params = double_params(
        end_time=(1.0, 2.0), mu_quadratic=(0.1, 0.0), mu_linear=(0.0, 3.0)
    )
    q, v = real([[1.0, 1.0], [1.0, 1.0]]), real([[0.5, -0.5], [3.0, 2.0]])
    state = init_state(hyperbola, q, v, params, euclidean=False)
    seen = set()
    while bool(is_active(state).any()):
        new = splitting_step(hyperbola, params, state, euclidean=False)
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
    state = init_state(ring, real([[1.0]]), real([[0.5]]), params, euclidean=True)
    state = to_end(lambda s: splitting_step(ring, params, s, euclidean=True), state)
    assert state.status.item() == OUT_OF_TIME
    assert state.time_total.item() == pytest.approx(sum(times), abs=1e-14)


def test_spent_evaluations_end_exploring_and_are_told():
    params = double_params(max_evals=20, end_time=(50.0, 1.0), mu_linear=(0.0, 3.0))
    state = init_state(
        ring, real([[1.5, 0.0]]), real([[0.0, 2.0]]), params, euclidean=True
    )
    state = to_end(lambda s: splitting_step(ring, params, s, euclidean=True), state)
    assert state.status.item() == OUT_OF_BUDGET
    assert state.stage.item() == 1
    assert state.n_evals_total.item() <= 2 * 21


def test_standing_still_ends_a_stage_and_a_turning_point_does_not():
    params = double_params(k_stop=1e-4, end_time=(6.0, 6.0), mu_linear=(0.0, 3.0))
    # Both start at rest, swing in a bowl and pass turning points in small steps.
    q = real([[1.0, 0.0], [0.1, 0.0]])

    def bowl(x):
        return x.square().sum(-1)

    state = init_state(bowl, q, 0 * q, params, euclidean=True)
    slow = False
    while bool(is_active(state).any()):
        small = state._replace(h=state.h.clamp(max=0.02))
        new = splitting_step(bowl, params, small, euclidean=True)
        switched = new.stage > state.stage
        whole = torch.full_like(new.time_total, 6.0)
        torch.testing.assert_close(new.time_total[switched], whole[switched])
        slow = slow or bool((new.kinetic < 1e-4)[new.stage == 0].any())
        state = new
    assert slow
    assert state.status.tolist() == [STOPPED, STOPPED]
    assert bool((state.kinetic < 1e-4).all())
    assert bool((state.time_total < 12.0).all())


def test_a_step_that_would_fold_the_kick_is_rejected():
    def hill(x):
        return -10 * x.square().sum(-1)

    params = free_params(end_time=(10.0, 0.0))
    start = init_state(hill, real([[1.0]]), real([[-1.0]]), params, euclidean=False)
    # 1 + h a.u at the middle is 0.15 for the first and 0.5 for the second.
    for h, accepted in ((0.6, 0), (0.4, 1)):
        state = fixed_steps(hill, params, start, h, 1, euclidean=False)
        assert state.n_steps.item() == accepted
        if not accepted:
            assert torch.equal(state.q, start.q)
            torch.testing.assert_close(state.h, real([0.3 * h]))


@both_metrics
def test_the_ledger_closes_to_second_order(euclidean):
    params = free_params(alpha=0.5, mu_quadratic=(0.8, 0.0))
    q, v = real([[0.5, 0.5]]), real([[0.4, -0.3]])
    missed = []
    for count in (32, 64):
        state = init_state(ring, q, v, params, euclidean=euclidean)
        state = fixed_steps(
            ring, params, state, 0.8 / count, count, euclidean=euclidean
        )
        missed.append(state.energy - state.energy_initial + state.dissipated)
    assert abs(math.log2((missed[0] / missed[1]).item()) - 2) < 0.1


def test_a_step_cut_to_the_end_of_a_stage_does_not_shorten_the_next():
    params = free_params(end_time=(0.1, 5.0))
    q, v = real([[0.5, 0.5]]), real([[0.4, -0.3]])
    state = init_state(ring, q, v, params, euclidean=True)
    state = fixed_steps(ring, params, state, 0.5, 1, euclidean=True)
    assert state.stage.item() == 1
    assert state.time_total.item() == pytest.approx(0.1)
    assert state.h.item() >= 0.5


def test_a_lane_that_meets_nan_retreats_and_is_frozen_where_it_was():
    def cliff(x):
        return torch.where(x[..., 0] > 1, torch.nan, 0 * x[..., 0])

    params = double_params(end_time=(4.0, 0.0))
    q, v = real([[0.0], [0.0]]), real([[1.0], [-1.0]])
    state = init_state(cliff, q, v, params, euclidean=True)
    state = to_end(lambda s: splitting_step(cliff, params, s, euclidean=True), state)
    assert state.status.tolist() == [DIVERGING, OUT_OF_TIME]
    assert 1 - 1e-9 < state.q[0].item() <= 1
    assert all(bool(x.isfinite().all()) for x in state)
    again = splitting_step(cliff, params, state, euclidean=True)
    assert all(torch.equal(a, b) for a, b in zip(state, again, strict=True))


def test_a_start_that_is_not_finite_is_born_diverging():
    params = double_params()
    q = real([[math.nan], [1.0]])
    state = init_state(ring, q, torch.ones_like(q), params, euclidean=False)
    assert state.status.tolist() == [DIVERGING, ACTIVE]
    fields = [x for x in state if x.dim() == 1]
    assert len({x.data_ptr() for x in state}) == len(state)
    assert all(len(x) == 2 for x in fields)


@pytest.mark.parametrize("loss", [ring, network], ids=["elementwise", "matmul"])
@pytest.mark.parametrize("integrator", ["splitting", "dopri5"])
def test_lanes_do_not_see_each_other_bitwise(loss, integrator):
    generator = torch.Generator().manual_seed(5)
    q, v = torch.randn(2, 64, 12, generator=generator, dtype=torch.float64)
    params = double_params(mu_quadratic=(0.5, 0.0), end_time=(0.3, 0.0))

    def after(q, v):
        state, step = start_and_step(loss, params, q, v, integrator, euclidean=False)
        for _ in range(12):
            state = step(state)
        return state.flow if not isinstance(state, FlowState) else state

    plain = after(q, v)
    order = torch.randperm(64, generator=generator)
    permuted = after(q[order], v[order])
    for one, other in zip(plain, permuted, strict=True):
        assert torch.equal(one[order], other)
    poisoned = q.clone()
    poisoned[17] = math.nan
    rest = torch.arange(64) != 17
    broken = after(poisoned, v)
    for one, other in zip(plain, broken, strict=True):
        assert torch.equal(one[rest], other[rest])
    assert broken.status[17].item() == DIVERGING


@both_metrics
def test_a_batch_is_its_lanes_one_at_a_time(euclidean):
    generator = torch.Generator().manual_seed(6)
    q, v = torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)
    params = double_params(mu_quadratic=(0.5, 0.0), end_time=(0.3, 0.0))

    def after(q, v):
        state = init_state(network, q, v, params, euclidean=euclidean)
        for _ in range(15):
            state = splitting_step(network, params, state, euclidean=euclidean)
        return state

    whole = after(q, v)
    for i in range(5):
        alone = after(q[i : i + 1], v[i : i + 1])
        torch.testing.assert_close(whole.q[i : i + 1], alone.q, rtol=1e-10, atol=1e-12)
        assert torch.equal(whole.n_steps[i : i + 1], alone.n_steps)


@both_metrics
@pytest.mark.parametrize("integrator", ["splitting", "dopri5"])
def test_a_traced_step_gives_the_same_numbers(euclidean, integrator):
    generator = torch.Generator().manual_seed(7)
    q, v = torch.randn(2, 4, 12, generator=generator, dtype=torch.float64)
    params = double_params(mu_quadratic=(0.5, 0.0), end_time=(0.3, 0.3))
    state, step = start_and_step(network, params, q, v, integrator, euclidean=euclidean)
    graph = make_fx(step)(state)
    traced, eager = state, state
    for _ in range(20):
        traced, eager = graph(traced), step(eager)
    for one, other in zip(
        pytree.tree_leaves(traced),
        pytree.tree_leaves(eager),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


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
        state = init_state(bowl, 0.1 * q.to(dtype), v.to(dtype), params, euclidean=True)
        step = lambda s, p=params: splitting_step(bowl, p, s, euclidean=True)  # noqa: E731
        ends.append(to_end(step, state))
    exact, rounded = ends
    assert rounded.q.dtype == torch.float32
    assert rounded.status.tolist() == [OUT_OF_TIME] * 32
    # Rounding only lets steps be longer, never makes them shorter.
    assert bool((rounded.n_evals_total <= 2 * exact.n_evals_total).all())


def test_the_loss_keeps_no_history_of_its_parameters():
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    params = double_params()
    q = real([[1.0, 2.0]])

    def loss(x):
        return (weight * x).sum(-1)

    for euclidean in (True, False):
        state = init_state(loss, q, q, params, euclidean=euclidean)
        state = splitting_step(loss, params, state, euclidean=euclidean)
        assert not any(x.requires_grad for x in state)
