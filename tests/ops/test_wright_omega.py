"""Wright's omega against scipy, many digits and its own differential equation."""

import mpmath as mp
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo._compat.torch import make_fx
from pyro_geo.ops.special import wright_omega

DOUBLE = torch.float64


def reference(z: float):
    """Solve `w + log w = z` with fifty digits."""
    with mp.workdps(50):
        z = mp.mpf(z)
        if z < 500:
            return mp.lambertw(mp.exp(z)).real
        return mp.findroot(lambda w: w + mp.log(w) - z, z - mp.log(z))


@given(st.floats(-700, 100) | st.floats(100, 1e300))
def test_values_have_the_digits_of_a_double(z):
    value = wright_omega(torch.tensor(z, dtype=DOUBLE)).item()
    assert abs(mp.mpf(value) / reference(z) - 1) < 5e-16


def test_values_are_those_of_scipy_over_the_whole_range():
    z = torch.linspace(-700, 60, 20_001, dtype=DOUBLE)
    z = torch.cat([z, torch.logspace(1, 307, 2_001, dtype=DOUBLE)])
    expected = torch.as_tensor(scipy.special.wrightomega(z.numpy()))
    # scipy itself loses some digits where z is far below 0
    torch.testing.assert_close(wright_omega(z), expected, rtol=5e-15, atol=0)


def test_single_precision_is_as_good_as_it_can_be():
    z = torch.cat([torch.linspace(-85, 80, 20_001), torch.logspace(1, 38, 2_001)])
    expected = torch.as_tensor(scipy.special.wrightomega(z.double().numpy()))
    found = wright_omega(z)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=4e-7, atol=0)


def test_the_ends_of_the_range():
    z = torch.tensor([-torch.inf, -1e300, 1e300, torch.inf, torch.nan], dtype=DOUBLE)
    found = wright_omega(z)
    assert found[:4].tolist() == [0.0, 0.0, 1e300, torch.inf]
    assert found[4].isnan()
    z = torch.tensor([-1e300, -800.0, 0.0, 1e25, 1e300], dtype=DOUBLE)
    slope = torch.func.vmap(torch.func.grad(wright_omega))(z)
    assert slope[[0, 1, 3, 4]].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert wright_omega(1).dtype == torch.get_default_dtype()


@pytest.mark.parametrize("z", [-40.0, -3.0, 0.3, 1.0, 7.0, 1e4])
def test_derivatives_of_three_orders(z):
    w = reference(z)
    slopes = [w / (1 + w), w / (1 + w) ** 3, w * (1 - 2 * w) / (1 + w) ** 5]
    function = wright_omega
    for expected in slopes:
        function = torch.func.grad(function)
        found = function(torch.tensor(z, dtype=DOUBLE)).item()
        assert found == pytest.approx(float(expected), rel=1e-13)


def test_derivatives_agree_in_every_mode():
    z = torch.linspace(-4, 4, 5, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(wright_omega, z, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(wright_omega, z)
    second = torch.func.vmap(torch.func.grad(torch.func.grad(wright_omega)))
    at = z.detach()
    forward = torch.func.vmap(torch.func.jacfwd(torch.func.grad(wright_omega)))
    torch.testing.assert_close(forward(at), second(at))
    traced = make_fx(second)(at)
    torch.testing.assert_close(traced(at + 1), second(at + 1))
