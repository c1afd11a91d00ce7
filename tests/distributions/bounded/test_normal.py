"""Bounded normals against scipy, quadrature and their own samples."""

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pyro_geo.distributions import BoundedMultivariateNormal, BoundedNormal

DOUBLE = torch.float64
FALSE_ALARM = 1e-6  # chance that a right sampler fails one of the tests below


def double(value) -> Tensor:
    return torch.as_tensor(value, dtype=DOUBLE)


LOC = double([1.0, -2.0, 0.5])
TRIL = double([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [-0.3, 0.4, 0.7]])


def ball(**size: Any) -> BoundedMultivariateNormal:
    return BoundedMultivariateNormal(LOC, TRIL, **size)


@pytest.mark.parametrize("radius", [0.05, 1.0, 2.5, 8.0])
def test_one_dimension_is_the_truncated_normal_of_scipy(radius):
    law: Any = scipy.stats.truncnorm(-radius, radius, 1.0, 2.0)
    ours = BoundedNormal(double(1.0), 2.0, radius=radius)
    x = double(1.0 + 2.0 * radius * np.linspace(-0.999, 0.999, 41))
    share = double(np.linspace(0.001, 0.999, 21))
    for found, expected in (
        (ours.log_prob(x), law.logpdf(x)),
        (ours.cdf(x), law.cdf(x)),
        (ours.icdf(share), law.ppf(share)),
        (ours.mean, law.mean()),
        (ours.variance, law.var()),
        (ours.entropy(), law.entropy()),
        (ours.log_mass, math.log(scipy.stats.chi2.cdf(radius**2, 1))),
    ):
        torch.testing.assert_close(found, double(expected), rtol=1e-9, atol=1e-11)
    ends = ours.icdf(double([0.0, 1.0]))
    torch.testing.assert_close(ends, double([1 - 2 * radius, 1 + 2 * radius]))
    assert torch.isnan(ours.icdf(double([-0.1, 1.1]))).all()
    outside = double([1 - 2.001 * radius, 1 + 2.001 * radius, 1e300])
    assert ours.log_prob(outside).tolist() == [-math.inf] * 3
    assert ours.cdf(outside).tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("kappa", [0.3, 1.0, 4.0])
def test_one_dimension_with_a_field_has_the_moments_of_quadrature(kappa):
    ours = BoundedNormal(double(1.0), 0.5, radius=2.0, kappa=kappa)

    def density(x):
        return math.exp(float(ours.log_prob(double(x))))

    def mean(f):
        options = {"epsabs": 1e-13, "limit": 200}
        return scipy.integrate.quad(lambda x: f(x) * density(x), 0, 2, **options)[0]

    assert mean(lambda x: 1.0) == pytest.approx(1.0, abs=1e-9)
    variance = mean(lambda x: (x - 1) ** 2)
    assert float(ours.variance) == pytest.approx(variance, abs=1e-9)
    entropy = mean(lambda x: -math.log(max(density(x), 1e-300)))
    assert float(ours.entropy()) == pytest.approx(entropy, abs=1e-8)
    base = Normal(double(1.0), 0.5)
    other = Normal(double(0.7), 0.9)
    for q in (base, other):
        expected = mean(lambda x, q=q: -float(q.log_prob(double(x)))) - entropy
        assert float(kl_divergence(ours, q)) == pytest.approx(expected, abs=1e-8)
    assert float(ours.kl_to_base()) == pytest.approx(
        float(kl_divergence(ours, base)), abs=1e-13
    )
    below = scipy.integrate.quad(density, 0, 1.3)[0]
    assert float(ours.cdf(double(1.3))) == pytest.approx(below, abs=1e-9)


