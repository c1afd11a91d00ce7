"""Closed forms and symmetries of the flow, for every integrator."""

import math

import pytest
import torch

from tests.infer.mcmc.dims.flows import (
    BY_LEDGER,
    EPS,
    INTEGRATORS,
    assert_converges,
    network,
    real,
    ring,
    run,
)

every_integrator = pytest.mark.parametrize("integrator", INTEGRATORS)
both_metrics = pytest.mark.parametrize("alpha", [0.0, 1.0])
SQRT2 = math.sqrt(2)


@every_integrator
@both_metrics
def test_a_plane_under_kinetic_friction_is_followed_from_rest(integrator, alpha):
    slope, mu, g, time = 1.5, 0.8, 1.2, 2.0
    w = math.sqrt(1 + (alpha * slope) ** 2)
    rate = math.sqrt(SQRT2 * g * slope / (mu * w)) * mu / SQRT2
    exact = -math.log(math.cosh(rate * time)) / (w * mu / SQRT2)
    assert_converges(
        lambda tol: (
            run(
                lambda x: slope * x[..., 0],
                [[0.0]],
                [[0.0]],
                tol,
                time=time,
                gravity=g,
                friction=mu,
                alpha=alpha,
                integrator=integrator,
            ).theta
        ),
        [[exact]],
        # at a looser one the growth of the steps, not their error, decides
        tol=1e-3 if integrator == "splitting" else 1e-6,
    )


@every_integrator
@both_metrics
@pytest.mark.parametrize("law", ["kinetic", "linear"])
def test_a_constant_loss_gives_a_straight_line(integrator, alpha, law):
    mu, time, v = 0.7, 3.0, real([[1.0, -2.0, 0.5]])
    speed = v.norm().item()
    if law == "linear":
        way = speed * (1 - math.exp(-mu * time)) / mu
    else:
        way = SQRT2 / mu * math.log(1 + mu * speed * time / SQRT2)
    exact = v / speed * way
    result = run(
        lambda x: 0 * x[..., 0],
        [[0.0, 0.0, 0.0]],
        v,
        0.3 if integrator in BY_LEDGER else 1e-9,
        time=time,
        friction=mu,
        friction_law=law,
        alpha=alpha,
        integrator=integrator,
    )
    # Splitting steps are exact here at any size; Dormand and Prince's make an error of
    # at most the tolerance each, and friction lets none of them grow.
    steps = result.n_steps.item()
    tol = 8 * EPS * steps if integrator in BY_LEDGER else 1e-9 * 4 * steps
    torch.testing.assert_close(result.theta, exact, rtol=0, atol=tol)
    torch.testing.assert_close(result.path_length, real([way]), rtol=2e-3, atol=0)


@every_integrator
def test_a_damped_oscillator_is_followed(integrator):
    stiffness, mu, g, time = real([1.0, 4.0]), 0.5, 1.3, 3.0
    x0, v0 = real([1.0, -0.5]), real([0.3, 1.0])
    omega = (g * stiffness - mu**2 / 4).sqrt()
    wave = x0 * (omega * time).cos() + (v0 + mu * x0 / 2) / omega * (omega * time).sin()
    assert_converges(
        lambda tol: (
            run(
                lambda x: 0.5 * (stiffness * x * x).sum(-1),
                x0[None],
                v0[None],
                tol,
                time=time,
                gravity=g,
                friction=mu,
                friction_law="linear",
                alpha=0.0,
                integrator=integrator,
            ).theta
        ),
        (math.exp(-mu * time / 2) * wave)[None],
    )


def _affine():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(2, generator=generator, dtype=torch.float64)
    q, v = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    null = torch.eye(4, dtype=torch.float64) - torch.linalg.pinv(x) @ x
    return (lambda t: 0.5 * (t @ x.T - y).square().sum(-1)), null, q, v


@every_integrator
@both_metrics
def test_in_the_null_space_of_a_regression_only_friction_acts(integrator, alpha):
    loss, null, q, v = _affine()
    mu, time = 0.9, 2.0
    result = run(
        loss,
        q,
        v,
        0.3 if integrator in BY_LEDGER else 1e-7,
        time=time,
        friction=mu,
        friction_law="linear",
        gravity=0.7,
        alpha=alpha,
        integrator=integrator,
    )
    exact = v @ null * (1 - math.exp(-mu * time)) / mu
    steps = result.n_steps.max().item()
    tol = 1e2 * EPS * steps if integrator in BY_LEDGER else 1e-7 * 4 * steps
    torch.testing.assert_close((result.theta - q) @ null, exact, rtol=0, atol=tol)


@every_integrator
@both_metrics
def test_kinetic_friction_keeps_the_direction_in_the_null_space(integrator, alpha):
    loss, null, q, v = _affine()
    result = run(loss, q, v, 1e-2, friction=0.5, alpha=alpha, integrator=integrator)
    moved = (result.theta - q) @ null
    along = v @ null
    cosine = torch.cosine_similarity(moved, along)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-12)


@every_integrator
@both_metrics
def test_angular_momentum_only_decays_by_friction(integrator, alpha):
    mu, time = 0.6, 2.0
    q, v = real([[1.2, 0.1, 0.0]]), real([[0.3, 0.5, 0.9]])
    result = run(
        ring,
        q,
        v,
        0.5 if integrator in BY_LEDGER else 1e-8,
        time=time,
        friction=mu,
        friction_law="linear",
        alpha=alpha,
        integrator=integrator,
    )
    momentum = torch.linalg.cross(result.theta, result.velocity)
    exact = torch.linalg.cross(q, v) * math.exp(-mu * time)
    steps = result.n_steps.item()
    tol = 16 * EPS * steps if integrator in BY_LEDGER else 1e-8 * 4 * steps
    torch.testing.assert_close(momentum, exact, rtol=0, atol=tol)


