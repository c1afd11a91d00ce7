"""The Dormand-Prince step: its table, its control and an independent integrator."""

import pytest
import torch

from pyro_geo.infer.mcmc.dims.solvers import dopri5
from pyro_geo.infer.mcmc.dims.solvers.dopri5 import DormandPrince
from pyro_geo.infer.mcmc.dims.state import OUT_OF_TIME, is_active
from pyro_geo.ops.derivatives import value_grad_hvp
from tests.infer.mcmc.dims.flows import (
    EPS,
    Flow,
    banana,
    double_params,
    real,
    ring,
    run,
)


def test_the_table_meets_the_order_conditions():
    rows = [(), *dopri5.STAGES]
    nodes = real([sum(row) for row in rows])
    a = torch.zeros(7, 7, dtype=torch.float64)
    for i, row in enumerate(rows):
        a[i, : len(row)] = real(row)
    assert torch.allclose(nodes, real([0, 0.2, 0.3, 0.8, 8 / 9, 1, 1]), atol=8 * EPS)
    fifth = a[6]
    fourth = fifth - real(dopri5.ERROR)
    for weights, order in ((fifth, 5), (fourth, 4)):
        for k in range(order):
            moment = (weights * nodes**k).sum().item()
            assert moment == pytest.approx(1 / (k + 1), abs=32 * EPS)
        inner = (weights @ a @ nodes).item()
        assert inner == pytest.approx(1 / 6, abs=32 * EPS)
    assert (fourth * nodes**4).sum().item() != pytest.approx(1 / 5, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_it_agrees_with_another_integrator(alpha):
    torchdiffeq = pytest.importorskip(
        "torchdiffeq", reason="torchdiffeq, the integrator to compare with, is absent"
    )
    mu, g = (0.2, 0.5), 1.3
    q, v = real([[0.5, 0.5], [1.0, 0.2]]), real([[0.4, -0.3], [0.1, 0.6]])

    def field(_, y):
        q, v, _ = y
        _, d, product = value_grad_hvp(banana, q, v)
        w2 = 1 + alpha**2 * (d * d).sum(-1)
        kinetic = 0.5 * ((v * v).sum(-1) + alpha**2 * (d * v).sum(-1) ** 2)
        friction = mu[0] + mu[1] * kinetic.sqrt()
        pull = (alpha**2 * (v * product).sum(-1) + g) / w2
        force = -pull[:, None] * d - friction[:, None] * v
        return v, force, 2 * friction * kinetic

    times = real([0.0, 1.0])
    start = (q, v, torch.zeros(2, dtype=torch.float64))
    theirs = torchdiffeq.odeint(field, start, times, rtol=1e-9, atol=1e-9)
    ours = run(
        banana,
        q,
        v,
        1e-9,
        time=1.0,
        gravity=g,
        friction=mu,
        friction_law="mixed",
        alpha=alpha,
        integrator="dopri5",
    )
    # Both make at most the tolerance per step; the flow is not chaotic over this time.
    tol = 1e-9 * ours.n_steps.max().item() * 10
    torch.testing.assert_close(ours.theta, theirs[0][-1], rtol=0, atol=tol)
    torch.testing.assert_close(ours.velocity, theirs[1][-1], rtol=0, atol=10 * tol)
    torch.testing.assert_close(ours.energy_dissipated, theirs[2][-1], rtol=0, atol=tol)


def test_every_lane_has_its_own_step():
    q, v = real([[1.5, 0.1], [0.8, 0.1]]), real([[0.0, 5.0], [0.1, 0.0]])
    both = run(ring, q, v, 1e-7, integrator="dopri5")
    alone = run(ring, q[1:], v[1:], 1e-7, integrator="dopri5")
    assert both.n_steps[0] > both.n_steps[1]
    assert torch.equal(both.n_steps[1:], alone.n_steps)
    torch.testing.assert_close(both.theta[1:], alone.theta, rtol=1e-12, atol=0)


def test_the_kept_slope_is_right_after_the_friction_has_changed():
    params = double_params(
        end_time=(0.5, 1.0), mu_quadratic=(0.3, 0.0), mu_linear=(0.0, 3.0)
    )
    q, v = real([[1.2, 0.3]]), real([[0.4, 1.0]])
    flow = Flow(ring, params, DormandPrince(), euclidean=False)
    state = fresh = flow.start(q, v)
    while bool(is_active(state).any()):
        state = flow.step(state)
        again = flow.start(fresh.q, fresh.v)
        fresh = flow.step(fresh._replace(carried=again.carried))
    assert state.stage.item() == 1
    assert state.status.item() == OUT_OF_TIME
    torch.testing.assert_close(state.q, fresh.q, rtol=1e-13, atol=0)