@pytest.mark.parametrize("radius", [0.1, 1.0, 2.5, 6.0])
def test_many_dimensions_are_a_normal_over_its_mass(radius):
    ours, base = ball(radius=radius), MultivariateNormal(LOC, scale_tril=TRIL)
    log_mass = scipy.stats.chi2(3).logcdf(radius**2)
    assert float(ours.log_mass) == pytest.approx(log_mass, rel=1e-12)
    inside = base.loc + radius * 0.5 * torch.randn(20, 3, dtype=DOUBLE) @ TRIL.mT
    r = torch.linalg.solve_triangular(TRIL, (inside - LOC).mT, upper=False).norm(dim=0)
    expected = torch.where(r <= radius, base.log_prob(inside) - log_mass, -math.inf)
    torch.testing.assert_close(ours.log_prob(inside), expected, rtol=1e-11, atol=1e-11)
    factor = scipy.stats.chi2(5).cdf(radius**2) / scipy.stats.chi2(3).cdf(radius**2)
    torch.testing.assert_close(ours.covariance_matrix, factor * TRIL @ TRIL.mT)
    diagonal = ours.covariance_matrix.diagonal()
    torch.testing.assert_close(ours.variance, diagonal)
    assert torch.equal(ours.mean, LOC)
    # -E log p, term by term
    entropy = 1.5 * math.log(2 * math.pi) + 1.5 * factor + log_mass
    entropy += float(TRIL.diagonal().log().sum())
    assert float(ours.entropy()) == pytest.approx(entropy, rel=1e-12)


@pytest.mark.parametrize("size", [{"mass": 0.9}, {"radius": 0.3}, {"nats": 20.0}])
def test_divergence_from_the_base_is_minus_the_log_mass(size):
    ours, base = ball(**size), MultivariateNormal(LOC, scale_tril=TRIL)
    torch.testing.assert_close(
        kl_divergence(ours, base), -ours.log_mass, rtol=1e-13, atol=1e-14
    )
    assert torch.equal(ours.kl_to_base(), -ours.log_mass)
    flat = BoundedNormal(double([0.0, 3.0]), 2.0, **size)
    one = kl_divergence(flat, Normal(double([0.0, 3.0]), 2.0))
    assert torch.equal(one, -flat.log_mass)
    # Pyro's `to_event` on both sides
    both = kl_divergence(flat.to_event(1), dist.Normal(flat.loc, 2.0).to_event(1))
    torch.testing.assert_close(both, one.sum())


@pytest.mark.slow
def test_divergence_from_another_normal_is_that_of_its_samples():
    torch.manual_seed(0)
    ours = ball(mass=0.8, kappa=0.5)
    other = MultivariateNormal(LOC + 0.3, covariance_matrix=2 * torch.eye(3).double())
    x = ours.sample((200_000,))
    ratio = ours.log_prob(x) - other.log_prob(x)
    error = ratio.std() / len(x) ** 0.5
    gap = (ratio.mean() - kl_divergence(ours, other)).abs()
    assert gap < scipy.stats.norm.isf(FALSE_ALARM / 2) * error


def test_all_ways_to_give_a_size_agree():
    mass = 1 - math.exp(-2.0)
    radius = scipy.stats.chi2(3).ppf(mass) ** 0.5
    balls = [
        ball(mass=mass),
        ball(radius=radius),
        ball(nats=radius**2 / 2),
        ball(nats=2.0, separation="tail"),
        ball(mass=double(mass)),
        ball(radius=double(radius)),
        ball(nats=double(radius**2 / 2)),
        ball(nats=double(2.0), separation="tail"),
    ]
    for one in balls:
        assert float(one.radius) == pytest.approx(radius, rel=1e-12)
        assert float(one.log_mass) == pytest.approx(math.log(mass), rel=1e-11)


def test_a_ball_of_fixed_nats_loses_all_mass_as_dimensions_grow():
    for d, mass in ((1, 0.998), (2, 0.993), (4, 0.960), (10, 0.560), (20, 0.032)):
        one = BoundedMultivariateNormal(torch.zeros(d), torch.eye(d), nats=5.0)
        assert float(one.log_mass.exp()) == pytest.approx(mass, abs=5e-4)
    one = BoundedMultivariateNormal(torch.zeros(100), torch.eye(100), nats=5.0)
    assert float(one.log_mass) == pytest.approx(math.log(2e-32), abs=0.2)


