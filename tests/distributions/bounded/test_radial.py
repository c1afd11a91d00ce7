"""Integrals over a radius against Kummer's function, chi-squared and Cauchy laws."""

import math
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_geo.distributions import Radial
from pyro_geo.distributions.bounded.normal import NormalRadial

DOUBLE = torch.float64


def double(value) -> Tensor:
    return torch.as_tensor(value, dtype=DOUBLE)


class PlainNormal(Radial):
    """A normal base of which nothing is known but its density."""

    def log_density(self, r2):
        return -0.5 * r2 - 0.5 * self.dim * math.log(2 * math.pi)


class Student(Radial):
    """A multivariate Student base, whose degrees of freedom are a parameter."""

    def __init__(self, dim: int, df: Tensor) -> None:
        super().__init__(dim)
        self.df = df

    def parameters(self):
        return (self.df,)

    def log_density(self, r2):
        top = 0.5 * (self.df + self.dim)
        front = torch.lgamma(top) - torch.lgamma(0.5 * self.df)
        front = front - 0.5 * self.dim * torch.log(self.df * math.pi)
        return front - top * torch.log1p(r2 / self.df)


def log_z(dim: int, radius: float, kappa: Any) -> Any:
    """Mean of the field under a normal base, in many digits."""
    half, y = mp.mpf(dim) / 2, mp.mpf(radius) ** 2 / 2
    kappa = mp.mpf(kappa)
    kummer = mp.hyp1f1(half, half + kappa + 1, -y)
    return mp.log(y**half / mp.gamma(half) * mp.beta(half, kappa + 1) * kummer)


RADII = [0.01, 0.7, 2.0, 6.0, 12.0]
FIELDS = [0.0, 0.3, 1.0, 2.5, 40.0]


@pytest.mark.parametrize("dim", [1, 2, 5, 30])
@pytest.mark.parametrize("kappa", FIELDS)
def test_normalisers_and_moments_are_those_of_kummers_function(dim, kappa):
    base = NormalRadial(dim)
    with mp.workdps(40):
        for radius in RADII:
            rho, half = double(radius), mp.mpf(dim) / 2
            expected = log_z(dim, radius, kappa)
            found = float(base.log_normalizer(rho, kappa))
            assert abs(found - expected) < 2e-13 * (1 + abs(expected))
            y = mp.mpf(radius) ** 2 / 2
            share = half / (half + kappa + 1)
            share *= mp.hyp1f1(half + 1, half + kappa + 2, -y)
            share /= mp.hyp1f1(half, half + kappa + 1, -y)
            found = float(base.second_moment(rho, kappa))
            assert abs(found / (share * radius**2) - 1) < 1e-12
            # the derivative of log Z in kappa is the mean log-field
            slope = mp.diff(
                lambda k, r=radius: log_z(dim, r, k), mp.mpf(kappa), h=1e-12
            )
            found = float(base.mean_log_field(rho, kappa))
            assert abs(found - slope) < 1e-9 * (1 + abs(slope))


@pytest.mark.parametrize("dim", [1, 3, 40, 1000])
def test_what_is_not_overridden_is_exact_too(dim):
    plain, normal = PlainNormal(dim), NormalRadial(dim)
    law = scipy.stats.chi2(dim)
    for radius in (0.1, 1.0, 6.0, math.sqrt(dim), math.sqrt(dim) + 4, 1e4):
        rho = double(radius)
        expected = law.logcdf(radius**2)
        if math.isfinite(expected):
            assert float(plain.log_mass(rho)) == pytest.approx(expected, abs=3e-12)
        expected = law.logsf(radius**2)
        if expected > -700:
            assert float(plain.log_tail(rho)) == pytest.approx(expected, abs=3e-12)
        first, second = plain.second_moment(rho), normal.second_moment(rho)
        torch.testing.assert_close(first, second, rtol=1e-11, atol=0)
        first, second = plain.mean_log_density(rho), normal.mean_log_density(rho)
        torch.testing.assert_close(first, second, rtol=1e-11, atol=0)


@pytest.mark.parametrize("radius", [1e-3, 1.0, 30.0, 1e6])
def test_a_cauchy_law_is_bounded_in_closed_form(radius):
    base, rho = Student(1, double(1.0)), double(radius)
    mass = 2 / math.pi * math.atan(radius)
    assert float(base.log_mass(rho)) == pytest.approx(math.log(mass), abs=1e-13)
    expected = math.log(2 / math.pi * math.atan(1 / radius))
    assert float(base.log_tail(rho)) == pytest.approx(expected, abs=1e-11)
    variance = radius / math.atan(radius) - 1
    assert float(base.second_moment(rho)) == pytest.approx(variance, rel=1e-9)
    p = torch.linspace(0.05, 0.95, 7, dtype=DOUBLE)
    found = base.quantile(torch.log(p), torch.log1p(-p), rho)
    expected = torch.tan(p * math.atan(radius))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)


@settings(max_examples=30)
@given(
    st.integers(1, 300),
    st.one_of(st.floats(1e-12, 0.5), st.floats(0.5, 1 - 1e-12)),
)
def test_the_radius_of_a_mass_has_that_mass(dim, mass):
    log_p, log_q = double(math.log(mass)), double(math.log1p(-mass))
    for base in (NormalRadial(dim), PlainNormal(dim)):
        radius = base.radius_of(log_p, log_q)
        torch.testing.assert_close(base.log_mass(radius), log_p, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(base.log_tail(radius), log_q, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 100])
