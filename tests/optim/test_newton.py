"""The Newton polish."""

import math

import pytest
import torch

from pyro_geo.errors import ConfigurationError
from pyro_geo.optim.newton import polish_minima
from pyro_geo.optim.trust_region import polish
from tests.infer.mcmc.dims.flows import banana, hyperbola, network, real, ring


def _affine():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(3, generator=generator, dtype=torch.float64)
    return (lambda t: 0.5 * (t @ x.T - y).square().sum(-1)), x


STARTS = {
    "hyperbola": (hyperbola, [[2.0, 0.6], [0.3, 3.0], [-1.0, -1.2]]),
    "ring": (ring, [[1.1, 0.1], [0.7, 0.6], [-0.5, 0.5]]),
    "banana": (banana, [[0.9, 0.8], [0.0, 0.1], [1.5, 2.0]]),
    "affine": (_affine()[0], torch.linspace(-1, 1, 18).reshape(3, 6).double()),
}


@pytest.mark.parametrize("name", STARTS)
def test_minima_are_reached_to_rounding(name):
    loss, start = STARTS[name]
    result = polish_minima(loss, real(start), tolerance=1e-22, batched=True)
    assert bool((result.grad_norm <= 1e-9).all())
    assert bool((result.loss <= 3e-19).all())
    assert bool(result.converged.all())
    assert not bool(result.diverging.any())
    assert bool((result.n_iter <= 25).all())
    assert bool((result.n_evals <= 72).all())


@pytest.mark.parametrize("name", STARTS)
def test_it_stops_once_a_step_promises_little(name):
    loss, start = STARTS[name]
    result = polish_minima(loss, real(start), tolerance=1e-2, batched=True)
    assert bool(result.converged.all())
    assert bool((result.predicted_decrease <= 1e-2).all())
    # These losses reach zero, so what is left to win is the loss itself; a quadratic
    # model this close to a minimum is right to a small share.
    assert bool((result.loss <= 2e-2).all())
    assert bool((result.loss <= result.loss_before).all())
    full = polish_minima(loss, real(start), tolerance=1e-22, batched=True)
    assert bool((result.n_evals <= full.n_evals + 2).all())


def test_moves_go_across_the_valley():
    loss, x = _affine()
    start = torch.linspace(-1, 1, 18).reshape(3, 6).double()
    result = polish_minima(loss, start, tolerance=1e-22, batched=True)
    null = torch.eye(6, dtype=torch.float64) - torch.linalg.pinv(x) @ x
    along = (result.theta - start) @ null
    assert along.abs().max() < 1e-13
    on_ring = polish_minima(ring, real([[0.8, 0.5]]), tolerance=1e-22, batched=True)
    turned = torch.atan2(on_ring.theta[0, 1], on_ring.theta[0, 0])
    assert turned.item() == pytest.approx(torch.atan2(real(0.5), real(0.8)).item())


def test_negative_curvature_along_the_valley_is_not_followed():
    # Off its minimum the hyperbola curves down along the valley.
    start = real([[2.0, 0.6], [0.3, 3.0]])
    result = polish_minima(hyperbola, start, batched=True)
    assert result.n_iter.tolist() == [2, 2]  # the last one refines
    assert bool((result.displacement < 0.1).all())


@pytest.mark.parametrize("shift", [0.0, 700.0])
@pytest.mark.parametrize(("condition", "nats"), [(1e5, 1.0), (1e9, 1e-9)])
def test_a_minimum_is_known_where_curvatures_differ_much(condition, nats, shift):
    # more unknowns than a solve has iterations, and too many scales for a good one
    scales = torch.logspace(0, math.log10(condition), 200, dtype=torch.float64) * 0.02

    def loss(theta):
        return 0.5 * (scales * theta.square()).sum(-1) + shift

    generator = torch.Generator().manual_seed(2)
    start = torch.randn(2, 200, generator=generator, dtype=torch.float64)
    start *= (nats / scales).sqrt()
    result = polish_minima(loss, start, tolerance=1e-2, max_steps=40, batched=True)
    assert bool(result.converged.all())
    assert bool((result.predicted_decrease <= 1e-2).all())
    # no less than what is left, which here is known
    left = result.loss - shift
    assert bool((left <= result.predicted_decrease + 1e-12).all())


