"""Suzuki's composition: its weights, and steps that go back in time."""

import pytest
import torch

from pyro_geo.infer.mcmc.dims.problem import Problem
from pyro_geo.infer.mcmc.dims.solvers.splitting import propose_by_ledger, split
from pyro_geo.infer.mcmc.dims.solvers.suzuki import WEIGHTS, Suzuki
from tests.infer.mcmc.dims.flows import EPS, Flow, banana, free_params, real


def test_the_weights_meet_the_conditions_of_fourth_order():
    weights = real(WEIGHTS)
    assert weights.sum().item() == pytest.approx(1, abs=8 * EPS)
    assert weights.pow(3).sum().item() == pytest.approx(0, abs=8 * EPS)
    assert torch.equal(weights, weights.flip(0))  # self-adjoint: no odd orders


@pytest.mark.parametrize("euclidean", [True, False])
def test_a_step_back_undoes_a_step_and_its_friction_work(euclidean):
    problem = Problem(banana, free_params(alpha=0.3), euclidean)
    q, v = real([[0.5, 0.5], [1.0, 0.2]]), real([[0.4, -0.3], [0.1, 0.6]])
    h, mu0, mu1 = real([0.05, 0.1]), real([0.4, 0.0]), real([0.7, 0.9])
    there = split(problem, q, v, h, mu0, mu1)
    back = split(problem, there.q, there.v, -h, mu0, mu1)
    assert bool((there.work > 1e-3).all())
    for found, expected in (
        (back.q, q),
        (back.v, v),
        (back.work, -there.work),
        (back.length, -there.length),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=32 * EPS)


def test_friction_that_would_turn_a_velocity_round_is_rejected():
    """Backwards in time the speed grows, without bound in finite time."""
    params = free_params(end_time=(10.0, 0.0))
    flow = Flow(lambda x: 0 * x[..., 0], params, Suzuki(), euclidean=True)
    state = flow.start(real([[0.0]]), real([[10.0]]))
    mu0, mu1 = real([0.0]), real([2.0])
    for h, possible in ((-0.05, True), (-0.2, False)):
        move = split(flow.problem, state.q, state.v, real([h]), mu0, mu1)
        proposal = propose_by_ledger(flow.problem, state, real([-h]), move, order=4)
        assert proposal.accept.item() == possible
        if not possible:
            assert proposal.factor.item() == 0.3