def test_a_large_ball_is_its_base():
    ours, base = ball(radius=40.0), MultivariateNormal(LOC, scale_tril=TRIL)
    x = base.sample((50,))
    torch.testing.assert_close(ours.log_prob(x), base.log_prob(x), rtol=1e-14, atol=0)
    torch.testing.assert_close(ours.covariance_matrix, base.covariance_matrix)
    torch.testing.assert_close(ours.entropy(), base.entropy())
    # the same whatever the field, whose power falls with the squared radius
    wide = ball(radius=1e8, kappa=2.0)
    torch.testing.assert_close(wide.log_prob(x), base.log_prob(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(wide.variance, base.variance, rtol=1e-12, atol=0)


def test_tails_of_every_law_hold_the_same_mass_but_densities_do_not():
    # By tail nats the normal and its image under exp have the same set. By surprisal
    # they have not: the density of the log-normal brings the Jacobian in.
    normal = BoundedNormal(double(0.0), 1.0, nats=2.0)
    ends = normal.icdf(double([0.0, 1.0]))
    torch.testing.assert_close(ends, double([-2.0, 2.0]))  # surprisal of two nats

    def surprisal(z):  # of exp(z) under the log-normal, whose mode is at z = -1
        return 0.5 * (z + 1) ** 2

    torch.testing.assert_close(surprisal(double([-3.0, 1.0])), double([2.0, 2.0]))
    tail = BoundedNormal(double(0.0), 1.0, nats=2.0, separation="tail")
    law, z = scipy.stats.lognorm(1.0), tail.icdf(double([0.0, 1.0]))
    below = law.cdf(np.exp(z.numpy()))
    np.testing.assert_allclose(-np.log(2 * np.minimum(below, 1 - below)), 2.0)


@pytest.mark.parametrize("dim", [1, 2, 5, 40])
@pytest.mark.parametrize("size", [{"mass": 0.7}, {"radius": 0.2}])
@pytest.mark.parametrize("kappa", [0.0, 1.5])
def test_samples_follow_the_law(dim, size, kappa):
    torch.manual_seed(dim)
    loc = torch.zeros(dim, dtype=DOUBLE)
    ours = BoundedMultivariateNormal(
        loc, torch.eye(dim, dtype=DOUBLE), kappa=kappa, **size
    )
    x = ours.sample((1500,))
    r = x.norm(dim=-1)
    assert bool((r <= ours.radius * (1 + 1e-12)).all())
    share = ours.radial.shares(r, ours.radius, kappa)[0].numpy()
    assert scipy.stats.kstest(share, "uniform").pvalue > FALSE_ALARM
    # the direction is uniform: a coordinate of it has a beta law
    along = (0.5 + 0.5 * x[:, 0] / r).numpy()
    half = (dim - 1) / 2
    if dim > 1:
        law = scipy.stats.beta(half, half)
        assert scipy.stats.kstest(along, law.cdf).pvalue > FALSE_ALARM
    else:
        sides = int((x > 0).sum())
        assert scipy.stats.binomtest(sides, 1500).pvalue > FALSE_ALARM


@pytest.mark.parametrize("kappa", [0.0, 0.5])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_samples_move_with_every_parameter(dim, kappa):
    parameters = [
        torch.randn(dim, dtype=DOUBLE),
        torch.eye(dim, dtype=DOUBLE) + 0.3 * torch.ones(dim, dim).tril().double(),
        double(1.3),
    ]

    def draws(loc, tril, radius):
        torch.manual_seed(3)  # common random numbers
        return BoundedMultivariateNormal(
            loc, tril, radius=radius, kappa=kappa, validate_args=False
        ).rsample((4,))

    inputs = [p.requires_grad_() for p in parameters]
    assert torch.autograd.gradcheck(draws, inputs, atol=1e-6)

    def numbers(loc, scale, mass):
        torch.manual_seed(3)
        return BoundedNormal(loc, scale, mass=mass, kappa=kappa).rsample((4,))

    inputs = [double(v).requires_grad_() for v in (0.3, 1.2, 0.8)]
    assert torch.autograd.gradcheck(numbers, inputs, atol=1e-6)


@pytest.mark.parametrize("size", ["radius", "nats", "mass"])
def test_log_density_entropy_and_moments_have_gradients_to_the_size(size):
    value = double([0.6, 0.9]).requires_grad_()
    x = LOC + 0.1

    def statistics(value):
        given: Any = {size: value}
        one, hard = ball(**given, kappa=0.5), ball(**given)
        return (
            one.log_prob(x),
            hard.log_prob(x),
            one.entropy(),
            hard.variance,
            hard.kl_to_base(),
        )

    assert torch.autograd.gradcheck(statistics, (value,))


def test_gradients_are_finite_inside_where_others_are_outside():
    x = torch.stack([LOC, LOC + 100.0, LOC + 0.1]).requires_grad_()
    tril = TRIL.clone().requires_grad_()
    radius = double(1.0).requires_grad_()
    ours = BoundedMultivariateNormal(LOC, tril, radius=radius, kappa=0.5)
    value = ours.log_prob(x)
    assert value.isinf().tolist() == [False, True, False]
    for grad in torch.autograd.grad(value[::2].sum(), (x, tril, radius)):
        assert bool(grad.isfinite().all())


def test_what_is_no_number_has_no_density():
    x = torch.stack([LOC, LOC * math.nan])
    assert ball(mass=0.9).log_prob(x).isnan().tolist() == [False, True]


@pytest.mark.parametrize("name", ["covariance_matrix", "precision_matrix"])
def test_a_scale_matrix_may_be_given_in_other_ways(name):
    matrix = TRIL @ TRIL.mT
    given: Any = {"covariance_matrix": matrix, "precision_matrix": matrix.inverse()}
    ours = BoundedMultivariateNormal(LOC, mass=0.9, **{name: given[name]})
    torch.testing.assert_close(ours.scale_tril, TRIL)


def test_batches_expand_and_broadcast():
    radius = double([[0.5], [2.0]])
    ours = BoundedMultivariateNormal(LOC.expand(4, 3), TRIL, radius=radius)
    assert ours.batch_shape == (2, 4)
    assert ours.event_shape == (3,)
    assert ours.rsample((5,)).shape == (5, 2, 4, 3)
    wide = ours.expand((7, 2, 4))
    assert wide.batch_shape == (7, 2, 4)
    x = ours.rsample()
    torch.testing.assert_close(wide.log_prob(x)[3], ours.log_prob(x))
    for index in np.ndindex(2, 4):
        one = ball(radius=radius[index[0], 0])
        torch.testing.assert_close(ours.log_prob(x)[index], one.log_prob(x[index]))
        torch.testing.assert_close(ours.entropy()[index], one.entropy())
        torch.testing.assert_close(ours.variance[index], one.variance)
    factors = torch.stack([TRIL, 2 * TRIL])
    many = BoundedMultivariateNormal(LOC, factors, mass=0.5)
    torch.manual_seed(0)
    x = many.rsample((9,))
    assert bool(many.support.check(x).all())
    torch.testing.assert_close(many.variance[1], 4 * many.variance[0])


def test_single_precision_equals_double():
    for kappa in (0.0, 1.0):
        sizes: Any = [{"mass": 0.99}, {"mass": torch.tensor(0.99)}, {"radius": 0.01}]
        for size in sizes:
            single = BoundedMultivariateNormal(
                LOC.float(), TRIL.float(), kappa=kappa, **size
            )
            exact = ball(kappa=kappa, **size)
            torch.manual_seed(0)
            x = single.sample((50,))
            assert x.dtype == torch.float32
            for found, expected in (
                (single.log_prob(x), exact.log_prob(x.double())),
                (single.variance, exact.variance),
                (single.entropy(), exact.entropy()),
            ):
                assert found.dtype == torch.float32
                torch.testing.assert_close(
                    found.double(), expected.double(), rtol=1e-3, atol=1e-3
                )
