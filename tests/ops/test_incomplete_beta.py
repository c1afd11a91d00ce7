"""Log-tails of beta distributions against mpmath and finite differences."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from pyro_geo.ops.special import log_beta_tails

DOUBLE = torch.float64


def exact(a: float, b: float, y: float) -> tuple[float, float]:
    with mpmath.workdps(60):
        x = 1 / (1 + mpmath.exp(-mpmath.mpf(y)))
        rest = 1 / (1 + mpmath.exp(mpmath.mpf(y)))
        lower = mpmath.betainc(a, b, 0, x, regularized=True)
        upper = mpmath.betainc(b, a, 0, rest, regularized=True)
        return float(mpmath.log(lower)), float(mpmath.log(upper))


@pytest.mark.parametrize("a", [0.1, 0.5, 1.0, 3.3, 50.0])
@pytest.mark.parametrize("b", [0.1, 1.0, 2.5, 30.0])
def test_both_tails_are_exact(a: float, b: float) -> None:
    middle, width = math.log(a / b), math.sqrt(1 / a + 1 / b)
    logits = [middle + k * min(width, 6.0) for k in (-6, -2, -0.3, 0, 0.5, 3, 6)]
    kind: Any = {"dtype": DOUBLE}
    found = log_beta_tails(
        torch.tensor(a, **kind), torch.tensor(b, **kind), torch.tensor(logits, **kind)
    )
    expected = torch.tensor([exact(a, b, y) for y in logits], **kind).T
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=3e-12, atol=1e-50)


def test_edges_types_and_derivatives() -> None:
    two = torch.tensor(2.0, dtype=DOUBLE)
    ends = torch.tensor([-math.inf, math.inf], dtype=DOUBLE)
    lower, upper = log_beta_tails(two, two, ends)
    assert (lower.tolist(), upper.tolist()) == ([-math.inf, 0.0], [0.0, -math.inf])
    single = log_beta_tails(
        torch.tensor(2.0), torch.tensor([1.0, 3.0]), torch.tensor(1.0)
    )
    assert all(x.dtype == torch.float32 for x in single)
    inputs = [torch.tensor(x, dtype=DOUBLE).requires_grad_() for x in (2.3, 0.7, 0.4)]
    assert torch.autograd.gradcheck(log_beta_tails, inputs)
    assert torch.autograd.gradgradcheck(log_beta_tails, inputs)

    def lower_tail(y: Tensor) -> Tensor:
        return log_beta_tails(two, two, y)[0]

    y = torch.tensor([-1.0, 2.0], dtype=DOUBLE)
    mapped = torch.func.vmap(torch.func.grad(lower_tail))(y)
    # the density over the distribution function
    x = torch.sigmoid(y)
    density = 6 * x**2 * (1 - x) ** 2
    torch.testing.assert_close(mapped, density / (3 * x**2 - 2 * x**3))