@both_metrics
def test_speed_gravity_and_time_scale_together(alpha):
    q, v = real([[1.1, 0.2]]), real([[0.4, 1.0]])
    one = run(ring, q, v, 0.1, time=2.0, friction=0.5, gravity=1.5, alpha=alpha)
    # Powers of two scale without rounding, so that every step is the same.
    two = run(
        ring,
        q,
        2 * v,
        0.1,
        time=1.0,
        friction=0.5,
        gravity=6.0,
        alpha=alpha,
        energy_atol=0.4,
    )
    assert torch.equal(one.theta, two.theta)
    assert torch.equal(2 * one.velocity, two.velocity)
    assert torch.equal(one.n_steps, two.n_steps)


@both_metrics
def test_speed_gravity_and_time_scale_together_with_dopri5(alpha):
    q, v = real([[1.1, 0.2]]), real([[0.4, 1.0]])
    options = {"friction": 0.5, "alpha": alpha, "integrator": "dopri5"}
    one = run(ring, q, v, 1e-10, time=2.0, gravity=1.0, **options)
    assert_converges(
        lambda tol: run(ring, q, 3 * v, tol, time=2 / 3, gravity=9.0, **options).theta,
        one.theta,
        1e-5,
    )


@every_integrator
def test_scaling_loss_embedding_and_gravity_changes_nothing(integrator):
    q, v = real([[1.1, 0.2]]), real([[0.4, 1.0]])
    options = {"friction": 0.5, "integrator": integrator}
    one = run(ring, q, v, 1e-2, alpha=1.0, gravity=1.5, **options)
    two = run(lambda x: 4 * ring(x), q, v, 1e-2, alpha=0.25, gravity=0.375, **options)
    assert torch.equal(one.theta, two.theta)
    assert torch.equal(one.n_evals, two.n_evals)


@every_integrator
@both_metrics
def test_symmetries_of_tanh_units_are_kept(integrator, alpha):
    generator = torch.Generator().manual_seed(3)
    q, v = torch.randn(2, 3, 12, generator=generator, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    permutation = torch.cat([order, order + 4, order + 8])
    sign = real([1.0, -1.0, -1.0, 1.0]).repeat(3)

    def symmetry(x):
        return (x * sign)[:, permutation]

    def end(q, v):
        tol = 0.1 if integrator in BY_LEDGER else 1e-5
        return run(network, q, v, tol, time=0.5, alpha=alpha, integrator=integrator)

    one, two = end(q, v), end(symmetry(q), symmetry(v))
    near = end(q * (1 + 4 * EPS), v)
    # Other sums round differently; a start moved by rounding tells how that grows.
    growth = max((near.theta - one.theta).abs().max().item() / (4 * EPS), 1.0)
    tol = growth * EPS * one.n_evals.max().item()
    assert tol < 1e-8
    torch.testing.assert_close(two.theta, symmetry(one.theta), rtol=0, atol=tol)


def _escape_energy(alpha: float, g: float = 2.0, mu: float = 0.6) -> float:
    """Integrate the threshold of the double well from the left minimum to the top."""
    x = torch.linspace(-1, 0, 100_001, dtype=torch.float64)
    slope = x * (x * x - 1)
    arc = torch.cumulative_trapezoid((1 + (alpha * slope) ** 2).sqrt(), x)
    sigma = torch.cat([real([0.0]), arc])
    return g * torch.trapezoid(slope * (SQRT2 * mu * sigma).exp(), x).item()


@every_integrator
@pytest.mark.parametrize(
    ("alpha", "threshold"), [(0.0, 0.7562), (1.0, 0.7700), (3.0, 0.8708)]
)
def test_a_particle_leaves_the_well_just_above_the_threshold(
    integrator, alpha, threshold
):
    exact = _escape_energy(alpha)
    assert abs(exact - threshold) < 5e-5
    energy = exact * real([[0.999], [1.001]])
    result = run(
        lambda x: 0.25 * (x[..., 0] ** 2 - 1) ** 2,
        [[-1.0]],
        (2 * energy).sqrt(),
        1e-4 if integrator in BY_LEDGER else 1e-7,
        time=6.0,
        gravity=2.0,
        friction=0.6,
        alpha=alpha,
        integrator=integrator,
    )
    assert result.theta[0].item() < 0 < result.theta[1].item()


@every_integrator
@both_metrics
def test_without_friction_energy_is_kept(integrator, alpha):
    q, v = real([[1.1, 0.2], [0.5, 0.5]]), real([[0.4, 1.0], [1.0, -0.3]])
    assert_converges(
        lambda tol: (
            (
                run(ring, q, v, tol, friction=0.0, alpha=alpha, integrator=integrator)
            ).energy
        ),
        run(ring, q, v, 0.1, friction=0.0, alpha=alpha).energy_initial,
    )


@every_integrator
@both_metrics
def test_energy_lost_is_the_friction_work(integrator, alpha):
    q, v = real([[1.1, 0.2], [0.5, 0.5]]), real([[0.4, 1.0], [1.0, -0.3]])
    options = {
        "friction": (0.2, 0.4),
        "friction_law": "mixed",
        "alpha": alpha,
        "integrator": integrator,
        "settle_time": 1.0,
    }
    assert_converges(
        lambda tol: run(ring, q, v, tol, **options).energy_error, [0.0, 0.0]
    )
    assert bool((run(ring, q, v, 1e-3, **options).energy_dissipated > 0.1).all())
