"""Second derivatives of smooth functions far out, where terms of them underflow."""

import math

import pytest
import torch
from torch.nn import functional

from pyro_geo import Target

ZERO = torch.zeros((), dtype=torch.float64)


def curvature(fn, x):
    target = Target.from_potential(
        lambda q: fn(q[0]), 1, dtype=torch.float64, compile=False
    )
    q = torch.tensor([[x]], dtype=torch.float64)
    return -float(target.hvp(q, torch.ones_like(q)))


def bump(x):
    """Second derivative of log(1 + exp(x))."""
    return 1 / (2 + 2 * math.cosh(x)) if abs(x) < 700 else 0.0


@pytest.mark.parametrize("x", [-1e5, -800.0, -30.0, -1.0, 0.0, 2.0, 30.0, 800.0, 1e5])
@pytest.mark.parametrize(
    ("fn", "exact"),
    [
        (lambda x: torch.logaddexp(x, ZERO), bump),
        (lambda x: ZERO.logaddexp(x), bump),
        (lambda x: torch.stack([x, ZERO]).logsumexp(0), bump),
        (functional.softplus, bump),
        (
            lambda x: torch.logaddexp2(x, ZERO),
            lambda x: math.log(2) * bump(x * math.log(2)),
        ),
        (lambda x: torch.logaddexp(x, -x), lambda x: 4 * bump(2 * x)),
    ],
)
def test_a_sum_of_exponentials_is_curved_as_its_logistic(fn, exact, x):
    # softplus of torch is linear from 20 on, 2e-9 from the truth
    assert curvature(fn, x) == pytest.approx(exact(x), rel=1e-9, abs=3e-9)


@pytest.mark.parametrize("x", [-1e4, -800.0, 800.0, 1e4])
def test_mish_is_linear_far_out(x):
    assert curvature(functional.mish, x) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (-math.inf, -math.inf, -math.inf),
        (-math.inf, 1.0, 1.0),
        (2.0, -math.inf, 2.0),
        (math.inf, math.inf, math.inf),
        (math.inf, 0.0, math.inf),
        (700.0, -700.0, 700.0),
        (-1e300, 3.0, 3.0),
    ],
)
def test_values_at_infinity_are_those_of_torch(a, b, expected):
    fixed = torch.tensor([a, b], dtype=torch.float64)
    target = Target.from_potential(
        lambda q, pair: q[0] + torch.logaddexp(*pair.unbind()),
        1,
        fixed,
        dtype=torch.float64,
        compile=False,
    )
    assert float(torch.logaddexp(*fixed)) == expected
    q = torch.zeros(1, 1, dtype=torch.float64)
    assert -float(target.log_prob(q)) == expected


def test_the_hessian_of_modes_far_apart_is_that_of_each():
    def potential(q):
        wide = -0.5 * (q - 4).square().sum()
        narrow = -0.5 * ((q + 4) / 0.1).square().sum() - 3 * math.log(0.1)
        return -torch.logaddexp(wide, narrow)

    target = Target.from_potential(potential, 3, dtype=torch.float64, compile=False)
    q = torch.tensor([[4.0] * 3, [-4.0] * 3], dtype=torch.float64)
    v = torch.ones_like(q)
    exact = -torch.tensor([[1.0], [100.0]], dtype=torch.float64) * v
    torch.testing.assert_close(target.hvp(q, v), exact)
