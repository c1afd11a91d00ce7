"""What must hold exactly: return form, linear and tabular kernels, bias, control."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are, solve_discrete_lyapunov

from pyro_geo.gp import ExactGPTD, SparseGPTD, Transitions
from tests.gp.td.oracle import (
    Features,
    deviation,
    double,
    matern,
    new_nodes,
    posterior,
    set_up,
    table,
    walk,
    zero_mean,
)


def values(gp, x):
    with torch.no_grad():
        return gp.value(double(x)).mean.numpy()


def test_returns_of_episodes_that_terminate_are_plain_regression():
    data, new = walk(), new_nodes()
    data.terminated = [True] * 4
    returns, nodes = [], []
    for x, r in zip(data.nodes, data.rewards, strict=True):
        total = 0.0
        for here, reward in zip(x[-2::-1], r[::-1], strict=True):
            total = reward + data.gamma * total
            returns.append(total)
            nodes.append(here)
    y, x = np.array(returns) - 0.4, np.array(nodes)
    q = matern(x, x) + 0.05 * np.eye(len(y))
    cross = matern(new, x)
    level = 0.4 + cross @ np.linalg.solve(q, y)
    covariance = matern(new, new) - cross @ np.linalg.solve(q, cross.T)
    logs = np.linalg.slogdet(2 * np.pi * q)[1]
    evidence = -0.5 * (y @ np.linalg.solve(q, y) + logs)
    gp = set_up(ExactGPTD(data.transitions(), noise="return"))
    assert deviation(gp.value(double(new)), level, covariance) < 1e-12
    assert gp.log_marginal().item() == pytest.approx(evidence, abs=1e-11)


@pytest.mark.parametrize("model", [ExactGPTD, SparseGPTD])
def test_the_return_form_of_truncated_episodes_is_the_same_model(model):
    # the oracle has the tridiagonal noise; the sparse model reads returns
    data, new = walk(), new_nodes()
    level, covariance, evidence = posterior(data, "return", new)
    extra: Any = {}
    if model is SparseGPTD:
        extra = {"inducing_points": double(data.visits)}
    gp = set_up(model(data.transitions(), noise="return", **extra))
    assert deviation(gp.value(double(new)), level, covariance) < 1e-11
    assert gp.log_marginal().item() == pytest.approx(evidence, abs=1e-9)


# -- linear kernels -------------------------------------------------------------------


def features(x):
    one = torch.ones_like(x[..., :1])
    return torch.cat([one, x, x[..., :1] * x[..., 1:]], -1)


@pytest.mark.parametrize("kind", ["reward", "return"])
def test_a_linear_kernel_is_bayesian_regression_on_differences(kind):
    data, new = walk(), new_nodes()
    rng = np.random.default_rng(1)
    root = rng.normal(size=(4, 4))
    prior = root @ root.T + np.eye(4)
    phi = features(double(data.visits)).numpy()
    design, sigma = data.H @ phi, data.noise(kind, 0.05)
    weighed = np.linalg.solve(sigma, design)
    precision = design.T @ weighed + np.linalg.inv(prior)
    weights = np.linalg.solve(precision, weighed.T @ data.reward)
    at = features(double(new)).numpy()
    gp = ExactGPTD(
        data.transitions(),
        noise=kind,
        kernel=Features(features, double(prior)),
        mean=zero_mean(),
    )
    gp.likelihood.noise = double(0.05)
    covariance = at @ np.linalg.solve(precision, at.T)
    assert deviation(gp.value(double(new)), at @ weights, covariance) < 1e-10


def test_flat_priors_give_bellman_residuals_and_lstd_1_and_never_lstd_0():
    data, new = walk(lengths=(15, 20, 12, 18)), new_nodes()
    data.terminated = [True] * 4
    phi, at = features(double(data.visits)).numpy(), features(double(new)).numpy()
    starts = data.H > 0  # the visit that a step starts from
    here = starts @ phi
    design = data.H @ phi
    residual = at @ np.linalg.lstsq(design, data.reward, rcond=None)[0]
    lstd_0 = at @ np.linalg.solve(here.T @ design, here.T @ data.reward)
    returns = np.linalg.solve(data.H[:, starts.any(0)], data.reward)
    lstd_1 = at @ np.linalg.lstsq(here, returns, rcond=None)[0]
    found = {}
    for kind in ("reward", "return"):
        gp = ExactGPTD(
            data.transitions(),
            noise=kind,
            kernel=Features(features, 1e6 * torch.eye(4).double()),
            mean=zero_mean(),
        )
        gp.likelihood.noise = double(0.05)
        found[kind] = values(gp, new)
    np.testing.assert_allclose(found["reward"], residual, atol=1e-5)
    np.testing.assert_allclose(found["return"], lstd_1, atol=1e-5)
    assert np.abs(found["reward"] - lstd_0).max() > 0.05
    assert np.abs(found["return"] - lstd_0).max() > 0.05


# -- tables ---------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [0.5, 1e-3, 1e-8])
def test_a_chain_of_states_has_known_values_and_variances(variance):
    count, gamma = 7, 0.9
    reward = np.random.default_rng(2).normal(size=count)
    discount = np.full(count, gamma)
    discount[-1] = 0
    h = np.eye(count) - np.diag(discount[:-1], 1)
    exact = np.linalg.solve(h, reward)
    x = np.arange(count, dtype=float)[:, None]
    for kind in ("reward", "return"):
        gp = ExactGPTD(
            Transitions(x, x + 1, reward, discount),
            noise=kind,
            kernel=Features(table(count + 1)),
            mean=zero_mean(),
        )
        gp.likelihood.noise_covar.register_constraint(
            "raw_noise", type(gp.likelihood.noise_covar.raw_noise_constraint)(double(0))
        )
        gp.likelihood.noise = double(variance)
        if kind == "return":
            want = exact / (1 + variance)
            covariance = variance / (1 + variance) * np.eye(count)
        else:
            inner = np.linalg.inv(h.T @ h + variance * np.eye(count))
            want, covariance = exact - variance * inner @ exact, variance * inner
        law = gp.value(double(x))
        assert deviation(law, want, covariance) < 1e-9
        if variance < 1e-6:
            assert np.abs(law.mean.detach().numpy() - exact).max() < 1e-6


STATES = 6


def chain():
    """A doubly stochastic chain with probabilities in quarters."""
    p = np.zeros((STATES, STATES))
    for s in range(STATES):
        for step, quarters in ((1, 2), (-1, 1), (2, 1)):
            p[s, (s + step) % STATES] += quarters / 4
    reward = np.array([1.0, -0.5, 0.3, 2.0, -1.0, 0.2])
    return p, reward


def tabular(x, x_next, reward, variance, weight=None):
    steps = Transitions(x, x_next, reward, 0.9, weight, episode=np.arange(len(x)))
    gp = ExactGPTD(steps, kernel=Features(table(STATES)), mean=zero_mean())
    gp.likelihood.noise_covar.register_constraint(
        "raw_noise", type(gp.likelihood.noise_covar.raw_noise_constraint)(double(0))
    )
    gp.likelihood.noise = double(variance)
    return values(gp, np.arange(STATES, dtype=float)[:, None])


def test_sampled_successors_are_biased_as_derived_and_expected_ones_are_exact():
    p, reward = chain()
    gamma, eye = 0.9, np.eye(STATES)
    exact = np.linalg.solve(eye - gamma * p, reward)
    states = np.arange(STATES, dtype=float)
    # the frequencies of a long run, exactly: each state visited four times
    pairs = [
        (s, t)
        for s in range(STATES)
        for t in range(STATES)
        for _ in range(round(4 * p[s, t]))
    ]
    h, d = eye - gamma * p, eye / STATES
    spread = np.diag(np.diag(d) @ p) - p.T @ d @ p
    for k in (1, 2):
        normal = h.T @ d @ h + gamma**2 / k * spread
        if k == 1:
            rows = np.array(pairs, dtype=float)
        else:
            both = [(s, t, u) for s, t in pairs for v, u in pairs if v == s]
            rows = np.array(both, dtype=float)
        here, after = rows[:, 0], rows[:, 1:]
        prior = 1e-4 / len(rows) * eye  # of the table, with variance 1e-4 of the noise
        found = tabular(here[:, None], after[..., None], reward[here.astype(int)], 1e-4)
        want = np.linalg.solve(normal + prior, h.T @ d @ reward)
        np.testing.assert_allclose(found, want, atol=1e-9)
        limit = np.linalg.solve(normal, h.T @ d @ reward)
        assert np.abs(limit - exact).max() > 0.2 / k
    whole = np.broadcast_to(states[:, None], (STATES, STATES, 1))
    found = tabular(states[:, None], whole, reward, 1e-10, p)
    np.testing.assert_allclose(found, exact, atol=3e-8)


# -- levels and discounts -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reward", "return"])
def test_a_constant_added_to_rewards_shifts_values_by_its_sum(kind):
    data, new = walk(), new_nodes()
    data.terminated = [False] * 4
    first = set_up(ExactGPTD(data.transitions(), noise=kind), mean=0.0)
    data.rewards = [r + 3.0 for r in data.rewards]
    second = set_up(ExactGPTD(data.transitions(), noise=kind), mean=30.0)
    shift = values(second, new) - values(first, new)
    np.testing.assert_allclose(shift, 30.0, atol=1e-10)


@pytest.mark.parametrize("kind", ["reward", "return"])
def test_without_a_future_it_is_regression_on_rewards(kind):
    data, new = walk(), new_nodes()
    x = np.concatenate([n[:-1] for n in data.nodes])
    gp = set_up(ExactGPTD(Transitions(x, 7 * x, data.reward, 0.0), noise=kind))
    q = matern(x, x) + 0.05 * np.eye(len(x))
    want = 0.4 + matern(new, x) @ np.linalg.solve(q, data.reward - 0.4)
    np.testing.assert_allclose(values(gp, new), want, atol=1e-12)


# -- linear-quadratic control ---------------------------------------------------------

A = np.array([[1.0, 0.1], [0.0, 1.0]])
B = np.array([[0.0], [0.1]])
Q, R = np.diag([1.0, 0.1]), 0.01
LQ_GAMMA = 0.95


def squares(x):
    """Features whose kernel is the squared inner product."""
    return (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)


def quadratic(x, x_next, reward, variance, weight=None, feature=squares, prior=None):
    gp = ExactGPTD(
        Transitions(x, x_next, reward, LQ_GAMMA, weight),
        kernel=Features(feature, prior),
        mean=zero_mean(),
    )
    gp.likelihood.noise_covar.register_constraint(
        "raw_noise", type(gp.likelihood.noise_covar.raw_noise_constraint)(double(0))
    )
    gp.likelihood.noise = double(variance)
    return gp


def test_the_value_of_a_linear_policy_solves_lyapunovs_equation():
    k = np.array([[4.0, 3.0]])
    closed = A - B @ k
    cost = Q + R * k.T @ k
    p = solve_discrete_lyapunov(np.sqrt(LQ_GAMMA) * closed.T, cost)
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (40, 2))
    reward = -np.einsum("ti,ij,tj->t", x, cost, x)
    new = rng.uniform(-1, 1, (20, 2))
    exact = -np.einsum("ti,ij,tj->t", new, p, new)
    errors = []
    for variance in (1e-4, 1e-6, 1e-8):
        gp = quadratic(x, x @ closed.T, reward, variance)
        errors.append(np.abs(values(gp, new) - exact).max())
    assert errors[2] < 1e-6
    np.testing.assert_allclose(np.divide(errors[:2], errors[1:]), 100, rtol=0.05)

    # process noise, by a product rule that is exact for polynomials of this degree
    w = np.array([[0.02, 0.005], [0.005, 0.03]])
    roots, mass = np.polynomial.hermite_e.hermegauss(3)
    mass = mass / mass.sum()
    grid = np.stack(np.meshgrid(roots, roots, indexing="ij"), -1).reshape(-1, 2)
    weight = np.outer(mass, mass).reshape(-1)
    after = (x @ closed.T)[:, None] + grid @ np.linalg.cholesky(w).T

    def with_constant(x):
        return torch.cat([squares(x), torch.ones_like(x[..., :1])], -1)

    prior = torch.diag(double([1, 1, 1, 1, 100]))
    tiled = np.broadcast_to(weight, (40, 9))
    gp = quadratic(x, after, reward, 1e-8, tiled, with_constant, prior)
    shift = -LQ_GAMMA / (1 - LQ_GAMMA) * np.trace(p @ w)
    np.testing.assert_allclose(values(gp, new), exact + shift, atol=1e-4)


def test_policy_iteration_on_action_values_reaches_the_riccati_gain():
    a, b = np.sqrt(LQ_GAMMA) * A, np.sqrt(LQ_GAMMA) * B
    s = solve_discrete_are(a, b, Q, np.eye(1) * R)
    best = np.linalg.solve(R + b.T @ s @ b, b.T @ s @ a)
    np.testing.assert_allclose(best, [[6.60149, 4.54141]], atol=1e-5)
    rng = np.random.default_rng(4)
    x, u = rng.uniform(-1, 1, (500, 2)), rng.uniform(-5, 5, (500, 1))
    reward = -np.einsum("ti,ij,tj->t", x, Q, x) - R * u[:, 0] ** 2
    after = x @ A.T + u @ B.T
    k = gain = np.array([[1.0, 1.0]])
    eye = np.eye(3)
    for _ in range(4):
        node = np.concatenate([after, -after @ k.T], 1)
        gp = quadratic(np.concatenate([x, u], 1), node, reward, 1e-6)
        # the form from its values: q_ij = (f(e_i + e_j) - f(e_i) - f(e_j)) / 2
        one = values(gp, eye)
        both = values(gp, (eye[:, None] + eye).reshape(9, 3)).reshape(3, 3)
        form = 0.5 * (both - one[:, None] - one)
        k = form[2:, :2] / form[2, 2]
        # the same sweep with the exact values of the policy
        closed, cost = a - b @ gain, Q + R * gain.T @ gain
        p = solve_discrete_lyapunov(closed.T, cost)
        gain = np.linalg.solve(R + b.T @ p @ b, b.T @ p @ a)
        np.testing.assert_allclose(k, gain, atol=2e-5)
    np.testing.assert_allclose(k, best, atol=2e-4)
