"""Properties that hold for any numbers: layouts and derivatives."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import constraints

from pyro_geo.density import Layout
from pyro_geo.ops.derivatives import hvp, value_and_grad, value_grad_hvp

SUPPORTS = {
    "real": ((2,), constraints.real),
    "positive": ((), constraints.positive),
    "interval": ((3,), constraints.interval(-1.0, 2.0)),
    "simplex": ((4,), constraints.simplex),
    "factor": ((3, 3), constraints.corr_cholesky),
}
LAYOUT = Layout.from_supports(
    {name: (torch.Size(shape), support) for name, (shape, support) in SUPPORTS.items()}
)
# two sites of the layout are smaller unconstrained than constrained
DIM = 2 + 1 + 3 + 3 + 3

real = st.floats(-3.0, 3.0, allow_subnormal=False)


def vectors(length):
    return st.lists(real, min_size=length, max_size=length).map(
        lambda x: torch.tensor(x, dtype=torch.float64)
    )


def test_the_dimension_is_that_of_the_unconstrained_sites():
    assert LAYOUT.dim == DIM


@given(vectors(DIM))
def test_unconstraining_undoes_constraining(q):
    values = LAYOUT.constrain(q)
    for name, (_, support) in SUPPORTS.items():
        assert bool(support.check(values[name]).all())
    torch.testing.assert_close(LAYOUT.unconstrain(values), q, rtol=1e-7, atol=1e-7)


@given(vectors(DIM))
def test_flattening_undoes_unflattening(q):
    assert torch.equal(LAYOUT.flatten(LAYOUT.unflatten(q)), q)


@given(vectors(DIM))
def test_the_jacobian_is_that_of_the_elementwise_sites(q):
    """Against automatic differentiation, where the map has a square Jacobian."""
    for name in ("positive", "interval"):
        site = LAYOUT.sites[name]
        part = q[site.slice].reshape(site.shape)
        jacobian = torch.autograd.functional.jacobian(site.transform, part)
        assert isinstance(jacobian, torch.Tensor)
        size = max(site.size, 1)
        exact = torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet
        found = site.transform.log_abs_det_jacobian(part, site.transform(part)).sum()
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


def quartic(q):
    # not `prod`, whose second derivative divides by its factors
    return (q.square().sum(-1) - 1).square() + q[..., 0] * q[..., 1] * q[..., 2]


@given(vectors(3), vectors(3))
def test_derivatives_agree_with_finite_differences_and_each_other(q, v):
    q, v = q[None], v[None]
    value, gradient = value_and_grad(quartic, q)
    again, same, product = value_grad_hvp(quartic, q, v)
    assert torch.equal(value, again)
    torch.testing.assert_close(gradient, same)
    torch.testing.assert_close(hvp(quartic, q, v), product)
    step = 1e-5
    slope = (quartic(q + step * v) - quartic(q - step * v)) / (2 * step)
    scale = 1 + (q.norm() + v.norm()).item() ** 4
    assert abs((gradient * v).sum() - slope).item() < 1e-7 * scale
    ahead = value_and_grad(quartic, q + step * v)[1]
    behind = value_and_grad(quartic, q - step * v)[1]
    bend = (ahead - behind) / (2 * step)
    assert (product - bend).abs().max().item() < 1e-7 * scale


@given(vectors(3), vectors(3), vectors(3))
def test_the_hessian_is_symmetric(q, u, v):
    q, u, v = q[None], u[None], v[None]
    left = (hvp(quartic, q, u) * v).sum()
    right = (hvp(quartic, q, v) * u).sum()
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
