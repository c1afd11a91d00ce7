"""Saddles told from minima, and left downhill."""

import math

import pytest
import torch

from pyro_geo.ops.derivatives import hvp, value_and_grad
from pyro_geo.optim.newton import polish_minima
from pyro_geo.optim.trust_region import polish
from tests.infer.mcmc.dims.flows import banana, hyperbola, real, ring

A = torch.diag(torch.tensor([2.0, 1.0, 0.2]))
BOTH = [torch.float32, torch.float64]


def well(x):
    return (x[0] ** 2 - 1) ** 2 + x[1] ** 2


def shallow(x):
    """Height 0.34 between its wells, where the curvature is -0.07."""
    return 0.34 * (1 - (0.07 / 1.36) * x[0] ** 2) ** 2 + 2 * x[1] ** 2


def himmelblau(x):
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


def factors(x):
    u, v = x[:6].reshape(3, 2), x[6:].reshape(2, 3)
    return (u @ v - A.to(x)).square().sum()


def linear_network(x):
    """Two layers, symmetric at zero weights."""
    data = torch.linspace(-1, 1, 12, dtype=x.dtype).reshape(4, 3)
    first, second = x[:6].reshape(3, 2), x[6:].reshape(2, 1)
    return 5 * (data @ first @ second - data.sum(1, keepdim=True)).square().sum()


def units(x):
    """A tanh network fitted to the sum of two units; half of `x` are its outputs."""
    t = torch.linspace(-2, 2, 9, dtype=x.dtype)
    inner, outer = x.chunk(2)
    fit = torch.tanh(t[:, None] * inner) @ outer
    return 20 * (fit - t.tanh() - (3 * t).tanh()).square().sum()


def sines(x):
    return 0.17 * x.sin().square().sum()


def monkey(x):
    """Three ways down from a point without second derivatives."""
    return x[0] ** 3 - 3 * x[0] * x[1] ** 2 + x.square().sum() ** 2


def quartic(x):
    return x[0] ** 4 - x[1] ** 4 + 0.1 * x[1] ** 6 + x[2] ** 2


def deep(x):
    """Three layers of one unit each: flat to second order at zero."""
    return (x.prod() - 1) ** 2


# loss, points at and around a saddle, loss of the minimum
CASES = {
    "well": (well, [[0.0, 0.0], [0.0, 0.3], [1e-6, 0.0]], 0.0),
    "shallow": (shallow, [[0.0, 0.0], [0.01, 0.0]], 0.0),
    "himmelblau": (
        himmelblau,
        [[0.0866775, 2.8842547], [-3.0730258, -0.0813530], [-0.1279613, -1.9537150]],
        0.0,
    ),
    "himmelblau, maximum": (himmelblau, [[-0.2708446, -0.9230385]], 0.0),
    "factors at zero": (factors, torch.zeros(1, 12), 0.04),
    "factors of rank one": (
        factors,
        [[math.sqrt(2), 0, 0, 0, 0, 0, math.sqrt(2), 0, 0, 0, 0, 0]],
        0.04,
    ),
    "linear network": (linear_network, torch.zeros(1, 8), 0.0),
    "sines": (sines, [[math.pi / 2] * 6, [math.pi / 2] * 3 + [0.0] * 3], 0.0),
    "monkey": (monkey, torch.zeros(1, 2), -27 / 256),
    "quartic": (quartic, torch.zeros(1, 3), -((20 / 3) ** 2) + 0.1 * (20 / 3) ** 3),
    "deep": (deep, torch.zeros(1, 3), 0.0),
}


def curvature(loss, points):
    """Smallest eigenvalue of each Hessian, as a share of the largest."""
    hessian = torch.func.vmap(torch.func.hessian(loss))(points.double())
    eigenvalues = torch.linalg.eigvalsh(hessian)
    return eigenvalues[:, 0] / eigenvalues.abs().amax(-1)


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("name", CASES)
def test_a_saddle_is_left_for_a_minimum(name, dtype):
    loss, points, least = CASES[name]
    result = polish_minima(loss, torch.as_tensor(points).to(dtype))
    assert bool(result.converged.all())
    assert not bool(result.saddle.any())
    assert bool((result.loss < least + 0.02).all())
    assert bool((curvature(loss, result.theta) > -0.011).all())


