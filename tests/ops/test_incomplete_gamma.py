"""Logarithms of the incomplete gammas against the power series in many digits."""

import math

import mpmath as mp
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo._compat.torch import trace_graph
from pyro_geo.ops.special import log_gammainc, log_gammaincc

DOUBLE = torch.float64
TINY = mp.mpf(10) ** -280  # below, a double has fewer digits


def reference(a: float, x: float) -> tuple[list, list]:
    """Value, slope in `a` and slope in `x` of `log P`, and of `log Q`.

    The series of the lower function and its derivative, term by term, with as many
    digits as the smaller of the two tails needs.
    """
    # a tail below 1e-300 counts as none
    with mp.workdps(40 + min(300, int(abs(x - a)))):
        a, x = mp.mpf(a), mp.mpf(x)
        term, slope = mp.mpf(1), mp.mpf(0)
        total, total_slope, n = mp.mpf(1), mp.mpf(0), 0
        while n <= x - a or term > total * mp.eps:
            n += 1
            slope = (slope - term / (a + n)) * x / (a + n)
            term = term * x / (a + n)
            total, total_slope = total + term, total_slope + slope
        front = a * mp.log(x) - x - mp.loggamma(a + 1)
        p = mp.exp(front) * total
        in_a = p * (mp.log(x) - mp.digamma(a + 1) + total_slope / total)
        in_x = mp.exp(front) * a / x
        q = 1 - p
        return [mp.log(p), in_a / p, in_x / p], [mp.log(q), -in_a / q, -in_x / q]


def ours(function, a, x):
    pair = [torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (a, x)]
    value = function(*pair)
    slopes = torch.autograd.grad(value, pair)
    return [float(value.detach()), *(float(slope) for slope in slopes)]


def worst(found, expected):
    """Largest relative error, of what a double can hold."""
    pairs = zip(found, expected, strict=True)
    errors = [float(abs(f - e) / abs(e)) for f, e in pairs if abs(e) > TINY]
    return max(errors, default=0.0)


SHARES = [1e-6, 1e-3, 0.1, 0.5, 0.8, 0.95, 1.0, 1.02, 1.1, 1.4, 2.0, 4.0, 20.0]


@pytest.mark.parametrize("a", [0.5, 1.0, 2.5, 9.0, 10.5, 50.0, 120.0, 300.0])
def test_values_and_gradients_have_all_their_digits_up_to_300(a):
    for share in SHARES:
        if (share - 1) * a < 900:  # beyond, Q is below the smallest double
            lower, upper = reference(a, share * a)
            assert worst(ours(log_gammainc, a, share * a), lower) < 1e-13, share
            # where Q is near 1, what it lacks is a tail of up to 280 digits
            assert worst(ours(log_gammaincc, a, share * a), upper) < 5e-13, share


@pytest.mark.parametrize("a", [1000.0, 5000.0])
def test_values_and_gradients_keep_11_digits_up_to_5000(a):
    for share in [1e-6, 0.3, 0.8, 0.95, 0.999, 1.001, 1.05, 1.1]:
        lower, upper = reference(a, share * a)
        assert worst(ours(log_gammainc, a, share * a), lower) < 1e-12, share
        assert worst(ours(log_gammaincc, a, share * a), upper) < 1e-12, share


def test_second_derivatives_are_those_of_the_density():
    a = torch.tensor([0.5, 2.5, 40.0, 300.0, 700.0], dtype=DOUBLE).requires_grad_()
    x = torch.tensor([0.1, 9.0, 35.0, 320.0, 400.0], dtype=DOUBLE).requires_grad_()
    value = log_gammainc(a, x)
    in_a, in_x = torch.autograd.grad(value.sum(), (a, x), create_graph=True)
    mixed, twice = torch.autograd.grad(in_x.sum(), (a, x), retain_graph=True)
    # with g = p / P: g' = g ((a - 1) / x - 1 - g), and dg/da = g (log x - psi(a) - l_a)
    expected = in_x * ((a - 1) / x - 1 - in_x)
    torch.testing.assert_close(twice, expected, rtol=1e-10, atol=0)
    expected = in_x * (torch.log(x) - torch.digamma(a) - in_a)
    torch.testing.assert_close(mixed, expected, rtol=1e-9, atol=0)
    assert torch.autograd.gradgradcheck(log_gammainc, (a[:4], x[:4]))


