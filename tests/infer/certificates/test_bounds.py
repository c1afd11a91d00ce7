"""Bounds: their moments by exact summation, their order, their limits."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats

from pyro_geo.errors import BetaRangeError, ConfigurationError
from pyro_geo.infer.certificates import bounds

N, DELTA = 40, 0.05
CHANCES = (0.02, 0.2, 0.5, 0.9)


def binomial(n: int, r: float) -> tuple[torch.Tensor, torch.Tensor]:
    k = torch.arange(n + 1, dtype=torch.float64)
    return k / n, torch.as_tensor(stats.binom.pmf(k.numpy(), n, r))


@pytest.mark.parametrize("r", CHANCES)
@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_catoni_inverts_a_moment_of_one(r: float, beta: float) -> None:
    mean, chance = binomial(N, r)
    phi = -math.log(1 - r * (1 - math.exp(-beta)))
    exponent = N * (phi - beta * mean)
    assert float((chance * exponent.exp()).sum()) == pytest.approx(1.0, rel=1e-12)
    # where the exponent is at its limit, the bound is the true risk
    k = exponent + math.log(DELTA)
    value = bounds.catoni(mean, k.clamp(min=math.log(DELTA)), N, DELTA, beta=beta)
    inside = exponent > 0
    torch.testing.assert_close(value[inside], torch.full_like(mean, r)[inside])


@pytest.mark.parametrize("r", CHANCES)
def test_each_bound_of_a_bounded_loss_has_a_moment_of_at_most_one(r: float) -> None:
    # for one hypothesis the bound says: its exponent's exponential has mean <= 1
    mean, chance = binomial(N, r)
    for beta in (0.1, 0.5, 0.9):
        exponents = {
            "subgaussian": beta * N * (r - mean - beta / 8),
            "second_moment": beta * N * (r - mean - beta * r / 2),
            "bernstein": beta
            * N
            * (r - mean - mean * (-math.log(1 - beta) - beta) / beta),
        }
        for name, exponent in exponents.items():
            assert float((chance * exponent.exp()).sum()) <= 1 + 1e-12, name


@pytest.mark.parametrize("omega", [0.2, 1.0, 1.9])
def test_squared_excess_has_a_moment_of_at_most_one(omega: float) -> None:
    noise, bound = 0.5, 1.0
    c = omega * (1 - 2 * omega * noise**2)
    kappa = (1 - math.exp(-4 * c * bound**2)) / (4 * bound**2)
    for gap in (0.0, 0.3, 1.0, 2.0):  # prediction minus truth, at every point
        # E exp(-omega (gap^2 - 2 gap e)) over the noise, by quadrature
        moment, _ = integrate.quad(
            lambda e, g=gap: math.exp(
                -omega * (g**2 - 2 * g * e) - 0.5 * (e / noise) ** 2
            ),
            -9,
            9,
        )
        moment /= noise * math.sqrt(2 * math.pi)
        assert moment <= math.exp(-kappa * gap**2) + 1e-9


def test_relaxations_are_never_below_what_they_relax() -> None:
    r = torch.linspace(0, 0.9, 10, dtype=torch.float64)[:, None]
    k = torch.tensor([0.0, 1.0, 10.0, 100.0], dtype=torch.float64)
    tight = bounds.seeger(r, k, 300, DELTA)
    for value in (
        bounds.mcallester(r, k, 300, DELTA),
        bounds.quadratic(r, k, 300, DELTA),
        *[bounds.thiemann(r, k, 300, DELTA, lam=lam) for lam in (0.2, 1.0, 1.8)],
    ):
        assert (value.clamp(max=1.0) >= tight - 1e-12).all()


def test_bounds_are_monotone() -> None:
    k = torch.linspace(-5, 50, 12, dtype=torch.float64)
    value = bounds.seeger(0.1, k, 200, DELTA)
    assert (value.diff() >= 0).all()
    assert (value[k < math.log(DELTA)].diff() == 0).all()  # the radius stops at 0
    sizes = [float(bounds.seeger(0.1, 5.0, n, DELTA)) for n in (50, 200, 1000, 10**6)]
    assert sizes == sorted(sizes, reverse=True)
    sure = [float(bounds.seeger(0.1, 5.0, 200, d)) for d in (0.2, 0.05, 0.001)]
    assert sure == sorted(sure)


def test_catoni_at_small_beta_is_the_linear_bound() -> None:
    value = bounds.catoni(0.1, 2.0, 100, DELTA, beta=1e-7)
    share = (2.0 + math.log(20)) / 100
    assert float(value) == pytest.approx(0.1 + share / 1e-7)
    near = bounds.catoni(0.1, 2.0, 10**9, DELTA, beta=torch.tensor([0.9e-6, 1.1e-6]))
    assert float(near[0]) == pytest.approx(float(near[1]), rel=0.02)


def test_gradients() -> None:
    r = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    k = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    for fn in (
        lambda a, b: bounds.seeger(a, b, 200, DELTA),
        lambda a, b: bounds.quadratic(a, b, 200, DELTA),
        lambda a, b: bounds.catoni(a, b, 200, DELTA, beta=1.5),
    ):
        assert torch.autograd.gradcheck(fn, (r, k))


def test_clopper_pearson_covers_exactly() -> None:
    n, r = 30, 0.13
    mean, chance = binomial(n, r)
    limits = [bounds.clopper_pearson(round(float(m * n)), n, DELTA) for m in mean]
    missed = float(chance[torch.tensor(limits) < r].sum())
    assert missed <= DELTA
    assert limits[-1] == 1.0


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: bounds.catoni(0.1, 1.0, 9, DELTA, beta=0.0), "beta"),
        (lambda: bounds.thiemann(0.1, 1.0, 9, DELTA, lam=2.0), "lam"),
        (
            lambda: bounds.subgamma(
                0.1, 1.0, 9, DELTA, beta=1.0, variance=1.0, scale=1.0
            ),
            "beta",
        ),
        (
            lambda: bounds.unexpected_bernstein(
                0.1, 1.0, 9, DELTA, eta=1.0, square=0.1, upper=1.0
            ),
            "eta",
        ),
        (
            lambda: bounds.squared_excess(
                0.1, 1.0, 9, DELTA, omega=2.0, limit=1.0, noise=0.5, best=0.2
            ),
            "omega",
        ),
    ],
)
def test_free_numbers_out_of_range(call, named: str) -> None:
    with pytest.raises(BetaRangeError, match=f"argument {named}"):
        call()


def test_no_probability_and_no_counts() -> None:
    with pytest.raises(ConfigurationError, match="delta"):
        bounds.seeger(0.1, 1.0, 9, 1.0)
    with pytest.raises(ConfigurationError, match="mistakes"):
        bounds.clopper_pearson(5, 4, DELTA)