def test_a_solve_given_up_within_the_region_does_not_widen_it():
    # else the bound, a distance times a slope, would grow at rest
    scales = torch.logspace(0, 8, 150, dtype=torch.float64)
    start = 1e-3 * scales**-0.5 * real([[1.0]])
    state = polish(
        lambda x: (0.5 * (scales * x * x).sum(-1), scales * x),
        lambda x, v: scales * v,
        start,
        tolerance=0.0,
        max_steps=20,
    )
    assert state.n_iter.item() == 20
    assert state.radius.item() <= 1.0


def test_a_loss_of_one_point_is_mapped():
    start = real([2.0, 0.6])
    mapped = polish_minima(hyperbola, start, tolerance=1e-22)
    batched = polish_minima(hyperbola, start[None], tolerance=1e-22, batched=True)
    assert mapped.theta.shape == (1, 2)
    torch.testing.assert_close(mapped.theta, batched.theta)
    moved = (mapped.theta - start).norm(dim=-1)
    torch.testing.assert_close(mapped.displacement, moved)


def test_an_offset_too_large_to_see_the_decrease_still_polishes():
    offset = polish_minima(
        lambda x: ring(x) + 1e6, real([[1.1, 0.1]]), tolerance=1e-22, batched=True
    )
    assert offset.grad_norm.item() <= 1e-9
    single = polish_minima(
        lambda x: ring(x) + 100,
        torch.tensor([[1.1, 0.1]]),
        tolerance=1e-10,
        batched=True,
    )
    assert single.theta.dtype == torch.float32
    assert single.grad_norm.item() <= 1e-4


def test_lanes_are_separate_and_those_without_numbers_are_flagged():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    plain = polish_minima(network, start, batched=True)
    poisoned = start.clone()
    poisoned[3, 0] = torch.nan
    broken = polish_minima(network, poisoned, batched=True)
    rest = torch.arange(8) != 3
    for one, other in zip(plain, broken, strict=True):
        assert torch.equal(one[rest], other[rest])
    assert broken.diverging.tolist() == [i == 3 for i in range(8)]
    assert not bool(broken.converged[3])
    for i in range(8):
        alone = polish_minima(network, start[i : i + 1], batched=True)
        torch.testing.assert_close(alone.loss, plain.loss[i : i + 1], rtol=1e-6, atol=0)


def test_a_step_into_nan_is_taken_back():
    # The minimum is at the edge of the domain, and a full step goes beyond.
    def loss(x):
        return (x[..., 0] - 0.5 * torch.log(x[..., 0])).square()

    result = polish_minima(loss, real([[3.0]]), tolerance=1e-12, batched=True)
    assert not bool(result.diverging)
    assert bool(result.theta.isfinite().all())
    assert bool(result.converged)


def test_a_saddle_is_left_downhill():
    def saddle(x):
        return 0.25 * (x[..., 0] ** 2 - 1) ** 2 + x[..., 1] ** 2

    result = polish_minima(saddle, real([[0.05, 0.3]]), tolerance=1e-12, batched=True)
    torch.testing.assert_close(result.theta, real([[1.0, 0.0]]), rtol=0, atol=1e-5)


def test_spent_iterations_are_not_convergence():
    result = polish_minima(banana, real([[-1.2, 1.0]]), max_steps=2, batched=True)
    assert result.n_iter.item() == 2
    assert not bool(result.converged)
    assert bool(result.predicted_decrease > 1e-2)
    none = polish_minima(banana, real([[-1.2, 1.0]]), max_steps=0, batched=True)
    assert torch.equal(none.theta, real([[-1.2, 1.0]]))
    assert none.displacement.item() == 0


def test_lanes_that_are_not_asked_for_stay():
    start = real([[2.0, 0.6], [0.3, 3.0]])

    def value_and_grad(q):
        x, y = q.unbind(-1)
        r = x * y - 1
        return r * r, torch.stack([2 * r * y, 2 * r * x], -1)

    def hvp(q, v):
        x, y = q.unbind(-1)
        r, s = x * y - 1, x * v[:, 1] + y * v[:, 0]
        return 2 * torch.stack([s * y + r * v[:, 1], s * x + r * v[:, 0]], -1)

    state = polish(
        value_and_grad, hvp, start, tolerance=1e-20, active=torch.tensor([False, True])
    )
    assert state.status.tolist() == [2, 1]
    assert torch.equal(state.q[0], start[0])
    assert state.loss[1].item() < 1e-19


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"tolerance": -1.0}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"max_steps": -1}, "max_steps"),
        ({"theta": torch.zeros(2, 2, 2)}, "theta"),
    ],
)
def test_bad_options_are_refused(options, name):
    with pytest.raises(ConfigurationError, match=name):
        polish_minima(ring, **({"theta": real([[1.0, 1.0]])} | options))
