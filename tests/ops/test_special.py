"""The binary divergence, its inverse and the moment of the kl bound."""

from __future__ import annotations

import math
from typing import Any, Literal

import mpmath
import pytest
import torch
from scipy import special, stats

from pyro_geo.errors import ConfigurationError
from pyro_geo.ops.special import binary_kl, kl_inverse, log_xi

Side = Literal["upper", "lower"]
SIDES: tuple[Side, ...] = ("upper", "lower")
Q = torch.tensor([0.0, 1e-12, 0.01, 0.3, 0.5, 0.9, 1 - 1e-9, 1.0], dtype=torch.float64)
C = torch.tensor([1e-12, 1e-6, 1e-3, 0.05, 0.7, 3.0, 40.0], dtype=torch.float64)


def exact(q: float, p: float) -> Any:
    with mpmath.workdps(50):
        a, b = mpmath.mpf(q), mpmath.mpf(p)
        total = mpmath.mpf(0)
        if a > 0:
            total += a * mpmath.log(a / b) if b > 0 else mpmath.inf
        if a < 1:
            ratio = (1 - a) / (1 - b) if b < 1 else mpmath.inf
            total += (1 - a) * mpmath.log(ratio)
        return total


def test_divergence_is_scipys() -> None:
    p = torch.linspace(0.01, 0.99, 23, dtype=torch.float64)
    for q in Q:
        a = float(q)
        both = special.rel_entr(a, p.numpy()) + special.rel_entr(1 - a, 1 - p.numpy())
        torch.testing.assert_close(binary_kl(q, p), torch.as_tensor(both))
    assert binary_kl(0.0, 1.0) == math.inf
    assert binary_kl(1.0, 0.0) == math.inf
    assert binary_kl(1.0, 1.0) == 0


@pytest.mark.parametrize("side", SIDES)
def test_inverse_is_rounded_outward(side: Side) -> None:
    p = kl_inverse(Q[:, None], C, side)
    for i, q in enumerate(Q.tolist()):
        for j, c in enumerate(C.tolist()):
            found = float(p[i, j])
            assert (found >= q) if side == "upper" else (found <= q)
            if found in (0.0, 1.0):
                continue
            divergence = exact(q, found)
            assert divergence >= mpmath.mpf(c)
            # no further than rounding of the divergence explains
            slope = abs(found - q) / (found * (1 - found))
            step = abs(math.nextafter(found, 2.0) - found)
            assert divergence - mpmath.mpf(c) < 1e-14 * (1 + c) + 4 * step * slope


def test_inverse_at_the_ends() -> None:
    torch.testing.assert_close(kl_inverse(0.0, C), -torch.expm1(-C))
    torch.testing.assert_close(
        kl_inverse(1.0, C, "lower"), torch.exp(-C), rtol=1e-14, atol=0
    )
    assert torch.equal(kl_inverse(Q, 0.0), Q)
    assert torch.equal(kl_inverse(Q, 0.0, "lower"), Q)
    assert (kl_inverse(1.0, C) == 1).all()
    assert (kl_inverse(0.0, C, "lower") == 0).all()


def test_clopper_pearson_of_no_mistakes_is_the_same_thing() -> None:
    # P(no mistake) = (1-p)^n = delta, which is kl(0|p) = log(1/delta)/n
    upper = stats.beta.ppf(0.95, 1, 50)
    assert float(kl_inverse(0.0, math.log(20) / 50)) == pytest.approx(upper)


@pytest.mark.parametrize("side", SIDES)
def test_gradients(side: Side) -> None:
    q = torch.tensor([0.02, 0.3, 0.7], dtype=torch.float64, requires_grad=True)
    c = torch.tensor([0.05, 0.2, 0.01], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: kl_inverse(a, b, side), (q, c))


def test_moment_of_the_kl_bound_is_the_same_for_every_chance() -> None:
    n = 30
    k = torch.arange(n + 1, dtype=torch.float64)
    for r in (0.05, 0.3, 0.5, 0.9):
        chances = torch.as_tensor(stats.binom.pmf(k.numpy(), n, r))
        moment = (chances * (n * binary_kl(k / n, r)).exp()).sum()
        assert math.log(float(moment)) == pytest.approx(log_xi(n), rel=1e-12)


def test_moment_is_below_its_bound() -> None:
    for n in (8, 100, 10_000, 100_000):
        assert math.log(math.sqrt(n)) <= log_xi(n) <= math.log(2 * math.sqrt(n))
    assert log_xi(100_001) == math.log(2 * math.sqrt(100_001))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((1.5, 0.1), "q"), ((0.5, -0.1), "c"), ((float("nan"), 0.1), "q")],
)
def test_out_of_range(arguments: tuple[float, float], named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"argument {named}"):
        kl_inverse(*arguments)


def test_no_such_side_and_no_examples() -> None:
    both: Any = "both"
    with pytest.raises(ConfigurationError, match="side"):
        kl_inverse(0.5, 0.1, both)
    with pytest.raises(ConfigurationError, match="argument n"):
        log_xi(0)
