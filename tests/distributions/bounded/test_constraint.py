"""The ellipsoid as a constraint, and its two maps from real space."""

import math
from typing import Any

import pytest
import torch
from torch.distributions import biject_to, constraints, transform_to

from pyro_geo.distributions import EllipsoidBall, EllipsoidTransform

LOC = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
TRIL = torch.tensor(
    [[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [-0.3, 0.4, 0.7]], dtype=torch.float64
)
MAPS = ["tanh", "algebraic"]


def points(scale: float) -> torch.Tensor:
    torch.manual_seed(0)
    return scale * torch.randn(6, 3, dtype=torch.float64)


@pytest.mark.parametrize("bijector", MAPS)
@pytest.mark.parametrize("scale", [1e-12, 1e-5, 0.1, 0.2, 1.0, 3.0])
def test_it_is_inverted_and_its_jacobian_is_that_of_differentiation(bijector, scale):
    ball = EllipsoidBall(LOC, TRIL, 1.7, bijector)
    transform = biject_to(ball)
    z = points(scale)
    x = transform(z)
    assert bool(ball.check(x).all())
    # the centre is not small: what was added to it is rounded
    rounding = 1e-15 + 1e-8 * scale if scale > 1 else 1e-15 + 1e-12 * scale
    torch.testing.assert_close(transform.inv(x), z, rtol=0, atol=rounding)
    jacobian = torch.func.vmap(torch.func.jacrev(transform))(z)
    expected = jacobian.slogdet().logabsdet
    found = transform.log_abs_det_jacobian(z, x)
    tolerance = 1e-12 * math.exp(2 * float(z.norm(dim=-1).max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert torch.autograd.gradcheck(
        lambda z: (transform(z), transform.log_abs_det_jacobian(z, transform(z))),
        (z.requires_grad_(),),
    )


@pytest.mark.parametrize("bijector", MAPS)
def test_it_is_smooth_at_the_centre(bijector):
    zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    transform: Any = EllipsoidTransform(LOC, TRIL, 2.0, bijector)

    def both(z):
        return transform(z).sum(-1), transform.log_abs_det_jacobian(z, z)

    assert torch.autograd.gradcheck(both, (zero,))
    assert torch.autograd.gradgradcheck(both, (zero,))
    assert torch.autograd.gradgradcheck(lambda x: transform.inv(x), (LOC[None] + zero,))


@pytest.mark.parametrize("bijector", MAPS)
def test_far_out_it_stays_inside_and_finite(bijector):
    for dtype in (torch.float32, torch.float64):
        transform: Any = EllipsoidTransform(
            LOC.to(dtype), TRIL.to(dtype), 1.7, bijector
        )
        z = torch.tensor([[50.0, 0, 0], [0, -400.0, 3], [1e4, 1e4, 1e4]], dtype=dtype)
        x = transform(z)
        assert bool(transform.codomain.check(x).all())
        assert bool(transform.inv(x).isfinite().all())
        assert bool(transform.log_abs_det_jacobian(z, x).isfinite().all())


def test_far_out_the_log_jacobian_keeps_its_digits():
    # t = tanh s: log sech^2(s) = log 4 - 2 s up to exp(-2 s)
    transform: Any = EllipsoidTransform(
        torch.zeros(1).double(), torch.eye(1).double(), 1.0
    )
    z = torch.tensor([[300.0]], dtype=torch.float64)
    found = transform.log_abs_det_jacobian(z, transform(z))
    assert float(found) == pytest.approx(math.log(4) - 600, abs=1e-12)


def test_both_registries_know_it_in_batches_and_events():
    loc = LOC.expand(2, 4, 3)
    radius = torch.rand(2, 4, dtype=torch.float64) + 0.5
    ball = EllipsoidBall(loc, TRIL, radius)
    for registry in (biject_to, transform_to):
        transform = registry(constraints.independent(ball, 1))
        z = torch.randn(5, 2, 4, 3, dtype=torch.float64)
        x = transform(z)
        assert ball.check(x).shape == (5, 2, 4)
        assert constraints.independent(ball, 1).check(x).all()
        jacobian = transform.log_abs_det_jacobian(z, x)
        assert jacobian.shape == (5, 2)
        parts = [
            biject_to(EllipsoidBall(LOC, TRIL, radius[1, k])).log_abs_det_jacobian(
                z[0, 1, k], x[0, 1, k]
            )
            for k in range(4)
        ]
        torch.testing.assert_close(jacobian[0, 1], torch.stack(parts).sum())


def test_a_cached_transform_returns_what_it_was_given():
    transform = biject_to(EllipsoidBall(LOC, TRIL, 1.0)).with_cache(1)
    z = points(1.0)
    assert transform.inv(transform(z)) is z


def test_the_edge_is_inside_and_what_is_beyond_is_not():
    ball = EllipsoidBall(torch.zeros(2), torch.eye(2), 2.0)
    x = torch.tensor([[2.0, 0.0], [1.2, 1.6], [2.0001, 0.0], [math.nan, 0.0]])
    assert ball.check(x).tolist() == [True, True, False, False]
