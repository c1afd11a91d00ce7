"""Flat positions and back."""

import pytest
import torch
from torch.distributions import constraints

from pyro_geo.density import Layout
from pyro_geo.errors import LayoutMismatchError, ShapeError

SUPPORTS = {
    "scalar": ((), constraints.real),
    "scale": ((2,), constraints.positive),
    "weights": ((3,), constraints.simplex),
    "factor": ((3, 3), constraints.corr_cholesky),
    "share": ((2, 2), constraints.interval(-1.0, 2.0)),
}


@pytest.fixture
def layout():
    return Layout.from_supports(
        {name: (torch.Size(shape), c) for name, (shape, c) in SUPPORTS.items()},
        {"scale": ("group",)},
    )


@pytest.fixture
def q(layout):
    generator = torch.Generator().manual_seed(0)
    shape = (5, 2, layout.dim)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_sites_follow_each_other(layout):
    sites = list(layout.sites.values())
    assert [s.start for s in sites] == [0, 1, 3, 5, 8]
    assert [s.stop for s in sites] == [1, 3, 5, 8, 12]
    assert layout.dim == 12
    assert sites[1].dims == ("group",)
    assert sites[3].shape == (3,)
    assert sites[3].constrained_shape == (3, 3)


def test_round_trips(layout, q):
    torch.testing.assert_close(layout.flatten(layout.unflatten(q)), q, rtol=0, atol=0)
    values = layout.constrain(q)
    for name, (shape, support) in SUPPORTS.items():
        assert values[name].shape == (5, 2, *shape)
        assert support.check(values[name]).all()
    torch.testing.assert_close(layout.unconstrain(values), q)


def test_jacobian_is_that_of_autograd(layout, q):
    _, found = layout.constrain_with_jacobian(q[0, 0])
    expected = torch.zeros((), dtype=torch.float64)
    for name in ("scale", "share"):
        site = layout.sites[name]
        x = q[0, 0, site.slice].reshape(site.shape)
        matrix = torch.func.jacrev(site.transform)(x).reshape(site.size, site.size)
        expected = expected + torch.linalg.slogdet(matrix)[1]
    for name in ("weights", "factor"):
        site = layout.sites[name]
        x = q[0, 0, site.slice]
        expected = expected + site.transform.log_abs_det_jacobian(x, site.transform(x))
    torch.testing.assert_close(found, expected)


def test_any_order_of_values(layout, q):
    values = layout.constrain(q)
    backwards = dict(reversed(values.items()))
    assert torch.equal(layout.unconstrain(backwards), layout.unconstrain(values))


@pytest.mark.parametrize("method", ["flatten", "unconstrain"])
def test_wrong_values_are_named(layout, q, method):
    values = layout.unflatten(q) if method == "flatten" else layout.constrain(q)
    call = getattr(layout, method)
    with pytest.raises(LayoutMismatchError, match=r"'scale'.*missing \['scale'\]"):
        call({k: v for k, v in values.items() if k != "scale"})
    with pytest.raises(LayoutMismatchError, match=r"'other'.*unknown \['other'\]"):
        call(values | {"other": q})
    with pytest.raises(LayoutMismatchError, match=r"'weights'.*found \(1,\)"):
        call(values | {"weights": torch.zeros(1)})


def test_wrong_length_is_said(layout):
    with pytest.raises(ShapeError, match=r"found \(3, 2\), expected \(..., 12\)"):
        layout.unflatten(torch.zeros(3, 2))
