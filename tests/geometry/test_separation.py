"""Separations against quadrature and closed forms; the field of the action."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_geo.errors import (
    BallSpecError,
    ConfigurationError,
    ShapeError,
    UnboundedFieldError,
    UnsupportedError,
)
from pyro_geo.geometry.separation import (
    delta_radius,
    delta_separation,
    field_weights,
    mahalanobis,
    surprisal,
)

dist: Any = pyro.distributions
DOUBLE = torch.float64


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


PAIRS: dict[str, tuple[Any, Any, tuple[float, float]]] = {
    "normal": (
        dist.Normal(scalar(0.3), scalar(1.2)),
        dist.Normal(scalar(-1.0), scalar(0.8)),
        (-40.0, 40.0),
    ),
    "log-normal": (
        dist.LogNormal(scalar(0.3), scalar(0.4)),
        dist.LogNormal(scalar(-0.1), scalar(0.3)),
        (0.0, math.inf),
    ),
    "half-normal": (
        dist.HalfNormal(scalar(1.2)),
        dist.HalfNormal(scalar(0.8)),
        (0.0, 40.0),
    ),
    "gamma": (
        dist.Gamma(scalar(2.0), scalar(3.0)),
        dist.Gamma(scalar(3.0), scalar(1.5)),
        (0.0, math.inf),
    ),
    "gamma and exponential": (
        dist.Gamma(scalar(2.0), scalar(3.0)),
        dist.Exponential(scalar(1.5)),
        (0.0, math.inf),
    ),
    "inverse gamma": (
        dist.InverseGamma(scalar(3.0), scalar(2.0)),
        dist.InverseGamma(scalar(2.5), scalar(1.0)),
        (0.0, math.inf),
    ),
    "beta": (
        dist.Beta(scalar(2.0), scalar(3.0)),
        dist.Beta(scalar(1.5), scalar(2.5)),
        (0.0, 1.0),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("delta", [0.2, 0.5, 0.9, 1.1])
def test_delta_separation_is_its_integral(name: str, delta: float) -> None:
    p, q, ends = PAIRS[name]

    def integrand(x: float) -> float:
        value = scalar(x)
        logs = delta * p.log_prob(value) + (1 - delta) * q.log_prob(value)
        return float(logs.exp())

    overlap, _ = integrate.quad(integrand, *ends, epsabs=1e-12, epsrel=1e-12, limit=400)
    expected = (1 - overlap) / (delta * (1 - delta))
    assert abs(float(delta_separation(p, q, delta)) - expected) < 1e-8


def discrete_pairs() -> dict[str, tuple[Any, Any]]:
    logits = double(0.1, -0.4, 0.9), double(0.5, 0.0, -1.0)
    return {
        "poisson": (dist.Poisson(scalar(2.0)), dist.Poisson(scalar(4.0))),
        "geometric": (dist.Geometric(scalar(0.3)), dist.Geometric(scalar(0.5))),
        "bernoulli": (dist.Bernoulli(scalar(0.2)), dist.Bernoulli(scalar(0.7))),
        "binomial": (dist.Binomial(7, scalar(0.2)), dist.Binomial(7, scalar(0.4))),
        "negative binomial": (
            dist.NegativeBinomial(scalar(5.0), scalar(0.3)),
            dist.NegativeBinomial(scalar(5.0), scalar(0.4)),
        ),
        "categorical": tuple(dist.Categorical(logits=x) for x in logits),
        "one-hot": tuple(dist.OneHotCategorical(logits=x) for x in logits),
    }


@pytest.mark.parametrize("name", discrete_pairs())
@pytest.mark.parametrize("delta", [-0.2, 0.5, 1.1])
def test_delta_separation_is_its_sum(name: str, delta: float) -> None:
    p, q = discrete_pairs()[name]
    values = torch.arange(300, dtype=DOUBLE)
    if name in ("bernoulli", "categorical", "binomial"):
        values = values[: {"bernoulli": 2, "categorical": 3, "binomial": 8}[name]]
    if name == "one-hot":
        values = torch.eye(3, dtype=DOUBLE)
    logs = delta * p.log_prob(values) + (1 - delta) * q.log_prob(values)
    expected = (1 - logs.exp().sum()) / (delta * (1 - delta))
    torch.testing.assert_close(
        delta_separation(p, q, delta), expected, atol=1e-10, rtol=1e-10
    )


def test_delta_separation_of_vectors() -> None:
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(2, 3, 3, generator=generator, dtype=DOUBLE)
    cov = a @ a.mT + 0.5 * torch.eye(3, dtype=DOUBLE)
    means = torch.randn(2, 3, generator=generator, dtype=DOUBLE)
    p, q = (dist.MultivariateNormal(m, c) for m, c in zip(means, cov, strict=True))
    # by the natural parameters and the log-normaliser
    delta = 0.3
    precision = [torch.linalg.inv(c) for c in cov]

    def normaliser(eta: Tensor, precision: Tensor) -> Tensor:
        return 0.5 * eta @ torch.linalg.solve(precision, eta) - 0.5 * precision.logdet()

    etas = [x @ m for x, m in zip(precision, means, strict=True)]
    parts = [normaliser(e, x) for e, x in zip(etas, precision, strict=True)]
    blend = [delta * x[0] + (1 - delta) * x[1] for x in (etas, precision)]
    log_a = normaliser(*blend) - delta * parts[0] - (1 - delta) * parts[1]
    expected = -torch.expm1(log_a) / (delta * (1 - delta))
    torch.testing.assert_close(delta_separation(p, q, delta), expected)
    one, other = (
        dist.Dirichlet(double(1.0, 2.0, 0.5)),
        dist.Dirichlet(double(2.0, 1.0, 3.0)),
    )
    draws = other.sample(torch.Size([200_000]))
    ratio = (delta * (one.log_prob(draws) - other.log_prob(draws))).exp()
    found = delta_separation(one, other, delta)
    error = 5 * ratio.std() / len(ratio) ** 0.5 / (delta * (1 - delta))
    assert abs(found - (1 - ratio.mean()) / (delta * (1 - delta))) < error


@pytest.mark.parametrize("name", PAIRS)
def test_ends_are_divergences_and_orders_mirror(name: str) -> None:
    p, q, _ = PAIRS[name]
    torch.testing.assert_close(delta_separation(p, q, 1.0), kl_divergence(p, q))
    torch.testing.assert_close(delta_separation(p, q, 0.0), kl_divergence(q, p))
    # continuous where the formula changes
    near = delta_separation(p, q, 1 - 2e-6)
    torch.testing.assert_close(near, kl_divergence(p, q), rtol=1e-4, atol=1e-6)
    orders = double(-1e-9, 0.0, 0.25, 0.5, 1.0)
    found = delta_separation(p, q, orders)
    swapped = delta_separation(q, p, 1 - orders)
    torch.testing.assert_close(found, swapped)
    torch.testing.assert_close(found[1], kl_divergence(q, p))


def test_delta_separation_does_not_depend_on_the_parametrisation() -> None:
    # by shape and rate, by mean and coefficient of variation, and as a power
    mean = torch.tensor([1.5, 0.7], dtype=DOUBLE, requires_grad=True)
    cv = torch.tensor([0.5, 0.9], dtype=DOUBLE, requires_grad=True)
    shape = 1 / cv**2
    one, other = (dist.Gamma(a, r) for a, r in zip(shape, shape / mean, strict=True))
    inverse = [dist.InverseGamma(fn.concentration, fn.rate) for fn in (one, other)]
    first, second = inverse
    for delta in (-0.1, 0.0, 0.4, 1.0):
        gamma = delta_separation(one, other, delta)
        torch.testing.assert_close(gamma, delta_separation(first, second, delta))
        fresh = [(1 / c**2, 1 / c**2 / m) for c, m in zip(cv, mean, strict=True)]
        new = [dist.Gamma(*x) for x in fresh]
        again = delta_separation(new[0], new[1], delta)
        assert torch.equal(gamma, again)
        grads = torch.autograd.grad(again, (mean, cv))
        assert all(x.isfinite().all() for x in grads)
    normal = (
        dist.Normal(scalar(0.0), scalar(1.0)),
        dist.Normal(scalar(1.0), scalar(2.0)),
    )
    logs = [dist.LogNormal(fn.loc, fn.scale) for fn in normal]
    found = delta_separation(logs[0], logs[1], 0.3)
    assert torch.equal(delta_separation(*normal, 0.3), found)


def test_separation_is_infinite_outside_the_domain_and_bounded_inside() -> None:
    narrow, wide = dist.Normal(double(0.0), 1.0), dist.Normal(double(0.0), 3.0)
    assert torch.isinf(delta_separation(narrow, wide, -0.5)).all()
    assert delta_separation(wide, narrow, -0.5).isfinite().all()
    cov = torch.eye(2, dtype=DOUBLE)
    both = [dist.MultivariateNormal(double(0.0, 1.0), cov * k) for k in (1.0, 9.0)]
    assert delta_separation(both[0], both[1], -0.5) == math.inf
    far = dist.Normal(double(500.0), 1.0)
    torch.testing.assert_close(delta_separation(narrow, far, 0.5), double(4.0))
    scale = torch.tensor([1.0, 3.0], dtype=DOUBLE, requires_grad=True)
    found = delta_separation(dist.Normal(0.0, scale), narrow, 1.5)
    assert found.isinf().tolist() == [False, True]
    (grad,) = torch.autograd.grad(found[0], scale)
    assert grad.isfinite().all()


def test_independent_and_batches_and_float32() -> None:
    loc = torch.zeros(4, 3)
    p = dist.Normal(loc, 1.0).to_event(1)
    q = dist.Normal(loc + 1, 2.0).to_event(1)
    found = delta_separation(p, q, 0.3)
    assert found.shape == (4,)
    assert found.dtype == torch.float32
    inner = delta_separation(dist.Normal(0.0, 1.0), dist.Normal(1.0, 2.0), 0.3)
    expected = (1 - (1 - 0.21 * inner) ** 3) / 0.21
    torch.testing.assert_close(found, expected.expand(4))
    orders = torch.tensor([0.3, 0.5])
    dirichlet = dist.Dirichlet(torch.ones(2, 3)), dist.Dirichlet(torch.rand(2, 3) + 1)
    assert delta_separation(*dirichlet, orders).dtype == torch.float32
    mapped = torch.func.vmap(
        lambda m: delta_separation(dist.Normal(m, 1.0), dist.Normal(0.0, 1.0), 0.5)
    )
    one = dist.Normal(torch.arange(3.0), 1.0)
    torch.testing.assert_close(
        mapped(torch.arange(3.0)), delta_separation(one, dist.Normal(0.0, 1.0), 0.5)
    )


def test_separation_refuses_what_it_cannot_do() -> None:
    normal, gamma = dist.Normal(0.0, 1.0), dist.Gamma(1.0, 1.0)
    with pytest.raises(UnsupportedError, match="family of p, Normal"):
        delta_separation(normal, gamma, 0.5)
    with pytest.raises(UnsupportedError, match="Cauchy.*Gamma"):
        delta_separation(dist.Cauchy(0.0, 1.0), dist.Cauchy(0.0, 1.0), 0.5)
    with pytest.raises(UnsupportedError):
        delta_separation(normal.expand([2]).to_event(1), normal, 0.5)
    with pytest.raises(ConfigurationError, match="delta"):
        delta_separation(normal, normal, math.nan)
    counts = dist.Binomial(3, torch.tensor(0.5)), dist.Binomial(4, torch.tensor(0.5))
    assert delta_separation(*counts, 0.5).isnan()


@pytest.mark.parametrize("delta", [-0.5, 0.0, 0.2, 0.5, 1.0, 1.7])
def test_radius_holds_its_nats(delta: float) -> None:
    nats = double(0.1, 1.0, 3.9)
    radius = delta_radius(nats, delta)
    p, q = dist.Normal(radius, 1.0), dist.Normal(torch.zeros_like(radius), 1.0)
    torch.testing.assert_close(delta_separation(p, q, delta), nats)


def test_a_ball_that_cuts_nothing_is_refused() -> None:
    for nats in (4.0, 5.0, torch.tensor([1.0, 4.0])):
        with pytest.raises(BallSpecError, match="below 4"):
            delta_radius(nats, 0.5)
    for nats in (0.0, -1.0, math.nan):
        with pytest.raises(BallSpecError, match="above 0"):
            delta_radius(nats, 1.0)
    assert delta_radius(4.0, 1.2).isfinite()


def test_mahalanobis_is_the_divergence_and_affine_invariant() -> None:
    generator = torch.Generator().manual_seed(0)
    x, loc = torch.randn(2, 5, 3, generator=generator, dtype=DOUBLE)
    a = torch.randn(3, 3, generator=generator, dtype=DOUBLE)
    cov = a @ a.mT + 0.1 * torch.eye(3, dtype=DOUBLE)
    tril = torch.linalg.cholesky(cov)
    found = mahalanobis(x, loc, tril)
    p, q = (dist.MultivariateNormal(m, scale_tril=tril) for m in (x, loc))
    torch.testing.assert_close(found, kl_divergence(p, q))
    b = torch.randn(3, 3, generator=generator, dtype=DOUBLE)
    mapped = torch.linalg.cholesky(b @ cov @ b.mT)
    torch.testing.assert_close(mahalanobis(x @ b.mT, loc @ b.mT, mapped), found)


def test_surprisal_depends_on_the_reference() -> None:
    normal, other = dist.Normal(scalar(0.0), 1.0), dist.LogNormal(scalar(0.0), 1.0)
    z = torch.tensor([-3.0, -2.0, 1.0, 2.0], dtype=DOUBLE)
    torch.testing.assert_close(surprisal(normal, z), z**2 / 2)
    # two nats with the Lebesgue measure: other points of the same variable
    found = surprisal(other, z.exp())
    torch.testing.assert_close(found[[0, 2]], double(2.0, 2.0))
    # the reference that is carried along gives the same ball
    flat = dist.LogNormal(scalar(0.0), 1e6)
    carried = surprisal(other, z.exp(), mode=scalar(1.0), reference=flat)
    torch.testing.assert_close(carried, z**2 / 2)
    with pytest.raises(ConfigurationError, match="mode"):
        surprisal(other, z, reference=flat)


@pytest.mark.parametrize("delta", [-0.3, 0.0, 0.5, 1.0, 1.4])
def test_curvature_where_both_meet_is_the_fisher_information(delta: float) -> None:
    def separation(theta: Tensor) -> Tensor:
        moving = dist.Normal(theta[0], theta[1].exp())
        return delta_separation(moving, dist.Normal(scalar(0.4), scalar(1.0)), delta)

    hessian = torch.func.hessian(separation)(double(0.4, 0.0))
    torch.testing.assert_close(hessian, torch.diag(double(1.0, 2.0)))


# -- the field -------------------------------------------------------------------------


@given(
    nu=st.sampled_from([1.01, 1.5, 2.0, 3.0, 10.0]),
    beta=st.floats(0.01, 20.0),
    seed=st.integers(0, 10_000),
    n=st.integers(2, 60),
)
def test_field_solves_its_conditions(nu: float, beta: float, seed: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    info = 6 * torch.rand(n, generator=generator, dtype=DOUBLE)
    log_base = torch.randn(n, generator=generator, dtype=DOUBLE)
    prob, phi, lam = field_weights(info, beta, nu, log_base)
    torch.testing.assert_close(prob.sum(), scalar(1.0))
    torch.testing.assert_close(prob, log_base.softmax(-1) * phi)
    # stationary where the field is positive, and no gain where it is zero
    slope = info + phi ** (nu - 1) / (beta * (nu - 1)) - lam
    tolerance = 1e-11 * (1 + lam.abs())
    assert (slope[phi > 0].abs() < tolerance).all()
    assert (slope[phi == 0] > -tolerance).all()


@pytest.mark.parametrize("nu", [1.0, 1.3, 2.0, 2.5, 7.0])
def test_constant_information_returns_the_base_weights(nu: float) -> None:
    weights = double(0.1, 0.25, 0.65)
    info = torch.full_like(weights, 3.7)
    found = field_weights(info, 2.0, nu, weights.log())
    assert torch.equal(found.phi, torch.ones_like(weights))
    assert torch.equal(found.prob, weights.log().softmax(-1))
    equal = field_weights(info, 2.0, nu).prob
    torch.testing.assert_close(
        equal, torch.full_like(weights, 1 / 3), rtol=0, atol=1e-16
    )


@pytest.mark.parametrize(
    "nu",
    [
        1.0,
        pytest.param(1.4, marks=pytest.mark.slow),
        2.0,
        pytest.param(3.0, marks=pytest.mark.slow),
    ],
)
def test_field_can_be_differentiated_twice(nu: float) -> None:
    generator = torch.Generator().manual_seed(1)
    info = (4 * torch.rand(1, 4, generator=generator, dtype=DOUBLE)).requires_grad_()
    log_base = torch.randn(1, 4, generator=generator, dtype=DOUBLE).requires_grad_()
    beta = double(0.6).requires_grad_()

    def prob(info: Tensor, beta: Tensor, log_base: Tensor) -> Tensor:
        return field_weights(info, beta, nu, log_base).prob

    assert torch.autograd.gradcheck(prob, (info, beta, log_base))
    assert torch.autograd.gradgradcheck(prob, (info, beta, log_base))
    flat = torch.zeros(1, 4, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: field_weights(x, 1.0, nu).prob, flat)


def test_dictionary_of_beta_and_kappa() -> None:
    # the droplet (1 - I / c)^kappa of a standard normal, on a fine grid of its mass
    for dim, kappa, c in ((1, 1.0, 2.0), (3, 2.0, 4.0), (4, 0.5, 3.0)):
        share = (torch.arange(20_000, dtype=DOUBLE) + 0.5) / 20_000
        square = torch.as_tensor(2 * special.gammaincinv(dim / 2, share.numpy()))
        info = square / 2
        droplet = (1 - info / c).clamp(min=0.0) ** kappa
        z = droplet.mean()
        beta = kappa * z ** (-1 / kappa) / c
        prob, phi, lam = field_weights(info, float(beta), 1 + 1 / kappa)
        torch.testing.assert_close(lam, scalar(c))
        torch.testing.assert_close(phi, droplet / z, rtol=1e-9, atol=1e-9)


def test_tilt_and_limits() -> None:
    info = double(0.0, 1.0, 5.0)
    tilt = field_weights(info, 0.7, 1.0)
    torch.testing.assert_close(tilt.prob, (-0.7 * info).softmax(-1))
    assert tilt.lam == math.inf
    near = field_weights(info, 0.7, 1 + 1e-7).prob
    torch.testing.assert_close(near, tilt.prob, rtol=1e-5, atol=1e-7)
    with_infinite = field_weights(double(0.0, 1.0, math.inf)).prob
    torch.testing.assert_close(
        with_infinite, field_weights(double(0.0, 1.0, 99.0)).prob
    )
    assert with_infinite[2] == 0
    # a point without base weight has none, and does not set the cut
    none = field_weights(info, log_base=double(-math.inf, 0.0, 0.0))
    torch.testing.assert_close(none.prob[1:], field_weights(info[1:]).prob)
    assert none.prob[0] == 0
    # one that is nearly alone
    lone = field_weights(double(0.0, 1e-30), 1.0, 40.0, double(-600.0, 0.0))
    assert lone.prob.isfinite().all()


def test_field_shapes_and_axes() -> None:
    info = torch.rand(3, 5, 2)
    found = field_weights(info, torch.rand(3, 2) + 0.1, dim=1)
    assert (found.prob.shape, found.lam.shape) == (info.shape, (3, 2))
    assert found.prob.dtype == torch.float32
    first = field_weights(info, 1.0, dim=1).prob[0, :, 1]
    torch.testing.assert_close(first, field_weights(info[0, :, 1]).prob)
    mapped = torch.func.vmap(lambda x: field_weights(x).prob)(info[..., 0])
    torch.testing.assert_close(mapped, field_weights(info[..., 0]).prob)


def test_field_refuses_bad_arguments() -> None:
    info = torch.zeros(3)
    for nu in (0.5, -1.0, math.nan):
        with pytest.raises(UnboundedFieldError, match="argument nu"):
            field_weights(info, nu=nu)
    with pytest.raises(ConfigurationError, match="nu"):
        field_weights(info, nu=math.inf)
    with pytest.raises(ConfigurationError, match="beta"):
        field_weights(info, beta=0.0)
    with pytest.raises(ConfigurationError, match="dim"):
        field_weights(info, dim=1)
    with pytest.raises(ShapeError, match="info"):
        field_weights(torch.tensor(1.0))
    with pytest.raises(ShapeError, match="log_base"):
        field_weights(info, log_base=torch.zeros(2))