def test_far_tails_are_inverted(dim):
    base = NormalRadial(dim)
    log_p = -torch.logspace(-1, 2.3, 12, dtype=DOUBLE)
    radius = base.radius_of(log_p, torch.log(-torch.expm1(log_p)))
    torch.testing.assert_close(base.log_mass(radius), log_p, rtol=1e-12, atol=0)
    log_q = -torch.logspace(-1, 2.8, 12, dtype=DOUBLE)
    radius = base.radius_of(torch.log(-torch.expm1(log_q)), log_q)
    torch.testing.assert_close(base.log_tail(radius), log_q, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dim", [1, 2, 4, 60])
@pytest.mark.parametrize("kappa", [0.0, 0.5, 3.0])
def test_quantiles_invert_the_shares(dim, kappa):
    p = torch.tensor([1e-6, 0.01, 0.3, 0.5, 0.8, 0.999, 1 - 1e-9], dtype=DOUBLE)
    for radius in (0.2, 3.0, 30.0):
        rho = double(radius)
        for base in (NormalRadial(dim), PlainNormal(dim)):
            r = base.quantile(torch.log(p), torch.log1p(-p), rho, kappa)
            inside, outside = base.shares(r, rho, kappa)
            torch.testing.assert_close(inside, p, rtol=1e-9, atol=1e-14)
            torch.testing.assert_close(outside, 1 - p, rtol=1e-6, atol=1e-14)
            drawn = base.draw(p, rho, kappa)
            torch.testing.assert_close(drawn, r, rtol=1e-9, atol=0)


def test_a_whole_batch_has_a_grid_for_each_entry():
    radius = double([[0.1, 3.0], [7.0, 1e4]])
    df = double([1.0, 8.0])
    base = Student(3, df)
    together = base.log_normalizer(radius, 0.5)
    u = double([0.2, 0.7, 0.9])[:, None, None].expand(3, 2, 2)
    drawn = base.draw(u, radius, 0.5)
    assert drawn.shape == (3, 2, 2)
    for i, j in np.ndindex(2, 2):
        one = Student(3, df[j])
        alone = one.log_normalizer(radius[i, j], 0.5)
        torch.testing.assert_close(together[i, j], alone, rtol=1e-13, atol=0)
        alone = one.draw(u[:, i, j], radius[i, j], 0.5)
        torch.testing.assert_close(drawn[:, i, j], alone, rtol=1e-12, atol=0)


def test_every_integral_has_first_and_second_derivatives():
    radius = double(1.7).requires_grad_()
    df = double(2.5).requires_grad_()
    u = double(0.6).requires_grad_()

    def integrals(radius, df):
        base = Student(3, df)
        return (
            base.log_mass(radius),
            base.log_tail(radius),
            base.log_normalizer(radius, 0.5),
            base.second_moment(radius, 0.5),
            base.mean_log_field(radius, 0.5),
            base.mean_log_density(radius),
            *base.shares(0.4 * radius, radius, 0.5),
        )

    def inverses(radius, df, u):
        log_p, log_q = torch.log(u), torch.log1p(-u)
        base = Student(3, df)
        return (
            base.radius_of(log_p, log_q),
            base.quantile(log_p, log_q, radius, 0.5),
        )

    assert torch.autograd.gradcheck(integrals, (radius, df))
    inputs = (radius, df, u)
    assert torch.autograd.gradcheck(inverses, inputs)
    assert torch.autograd.gradgradcheck(
        inverses, inputs, atol=1e-4, gen_non_contig_grad_outputs=False
    )


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_normal_quantiles_have_first_and_second_derivatives(dim):
    base = NormalRadial(dim)
    radius = double([0.4, 2.0]).requires_grad_()
    u = double([0.2, 0.97]).requires_grad_()

    def quantiles(u, radius):
        log_p, log_q = torch.log(u), torch.log1p(-u)
        return base.quantile(log_p, log_q, radius), base.radius_of(log_p, log_q)

    assert torch.autograd.gradcheck(quantiles, (u, radius))
    assert torch.autograd.gradgradcheck(quantiles, (u, radius), atol=1e-4)


@pytest.mark.parametrize("dim", [1, 3])
def test_a_vanishing_field_is_no_field(dim):
    base, rho = NormalRadial(dim), double([0.5, 2.0, 9.0])
    near, limit = base.log_normalizer(rho, 1e-9), base.log_mass(rho)
    torch.testing.assert_close(near, limit, rtol=0, atol=1e-7)
    near, limit = base.second_moment(rho, 1e-9), base.second_moment(rho)
    torch.testing.assert_close(near, limit, rtol=1e-7, atol=0)


def test_a_strong_field_is_an_exponential_tilt():
    # (1 - r^2 / rho^2)^kappa -> exp(-r^2 / 2) where rho^2 = 2 kappa
    kappa = 1e6
    found = NormalRadial(3).log_normalizer(double(math.sqrt(2 * kappa)), kappa)
    assert float(found) == pytest.approx(-1.5 * math.log(2), abs=1e-5)