def test_a_network_wakes_its_dead_unit():
    """The best fit of one unit beside one that is off is a saddle of two units."""
    alone = polish_minima(units, real([[1.5, 2.0]]), tolerance=1e-10, max_steps=100)
    assert bool(alone.converged)
    w, a = alone.theta[0].tolist()
    start = real([[w, 0.0, a, 0.0]])
    judged = polish_minima(units, start, max_steps=0)
    assert judged.saddle.tolist() == [True]
    result = polish_minima(units, start, tolerance=1e-6, max_steps=100)
    assert bool(result.converged)
    assert float(result.loss) < 0.5 * float(alone.loss)
    assert float(curvature(units, result.theta)) > -0.011


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("name", ["well", "shallow", "linear network", "monkey"])
def test_where_nothing_may_move_a_saddle_is_named(name, dtype):
    loss, points, _ = CASES[name]
    start = torch.as_tensor(points).to(dtype)[:1]
    result = polish_minima(loss, start, max_steps=0)
    assert result.saddle.tolist() == [True]
    assert result.converged.tolist() == [False]
    assert torch.equal(result.theta, start)


def test_without_a_minimum_below_it_a_saddle_is_named():
    result = polish_minima(lambda x: x[0] ** 2 - x[1] ** 2, real([[0.0, 0.0]]))
    assert result.saddle.tolist() == [True]
    assert result.converged.tolist() == [False]


def affine(x):
    return 0.5 * (x[..., :3] @ real([[2.0], [1.0], [-1.0]])[..., 0] - 1).square()


def crossing(x):
    return x[..., 0] ** 2 * x[..., 1] ** 2


def quartic_bowl(x):
    return (x**4).sum(-1)


SETS = {
    "ring": (ring, 2),
    "hyperbola": (hyperbola, 2),
    "banana": (banana, 2),
    "affine": (affine, 6),
    "quartic bowl": (quartic_bowl, 4),
    "constant": (lambda x: 0 * x.sum(-1), 3),
    "offset": (lambda x: 1e3 + ring(x), 2),
}


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("name", SETS)
def test_sets_of_minima_are_no_saddles(name, dtype):
    """Sixty points of flat or bent valleys, polished to a tolerance and no further."""
    loss, dim = SETS[name]
    generator = torch.Generator().manual_seed(1)
    start = 1 + 0.3 * torch.randn(60, dim, generator=generator, dtype=torch.float64)
    if name == "affine" and dtype == torch.float32:
        pytest.skip("its coefficients are of double precision")
    result = polish_minima(loss, start.to(dtype), batched=True)
    assert bool(result.converged.all())
    assert not bool(result.saddle.any())


@pytest.mark.parametrize("name", ["ring", "hyperbola", "banana", "affine"])
def test_what_is_no_saddle_keeps_every_bit(name):
    """The check moves nothing: positions are those of the Newton steps alone."""
    loss, dim = SETS[name]
    generator = torch.Generator().manual_seed(2)
    start = 1 + 0.3 * torch.randn(60, dim, generator=generator, dtype=torch.float64)
    plain = polish(
        lambda x: value_and_grad(loss, x), lambda x, v: hvp(loss, x, v), start
    )
    checked = polish_minima(loss, start, batched=True)
    near = torch.linalg.eigvalsh(torch.func.vmap(torch.func.hessian(loss))(plain.q))
    clear = near[:, 0] > -1e-2 * near.abs().amax(-1)
    assert int(clear.sum()) > 40
    assert torch.equal(checked.theta[clear], plain.q[clear])


def test_lanes_are_separate():
    """A saddle beside minima changes none of their bits, and the other way round."""
    points = real([[0.0, 0.0], [0.9, 0.2], [-1.2, 0.1], [0.0, 0.4]])
    together = polish_minima(well, points)
    swapped = polish_minima(well, points[[0, 2, 1, 3]])
    assert torch.equal(swapped.theta[[0, 2, 1, 3]], together.theta)
    assert bool(together.converged.all())


def test_the_search_is_reproducible_and_can_be_given_other_numbers():
    start = torch.zeros(1, 12, dtype=torch.float64)
    state = torch.get_rng_state()
    first, again = polish_minima(factors, start), polish_minima(factors, start)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.theta, again.theta)
    other = polish_minima(factors, start, generator=torch.Generator().manual_seed(5))
    assert bool(other.converged)
    assert bool(first.converged)
    assert not torch.equal(other.theta, first.theta)
