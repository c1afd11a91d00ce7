"""The rule, in closed form and as the loops of a step have it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo.optim import SPD
from pyro_geo.optim.decay.rule import deviation_ratio, share_of

F64 = torch.float64
numbers = st.floats(-10, 10, allow_subnormal=False)


@given(numbers, st.floats(0, 10), st.floats(0, 10))
def test_the_ratio_is_the_share_of_outward_motion(dot, before, after):
    three = (dot, before, after)
    found = deviation_ratio(*(torch.tensor([x], dtype=F64) for x in three))
    expected = (after - before) / after if dot > 0 and after > before else 0.0
    assert float(found) == pytest.approx(expected, abs=1e-15)
    assert 0 <= float(found) <= 1
    arrays = deviation_ratio(*(np.array([x]) for x in three))
    assert float(arrays[0]) == float(found)


def test_what_is_not_a_number_decays_nothing():
    nan = torch.tensor([math.nan, 1.0, 1.0])
    before = torch.tensor([1.0, math.nan, 1.0])
    after = torch.tensor([2.0, 2.0, math.nan])
    assert deviation_ratio(nan, before, after).tolist() == [0.0, 0.0, 0.0]


def test_a_share_is_cut_at_one_unless_it_may_overshoot():
    ratio, spd = torch.tensor([0.8]), torch.tensor([2.0])
    assert share_of(ratio, spd).item() == 1.0
    assert share_of(ratio, spd, allow_overshoot=True).item() == pytest.approx(1.6)


def one_step(theta, anchor, gradient, rate, **options):
    """A step of gradient descent with SPD."""
    param = torch.nn.Parameter(theta.clone())
    optimizer = SPD([param], torch.optim.SGD, lr=rate, anchor=[anchor], **options)
    param.grad = gradient.clone()
    optimizer.step()
    return param.detach()


@pytest.mark.parametrize(
    ("spd", "expected"), [(0.0, 0.185), (0.5, 0.1425), (1.0, 0.1), (2.0, 0.015)]
)
def test_the_example_by_hand(spd, expected):
    theta = torch.nn.Parameter(torch.zeros((), dtype=F64))
    optimizer = SPD([theta], torch.optim.SGD, lr=0.1, momentum=0.9, spd=spd)
    for slope in (-1.0, 0.05):
        theta.grad = torch.tensor(slope, dtype=F64)
        optimizer.step()
    assert theta.item() == pytest.approx(expected, abs=1e-15)


@given(st.integers(0, 2**31), st.floats(0.01, 3.0))
def test_plain_descent_decays_where_noise_rules_the_step(seed, rate):
    generator = torch.Generator().manual_seed(seed)
    theta, anchor, g = torch.randn(3, 5, generator=generator, dtype=F64)
    proposal = one_step(theta, anchor, g, rate, spd=0.0)
    u = torch.dot(g, theta - anchor)
    active = bool(rate * g.square().sum() > 2 * u > 0)
    found = one_step(theta, anchor, g, rate)
    assert torch.equal(found, proposal) == (not active)
    if active:
        gap = torch.linalg.vector_norm(found - anchor)
        assert gap == pytest.approx(float(torch.linalg.vector_norm(theta - anchor)))


@given(st.integers(0, 2**31), st.floats(-3, 3))
def test_moving_the_origin_changes_nothing(seed, shift):
    theta, anchor, g = torch.randn(
        3, 5, generator=torch.Generator().manual_seed(seed), dtype=F64
    )
    moved = one_step(theta + shift, anchor + shift, g, 2.0)
    torch.testing.assert_close(moved, one_step(theta, anchor, g, 2.0) + shift)


@given(st.integers(0, 2**31), st.floats(0.1, 10))
def test_units_and_axes_do_not_matter_to_descent(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    theta, anchor, g = torch.randn(3, 5, generator=generator, dtype=F64)
    plain = one_step(theta, anchor, g, 2.0)
    scaled = one_step(scale * theta, scale * anchor, g / scale, 2.0 * scale**2)
    torch.testing.assert_close(scaled, scale * plain, rtol=1e-9, atol=1e-9)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=F64))
    turned = one_step(turn @ theta, turn @ anchor, turn @ g, 2.0)
    torch.testing.assert_close(turned, turn @ plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spd", [0.3, 1.0, 2.5, 40.0])
def test_the_radius_law(spd):
    theta, anchor, g = torch.randn(3, 50, dtype=F64)
    g = g.abs() * (theta - anchor).sign()  # against the displacement everywhere
    rate = 3.0  # so large that the step comes out on the other side
    proposal = theta - rate * 10 * g
    found = one_step(theta, anchor, g, rate * 10, spd=spd, allow_overshoot=True)
    gamma, wide = ((x - anchor).norm() for x in (theta, proposal))
    share = spd * (1 - gamma / wide)
    expected = abs(1 - share) * wide
    assert float((found - anchor).norm()) == pytest.approx(float(expected), rel=1e-12)
    cut = one_step(theta, anchor, g, rate * 10, spd=spd) - anchor
    expected = (1 - share.clip(max=1)) * wide
    assert float(cut.norm()) == pytest.approx(float(expected), abs=1e-12 * float(wide))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    anchor = torch.zeros(10_000, dtype=dtype)
    theta = torch.full((10_000,), 100.0, dtype=dtype)  # a norm of ten thousand
    found = one_step(theta, anchor, torch.full_like(theta, 1.0), 300.0)
    assert found.isfinite().all()
    assert float(found.float().norm()) == pytest.approx(1e4, rel=1e-2)
