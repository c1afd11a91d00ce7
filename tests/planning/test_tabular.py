"""Exact values against linear solves, policy enumeration and rollouts."""

import itertools

import numpy as np
import pytest
import torch

from pyro_geo.errors import (
    ConfigurationError,
    ConvergenceWarning,
    DiscountError,
    NonFiniteDataError,
    ShapeError,
)
from pyro_geo.planning import MatrixDynamics, TabularVI


@pytest.fixture
def problem(seed):
    """Three draws of four states and two actions, rewards, rewards on arrival."""
    g = torch.Generator().manual_seed(seed)
    P = torch.rand(3, 2, 4, 4, generator=g, dtype=torch.float64) ** 3
    P = P / P.sum(-1, keepdim=True)
    r = torch.randn(4, 2, generator=g, dtype=torch.float64)
    return P, r, torch.randn(3, 4, generator=g, dtype=torch.float64)


def value_of(P, r, arrival, policy, discount):
    """Value of a policy by a linear solve, in numpy."""
    states = range(len(policy))
    chosen = np.stack([P[policy[s], s] for s in states])
    reward = np.array([r[s, policy[s]] for s in states]) + chosen @ arrival
    return np.linalg.solve(np.eye(len(policy)) - discount * chosen, reward)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99])
def test_optimal_values_are_the_best_of_all_policies(problem, discount):
    P, r, g = problem
    solved = TabularVI(discount=discount, tolerance=1e-10).solve(
        MatrixDynamics(P), r, arrival=g
    )
    for draw in range(3):
        each = [
            value_of(P[draw].numpy(), r.numpy(), g[draw].numpy(), policy, discount)
            for policy in itertools.product((0, 1), repeat=4)
        ]
        best = np.max(each, 0)  # one policy is best in every state
        np.testing.assert_allclose(solved.values[draw], best, rtol=0, atol=1e-10)
        own = value_of(
            P[draw].numpy(),
            r.numpy(),
            g[draw].numpy(),
            solved.policy[draw].tolist(),
            discount,
        )
        np.testing.assert_allclose(own, best, rtol=0, atol=1e-10)
    assert (solved.error <= 1e-10).all()


def test_the_error_bound_holds_and_is_not_idle(problem):
    P, r, g = problem
    exact = TabularVI(discount=0.99, tolerance=1e-12).solve(
        MatrixDynamics(P), r, arrival=g
    )
    for tolerance in (1.0, 0.1, 1e-3, 1e-6):
        rough = TabularVI(discount=0.99, tolerance=tolerance).solve(
            MatrixDynamics(P), r, arrival=g
        )
        wrong = (rough.action_values - exact.action_values).abs().amax((-2, -1))
        assert (wrong <= rough.error + 1e-11).all()
        # plain value iteration needs log(tolerance (1 - discount)) / log(discount)
        assert rough.sweeps < 100


def test_a_given_policy_is_evaluated_by_the_same_equation(problem):
    P, r, g = problem
    policy = torch.tensor([1, 0, 0, 1])
    found = TabularVI(discount=0.9, tolerance=1e-12).evaluate(
        MatrixDynamics(P), policy, r, arrival=g
    )
    for draw in range(3):
        expected = value_of(
            P[draw].numpy(), r.numpy(), g[draw].numpy(), policy.tolist(), 0.9
        )
        np.testing.assert_allclose(found.values[draw], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_a_finite_horizon_is_the_best_of_all_plans(problem, horizon):
    P, r, g = problem
    last = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    found = TabularVI(discount=1.0, horizon=horizon).solve(
        MatrixDynamics(P), r, arrival=g, initial=last
    )

    def best(draw, s, left):
        if left == 0:
            return float(last[s])
        return max(
            float(r[s, a])
            + sum(
                float(P[draw, a, s, z]) * (float(g[draw, z]) + best(draw, z, left - 1))
                for z in range(4)
            )
            for a in range(2)
        )

    for draw, s in itertools.product(range(3), range(4)):
        assert abs(float(found.values[draw, s]) - best(draw, s, horizon)) < 1e-12
    assert found.sweeps == horizon


def test_a_warm_start_saves_sweeps_and_changes_nothing(problem):
    P, r, g = problem
    solver = TabularVI(discount=0.95, tolerance=1e-10)
    cold = solver.solve(MatrixDynamics(P), r, arrival=g)
    warm = solver.solve(MatrixDynamics(P), r, arrival=g, initial=cold.values)
    torch.testing.assert_close(warm.values, cold.values, rtol=0, atol=2e-10)
    assert warm.sweeps < cold.sweeps / 2


def test_values_have_the_form_of_a_value_model(problem):
    P, r, _ = problem
    solved = TabularVI(discount=0.9).solve(MatrixDynamics(P), r)
    mean, variance = solved.q(torch.tensor([2, 0]))
    assert mean.shape == variance.shape == (3, 2, 2)
    torch.testing.assert_close(mean, solved.action_values[:, [2, 0]])
    assert (variance <= 1e-15).all()


def test_single_precision_ends_where_rounding_does(problem):
    P, r, _ = problem
    exact = TabularVI(discount=0.99).solve(MatrixDynamics(P), r)
    single = TabularVI(discount=0.99).solve(MatrixDynamics(P.float()), r.float())
    assert single.values.dtype == torch.float32
    torch.testing.assert_close(
        single.values.double(), exact.values, rtol=1e-4, atol=1e-3
    )


def test_too_few_sweeps_warn_with_the_bound(problem):
    P, r, _ = problem
    with pytest.warns(ConvergenceWarning, match="2 sweeps"):
        found = TabularVI(discount=0.99, max_sweeps=2).solve(MatrixDynamics(P), r)
    assert found.error.max() > 1e-8


@pytest.mark.parametrize("discount", [1.0, -0.1, 1.5, float("nan"), "high"])
def test_a_wrong_discount_is_named(discount):
    with pytest.raises(DiscountError, match="discount"):
        TabularVI(discount=discount)


def test_mistakes_are_named(problem):
    P, r, _ = problem
    dynamics, solver = MatrixDynamics(P), TabularVI()
    with pytest.raises(ShapeError, match=r"reward.*\(4, 3\)"):
        solver.solve(dynamics, torch.zeros(4, 3))
    with pytest.raises(ShapeError, match="arrival"):
        solver.solve(dynamics, arrival=torch.zeros(3, 2))
    with pytest.raises(ShapeError, match="initial"):
        solver.solve(dynamics, r, initial=torch.zeros(3))
    with pytest.raises(ShapeError, match="policy"):
        solver.evaluate(dynamics, torch.zeros(3).long(), r)
    with pytest.raises(NonFiniteDataError, match="reward.*1 such"):
        solver.solve(dynamics, r.index_fill(1, torch.tensor([0]), 0.0) + _nan_at(r))
    with pytest.raises(ConfigurationError, match="transition"):
        MatrixDynamics(P + 0.1)
    with pytest.raises(ShapeError, match="transition"):
        MatrixDynamics(P[0, 0])
    with pytest.raises(ConfigurationError, match="horizon"):
        TabularVI(horizon=0)


def _nan_at(like):
    wrong = torch.zeros_like(like)
    wrong[1, 1] = float("nan")
    return wrong