def test_it_maps_traces_and_has_forward_derivatives():
    a = torch.tensor([0.5, 3.0, 80.0], dtype=DOUBLE)
    x = torch.tensor([2.0, 1.0, 90.0], dtype=DOUBLE)
    one = torch.func.grad_and_value(log_gammainc, argnums=(0, 1))
    mapped = torch.vmap(one)
    (in_a, in_x), value = mapped(a, x)
    torch.testing.assert_close(value, log_gammainc(a, x), rtol=1e-15, atol=0)
    for index in range(3):
        (slope, _), _ = one(a[index], x[index])
        torch.testing.assert_close(in_a[index], slope, rtol=1e-14, atol=0)
    graph = trace_graph(mapped, a, x)
    other = a + 1, x * 1.5  # the number of terms does not depend on the values
    for found, expected in zip(graph(*other)[0], mapped(*other)[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    ones = torch.ones_like(x)
    forward = torch.func.jvp(lambda x: log_gammainc(a, x), (x,), (ones,))[1]
    torch.testing.assert_close(forward, in_x, rtol=1e-13, atol=0)


def test_single_precision_is_double_rounded_once():
    a, x = torch.tensor([0.5, 50.0, 500.0]), torch.tensor([3.0, 1.0, 10.0])
    found = log_gammainc(a, x)
    assert found.dtype == torch.float32
    assert torch.equal(found, log_gammainc(a.double(), x.double()).float())
    assert log_gammainc(0.5, x.double()).dtype == DOUBLE


@pytest.mark.parametrize(
    ("a", "x", "log_p", "log_q"),
    [
        (2.0, 0.0, -math.inf, 0.0),
        (2.0, math.inf, 0.0, -math.inf),
        (2.0, -1.0, math.nan, math.nan),
        (0.0, 1.0, math.nan, math.nan),
        (-1.0, 1.0, math.nan, math.nan),
        (math.nan, 1.0, math.nan, math.nan),
        (1.0, math.nan, math.nan, math.nan),
        (1.0, 2000.0, 0.0, -2000.0),
    ],
)
def test_edges_of_the_domain(a, x, log_p, log_q):
    a, x = (torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (a, x))
    for function, expected in ((log_gammainc, log_p), (log_gammaincc, log_q)):
        value = function(a, x)
        found = float(value.detach())
        assert found == pytest.approx(expected, rel=1e-15, nan_ok=True)
        # what is out of range in one entry spoils no other
        both = torch.stack([value, function(a.detach() * 0 + 2, x.detach() * 0 + 3)])
        assert math.isfinite(torch.autograd.grad(both[1:].sum() + 0 * a, a)[0])


@given(st.floats(0.5, 4000.0), st.floats(-8.0, 8.0))
def test_neighbouring_shapes_differ_by_a_density(a, deviation):
    x = max(a + deviation * math.sqrt(a), 1e-3 * a)
    shape = torch.tensor([a, a + 1], dtype=DOUBLE)
    log_p, log_q = log_gammainc(shape, x), log_gammaincc(shape, x)
    # P(a) = P(a + 1) + f and Q(a + 1) = Q(a) + f, with f = x^a exp(-x) / Gamma(a + 1)
    log_f = torch.tensor(a * math.log(x) - x - math.lgamma(a + 1), dtype=DOUBLE)
    assert float(torch.logaddexp(log_p[1], log_f) - log_p[0]) == pytest.approx(
        0, abs=1e-10
    )
    assert float(torch.logaddexp(log_q[0], log_f) - log_q[1]) == pytest.approx(
        0, abs=1e-10
    )
    assert float(log_p.exp().sum() + log_q.exp().sum()) == pytest.approx(2, abs=1e-13)
