"""The flow as one call: what it accepts, refuses and reports."""

import math

import pytest
import torch

from pyro_geo.errors import ConfigurationError, NonFiniteLossError
from pyro_geo.infer.mcmc.dims.driver import dissipative_flow
from tests.infer.mcmc.dims.flows import INTEGRATORS, hyperbola, real, ring

Q, V = real([[1.0, 1.0], [0.5, 2.0]]), real([[0.3, -0.4], [1.0, 0.2]])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"friction": -0.1}, "friction"),
        ({"friction": math.nan}, "friction"),
        ({"friction": (0.1, 0.2)}, "friction"),
        ({"friction": 0.1, "friction_law": "mixed"}, "friction"),
        ({"friction": (0.1, -0.2), "friction_law": "mixed"}, "friction"),
        ({"friction_law": "quadratic"}, "friction_law"),
        ({"step_tol": 0.0}, "step_tol"),
        ({"step_tol": 1.0}, "step_tol"),
        ({"energy_atol": -1.0}, "energy_atol"),
        ({"time": -1.0}, "time"),
        ({"time": math.inf}, "time"),
        ({"time": 0.0}, "time"),
        ({"settle_time": -1.0}, "settle_time"),
        ({"settle_friction": -1.0}, "settle_friction"),
        ({"gravity": -1.0}, "gravity"),
        ({"alpha": -1.0}, "alpha"),
        ({"k_stop": -1.0}, "k_stop"),
        ({"max_evals": 0}, "max_evals"),
        ({"num_lanes": 0}, "num_lanes"),
        ({"integrator": "euler"}, "integrator"),
        ({"rtol": -1.0}, "rtol"),
        ({"atol": 0.0}, "atol"),
        ({"v0": V[:, :1]}, "v0"),
        ({"v0": V.repeat(2, 1)}, "v0"),
        ({"v0": V.float()}, "v0"),
        ({"v0": V * math.nan}, "v0"),
        ({"v0": V[None]}, "v0"),
        ({"theta0": Q.long()}, "theta0"),
        ({"theta0": Q[:0]}, "theta0"),
        ({"loss": lambda x: x}, "loss"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(options, name):
    call = {"loss": hyperbola, "theta0": Q, "v0": V} | options
    with pytest.raises(ConfigurationError, match=name) as error:
        dissipative_flow(call.pop("loss"), call.pop("theta0"), call.pop("v0"), **call)
    assert "expected" in str(error.value)


def test_starts_without_a_loss_are_named():
    q = real([[1.0, 1.0], [-1.0, 1.0], [1.0, 2.0], [-2.0, 1.0]])
    with pytest.raises(NonFiniteLossError, match="rows 1, 3 of 'theta0'"):
        dissipative_flow(lambda x: torch.log(x[0]) + x[1] ** 2, q, real([0.1, 0.1]))


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_one_loss_may_be_mapped_or_batched(integrator):
    options = {"time": 0.5, "settle_time": 0.5, "integrator": integrator}
    mapped = dissipative_flow(hyperbola, Q, V, **options)
    batched = dissipative_flow(hyperbola, Q, V, batched=True, **options)
    for one, other in zip(mapped, batched, strict=True):
        torch.testing.assert_close(one, other)


def test_one_start_serves_many_velocities():
    one = dissipative_flow(ring, Q[0], V, time=0.5)
    many = dissipative_flow(ring, Q[:1].expand(2, 2), V, time=0.5)
    for a, b in zip(one, many, strict=True):
        assert torch.equal(a, b)
    assert dissipative_flow(ring, Q[0], V[0], time=0.5).theta.shape == (1, 2)


def test_the_number_of_lanes_changes_only_rounding():
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    sizes = set()

    def loss(x):
        sizes.add(len(x))
        return ring(x)

    whole = dissipative_flow(loss, Q[0], v, time=0.5, batched=True)
    assert sizes == {7}
    sizes.clear()
    few = dissipative_flow(loss, Q[0], v, time=0.5, batched=True, num_lanes=3)
    assert sizes == {3}
    for one, other in zip(whole, few, strict=True):
        torch.testing.assert_close(one, other)


def test_inputs_are_left_alone_and_nothing_needs_gradients():
    q, v = Q.clone().requires_grad_(), V.clone()
    with torch.no_grad():
        result = dissipative_flow(ring, q, v, time=0.3)
    assert torch.equal(q, Q)
    assert torch.equal(v, V)
    assert not any(x.requires_grad for x in result)


def test_the_statistics_fit_together():
    result = dissipative_flow(ring, Q, V, friction=0.5, settle_time=6.0)
    balance = result.energy - result.energy_initial + result.energy_dissipated
    kinetic = 0.5 * (V.square().sum(-1))  # the starts' slopes add to it
    scale = torch.maximum(result.energy_dissipated, kinetic)
    assert bool(((result.energy_error * scale).abs() <= balance.abs() * 1.001).all())
    assert bool((result.energy_error.abs() < 0.3).all())
    assert torch.equal(result.loss, result.loss_settled)
    assert bool((result.peak_loss >= result.loss_explored).all())
    assert bool((result.path_length >= (result.theta - Q).norm(dim=-1)).all())
    assert bool((result.n_evals >= 1 + 2 * result.n_steps).all())
    torch.testing.assert_close(
        result.step_size * result.n_steps, result.integration_time
    )
    assert bool(result.finished.all())
    assert not bool(result.diverging.any())


def test_spent_evaluations_and_divergence_are_reported_not_raised():
    spent = dissipative_flow(ring, Q, V, max_evals=4)
    assert not bool(spent.finished.any())

    def wall(x):
        return torch.where(x[0] > 1.01, torch.nan, 0 * x[0])

    result = dissipative_flow(wall, Q, real([[1.0, 0.0], [-1.0, 0.0]]))
    assert result.diverging.tolist() == [True, False]
    assert result.finished.tolist() == [False, True]
    assert bool(result.theta.isfinite().all())


def test_a_lifted_step_is_used():
    calls = []

    def lift(step):
        def counted(state):
            calls.append(1)
            return step(state)

        return counted

    plain = dissipative_flow(ring, Q, V, time=0.3)
    lifted = dissipative_flow(ring, Q, V, time=0.3, lift=lift)
    assert calls
    assert torch.equal(plain.theta, lifted.theta)


def test_single_precision_stays_single():
    result = dissipative_flow(ring, Q.float(), V.float(), time=0.5, settle_time=0.5)
    assert result.theta.dtype == torch.float32
    exact = dissipative_flow(ring, Q, V, time=0.5, settle_time=0.5)
    torch.testing.assert_close(result.theta.double(), exact.theta, rtol=1e-3, atol=1e-3)
