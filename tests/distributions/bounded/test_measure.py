"""Bounded versions of every base: normaliser, moments, draws, gradients, dispatch."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyro.distributions
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import biject_to, kl_divergence, transform_to
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_geo.distributions import (
    BoundedGamma,
    BoundedLaplace,
    BoundedLevelSet,
    BoundedMeasure,
    BoundedMultivariateNormal,
    BoundedMultivariateStudentT,
    BoundedNormal,
    BoundedStudentT,
    BoundedUnivariate,
)
from pyro_geo.errors import (
    BallSpecError,
    ConfigurationError,
    ShapeError,
    UnsupportedError,
)
from pyro_geo.geometry.separation import surprisal, tail

dist: Any = pyro.distributions
DOUBLE = torch.float64


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


BASES: dict[str, Any] = {
    "normal": dist.Normal(scalar(0.3), scalar(2.0)),
    "student": dist.StudentT(scalar(2.5), scalar(0.3), scalar(2.0)),
    "cauchy": dist.Cauchy(scalar(0.3), scalar(2.0)),
    "laplace": dist.Laplace(scalar(0.3), scalar(2.0)),
    "exponential": dist.Exponential(scalar(2.0)),
    "half-normal": dist.HalfNormal(scalar(2.0)),
    "half-Cauchy": dist.HalfCauchy(scalar(2.0)),
    "uniform": dist.Uniform(scalar(-1.0), scalar(3.0)),
    "Gumbel": dist.Gumbel(scalar(0.3), scalar(2.0)),
    "log-normal": dist.LogNormal(scalar(0.3), scalar(0.7)),
    "Weibull": dist.Weibull(scalar(2.0), scalar(1.5)),
    "Kumaraswamy": dist.Kumaraswamy(scalar(2.0), scalar(1.5)),
    "gamma": dist.Gamma(scalar(2.3), scalar(1.7)),
    "peaked gamma": dist.Gamma(scalar(0.3), scalar(1.7)),
    "narrow gamma": dist.Gamma(scalar(200.0), scalar(1.7)),
    "chi-squared": dist.Chi2(scalar(3.0)),
    "inverse gamma": dist.InverseGamma(scalar(2.3), scalar(1.7)),
    "beta": dist.Beta(scalar(2.3), scalar(0.7)),
    "forked beta": dist.Beta(scalar(0.4), scalar(0.5)),
}
MASS = 1 - math.exp(-3.0)


def few(names: Any, *fast: str) -> list[Any]:
    """Parameters of a test: all of them, the others only in the long run."""
    slow = pytest.mark.slow
    return [x if x in fast else pytest.param(x, marks=slow) for x in names]


ALL = few(BASES, "student", "laplace", "gamma", "log-normal")


def ends(fn: Any) -> tuple[float, float]:
    return float(fn.support.lower_bound), float(fn.support.upper_bound)


def integral(fn: Any, values: Callable[[Tensor], Tensor], *kinks: float) -> float:
    """Integral over the support, by the double-exponential rule between kinks."""
    low, high = ends(fn)
    inner = sorted([float(fn.icdf(scalar(0.5))), *kinks])
    total = 0.0
    u = torch.linspace(-3.6, 3.6, 1441, dtype=DOUBLE)
    turn = math.pi * u.sinh()
    slope = u.cosh() * math.pi * turn.sigmoid() * (-turn).sigmoid() * (u[1] - u[0])
    for a, b in pairwise([low, *inner, high]):
        near, far = a + (b - a) * turn.sigmoid(), b - (b - a) * (-turn).sigmoid()
        x = torch.where(u < 0, near, far)
        total += float((values(x) * fn.log_prob(x).exp() * slope).sum() * (b - a))
    return total


@pytest.mark.parametrize("kappa", [0.0, 1.5])
@pytest.mark.parametrize("name", ALL)
def test_mass_moments_and_divergence_are_their_integrals(
    name: str, kappa: float
) -> None:
    base = BASES[name]
    fn = BoundedMeasure(base, mass=MASS, kappa=kappa)
    assert abs(float(fn.log_mass.exp()) - MASS) < 1e-14
    low, high = ends(fn)
    # the same mass is cut off both tails, which for every base is exp(-c) / 2
    for x in (low, high):
        torch.testing.assert_close(tail(base, scalar(x)), scalar(3.0))
    assert abs(integral(fn, torch.ones_like) - 1) < 1e-10
    mean = integral(fn, lambda x: x)
    assert abs(float(fn.mean) - mean) < 1e-8 * (1 + abs(mean))
    variance = integral(fn, lambda x: (x - mean) ** 2)
    assert abs(float(fn.variance) / variance - 1) < 1e-8
    if kappa:
        return

    def log_ratio(x: Tensor) -> Tensor:
        return fn.log_prob(x) - base.log_prob(x)

    entropy = integral(fn, lambda x: -fn.log_prob(x))
    assert abs(float(fn.entropy()) - entropy) < 1e-8
    torch.testing.assert_close(fn.kl_to_base(), scalar(-math.log(MASS)))
    torch.testing.assert_close(kl_divergence(fn, base), fn.kl_to_base())
    assert abs(integral(fn, log_ratio) - float(fn.kl_to_base())) < 1e-9


@pytest.mark.parametrize("name", ["student", "laplace", "gamma", "log-normal"])
def test_field_divergence_is_its_integral(name: str) -> None:
    base = BASES[name]
    fn = BoundedMeasure(base, mass=MASS, kappa=1.5)

    def log_ratio(x: Tensor) -> Tensor:
        return fn.log_prob(x) - base.log_prob(x)

    expected = integral(fn, log_ratio)
    assert abs(float(fn.kl_to_base()) - expected) < 1e-8
    assert abs(float(kl_divergence(fn, base)) - expected) < 1e-8


def test_field_depends_on_the_nats_alone() -> None:
    # under any base the tail is an exponential variable
    for kappa in (0.5, 1.0, 2.0):
        z, _ = integrate.quad(lambda t, k=kappa: math.exp(-t) * (1 - t / 3) ** k, 0, 3)
        for name in ("laplace", "gamma", "log-normal", "beta"):
            fn = BoundedMeasure(BASES[name], nats=3.0, kappa=kappa)
            assert abs(float(fn.log_normalizer.exp()) - z) < 1e-9
    near = BoundedMeasure(BASES["gamma"], nats=3.0, kappa=1e-9)
    hard = BoundedMeasure(BASES["gamma"], nats=3.0)
    x = hard.icdf(torch.linspace(0.05, 0.95, 7, dtype=DOUBLE))
    torch.testing.assert_close(near.log_prob(x), hard.log_prob(x), atol=1e-7, rtol=0)


@pytest.mark.parametrize("kappa", [0.0, 2.0])
@pytest.mark.parametrize("name", ALL)
def test_distribution_function_and_quantiles_are_inverse(
    name: str, kappa: float
) -> None:
    fn = BoundedMeasure(BASES[name], mass=0.95, kappa=kappa)
    p = torch.tensor([1e-6, 0.1, 0.5, 0.7, 1 - 1e-6], dtype=DOUBLE)
    x = fn.icdf(p)
    torch.testing.assert_close(fn.cdf(x), p, rtol=1e-10, atol=1e-12)
    low, high = ends(fn)
    outside = torch.tensor([low - 0.1, low, high, high + 0.1], dtype=DOUBLE)
    torch.testing.assert_close(fn.cdf(outside), torch.tensor([0, 0, 1, 1]).double())
    torch.testing.assert_close(
        fn.icdf(torch.tensor([0.0, 1.0], dtype=DOUBLE)), outside[1:3]
    )
    # the slope of the distribution function is the density
    x = x[[1, 3]].requires_grad_()
    (slope,) = torch.autograd.grad(fn.cdf(x).sum(), x)
    torch.testing.assert_close(slope, fn.log_prob(x).exp(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_outside_there_is_no_density_and_no_nan(name: str) -> None:
    fn = BoundedMeasure(BASES[name], mass=0.9, kappa=1.0)
    hard = BoundedMeasure(BASES[name], mass=0.9)
    low, high = ends(fn)
    values = [low - 1.0, low - 1e-6, low, high, high + 1e-6, 1e9, math.nan]
    x = torch.tensor(values, dtype=DOUBLE)
    for one in (fn, hard):
        found = one.log_prob(x)
        assert (found[[0, 1, 4, 5]] == -math.inf).all()
        assert found[[2, 3]].isfinite().all()
        inside = torch.tensor([0.3 * low + 0.7 * high], dtype=DOUBLE).requires_grad_()
        value = torch.where(x > 0, one.log_prob(inside), 0.0)
        if value.requires_grad:  # a flat density has no gradient
            assert torch.autograd.grad(value.sum(), inside)[0].isfinite().all()
    assert fn.support.check(x[:6]).tolist() == [0, 0, 1, 1, 0, 0]
    draws = hard.sample(torch.Size([500]))
    assert hard.log_prob(draws).isfinite().all()
    assert hard.support.check(draws).all()


@pytest.mark.parametrize("kappa", [0.0, 1.0])
@pytest.mark.parametrize("name", few(BASES, "student", "laplace", "log-normal"))
def test_draws_follow_the_distribution_function(name: str, kappa: float) -> None:
    fn = BoundedMeasure(BASES[name], mass=0.9, kappa=kappa)
    draws = fn.rsample(torch.Size([2000]))
    share = fn.cdf(draws)
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-4


FAMILIES: dict[str, tuple[Callable[..., Any], list[float]]] = {
    "normal": (dist.Normal, [0.3, 2.0]),
    "student": (dist.StudentT, [2.5, 0.3, 2.0]),
    "laplace": (dist.Laplace, [0.3, 2.0]),
    "gamma": (dist.Gamma, [2.3, 1.7]),
    "beta": (dist.Beta, [2.3, 0.7]),
    "inverse gamma": (dist.InverseGamma, [2.3, 1.7]),
    "exponential": (dist.Exponential, [1.4]),
}


@pytest.mark.parametrize("kappa", [0.0, 1.5])
@pytest.mark.parametrize("name", few(FAMILIES, "student", "exponential"))
def test_gradients_to_radius_and_parameters(name: str, kappa: float) -> None:
    make, numbers = FAMILIES[name]
    parameters = [scalar(x).requires_grad_() for x in numbers]
    mass = scalar(0.8).requires_grad_()
    x = BoundedMeasure(make(*parameters), mass=mass, kappa=kappa).icdf(scalar(0.3))
    x = x.detach()

    def quantiles(mass: Tensor, *parameters: Tensor) -> Tensor:
        fn = BoundedMeasure(make(*parameters), mass=mass, kappa=kappa)
        return fn.icdf(torch.tensor([0.1, 0.65], dtype=DOUBLE))

    def summary(mass: Tensor, *parameters: Tensor) -> Tensor:
        fn = BoundedMeasure(make(*parameters), mass=mass, kappa=kappa)
        parts = (fn.log_prob(x), fn.cdf(x), fn.mean, fn.variance, fn.entropy())
        return torch.stack((*parts, fn.kl_to_base()))

    def draw(mass: Tensor, *parameters: Tensor) -> Tensor:
        torch.manual_seed(0)
        return BoundedMeasure(make(*parameters), mass=mass, kappa=kappa).rsample()

    inputs = (mass, *parameters)
    # draws of a field hold no more digits than their search
    for fn in (summary, draw) if kappa else (quantiles, summary, draw):
        assert torch.autograd.gradcheck(fn, inputs, atol=1e-5, rtol=1e-4)


def test_bounded_cauchy_has_its_variance() -> None:
    rho = torch.tensor([0.01, 0.5, 3.0, 200.0, 1e6], dtype=DOUBLE)
    fn = BoundedStudentT(1.0, torch.zeros_like(rho), 1.0, radius=rho)
    expected = rho / torch.atan(rho) - 1
    torch.testing.assert_close(fn.variance, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(fn.log_mass.exp(), 2 / math.pi * torch.atan(rho))
    assert fn.df.tolist() == [1.0] * 5
    also = BoundedMeasure(dist.Cauchy(torch.zeros_like(rho), 1.0), radius=rho)
    torch.testing.assert_close(also.variance, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("df", [0.4, 1.0, 3.0, 50.0])
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_student_ball_has_the_mass_of_a_beta_variable(df: float, dim: int) -> None:
    radius = 1.7
    share = float(stats.beta.sf(df / (df + radius**2), df / 2, dim / 2))
    loc, eye = torch.zeros(dim, dtype=DOUBLE), torch.eye(dim, dtype=DOUBLE)
    for freedom in (df, scalar(df)):
        fn = BoundedMultivariateStudentT(freedom, loc, eye, radius=radius)
        torch.testing.assert_close(fn.log_mass, scalar(math.log(share)))
        back = BoundedMultivariateStudentT(freedom, loc, eye, mass=share)
        torch.testing.assert_close(back.radius, scalar(radius))
        x = torch.full((dim,), 0.4, dtype=DOUBLE)
        base = dist.MultivariateStudentT(scalar(df), loc, eye)
        expected = base.log_prob(x) - math.log(share)
        torch.testing.assert_close(fn.log_prob(x), expected)
        torch.testing.assert_close(kl_divergence(fn, base), -fn.log_mass)
    draws = fn.rsample(torch.Size([3000]))
    assert (draws.norm(dim=-1) <= radius * (1 + 1e-12)).all()
    found = draws.square().mean()
    error = 5 * draws.square().mean(-1).std() / len(draws) ** 0.5
    assert abs(found - fn.variance.mean()) < error
    other = dist.MultivariateStudentT(scalar(df), loc + 1, eye)
    with pytest.raises(UnsupportedError, match="other parameters"):
        kl_divergence(fn, other)


def test_bounded_laplace_in_closed_form() -> None:
    rho = torch.tensor([0.1, 1.0, 7.0], dtype=DOUBLE)
    fn = BoundedLaplace(torch.full_like(rho, 0.3), 2.0, nats=rho)
    e = torch.exp(-rho)
    torch.testing.assert_close(fn.log_mass, torch.log1p(-e))
    expected = 4 * (2 - e * (rho**2 + 2 * rho + 2)) / (1 - e)
    torch.testing.assert_close(fn.variance, expected, rtol=1e-9, atol=0)
    # tail, surprisal and radius are one
    base = dist.Laplace(torch.full_like(rho, 0.3), 2.0)
    support: Any = fn.support
    edge = support.upper_bound
    torch.testing.assert_close(tail(base, edge), rho)
    torch.testing.assert_close(surprisal(base, edge), rho)
    x = torch.tensor([0.3], dtype=DOUBLE, requires_grad=True)  # the kink
    (grad,) = torch.autograd.grad(fn.log_prob(x).sum(), x)
    assert grad.isfinite().all()


@pytest.mark.parametrize(
    ("scale", "loc", "nats"), [(0.1, -3.0, 0.01), (1.0, 0.0, 2.0), (2.0, 1.0, 20.0)]
)
def test_a_monotone_map_changes_nothing(scale: float, loc: float, nats: float) -> None:
    normal = dist.Normal(scalar(loc), scalar(scale))
    first = BoundedUnivariate(dist.LogNormal(normal.loc, normal.scale), nats=nats)
    second = BoundedNormal(normal.loc, normal.scale, nats=nats, separation="tail")
    p = torch.tensor([0.0, 0.2, 0.5, 0.93, 1.0], dtype=DOUBLE)
    x = second.icdf(p)
    torch.testing.assert_close(first.icdf(p), x.exp(), rtol=1e-9, atol=0)
    torch.testing.assert_close(first.log_prob(x.exp()), second.log_prob(x) - x)
    turned = dist.TransformedDistribution(
        normal, [torch.distributions.AffineTransform(scalar(1.0), scalar(-2.0))]
    )
    low, high = ends(BoundedUnivariate(turned, nats=nats))
    assert low < high
    torch.testing.assert_close(scalar(low), 1 - 2 * x[-1], rtol=1e-9, atol=1e-9)


def test_same_nats_same_set_by_tails_and_not_by_surprisal() -> None:
    normal, logs = dist.Normal(scalar(0.0), 1.0), dist.LogNormal(scalar(0.0), 1.0)
    by_tail = [
        BoundedMeasure(base, nats=2.0, separation="tail") for base in (normal, logs)
    ]
    torch.testing.assert_close(
        by_tail[1].support.upper_bound.log(), by_tail[0].support.upper_bound
    )
    torch.testing.assert_close(
        by_tail[1].support.lower_bound.log(), by_tail[0].support.lower_bound
    )
    for base, log, expected in (
        (normal, torch.clone, (-2.0, 2.0)),
        (logs, torch.log, (-3.0, 1.0)),
    ):
        support = BoundedMeasure(base, nats=2.0, separation="surprisal").support
        torch.testing.assert_close(log(support.lower_bound), scalar(expected[0]))
        torch.testing.assert_close(log(support.upper_bound), scalar(expected[1]))


LEVELS = few(
    ("log-normal", "gamma", "beta", "exponential", "half-normal", "Gumbel"),
    "log-normal",
)


@pytest.mark.parametrize("kappa", [0.0, 1.5])
@pytest.mark.parametrize("name", LEVELS)
def test_sets_of_highest_density(name: str, kappa: float) -> None:
    base = BASES[name] if name != "beta" else dist.Beta(scalar(2.3), scalar(1.7))
    fn = BoundedMeasure(base, nats=2.0, separation="surprisal", kappa=kappa)
    assert isinstance(fn, BoundedLevelSet)
    low, high = ends(fn)
    edge = surprisal(base, torch.tensor([low, high], dtype=DOUBLE))
    closed = name in ("exponential", "half-normal")  # the density ends at its mode
    first = 0.0 if closed else 2.0
    torch.testing.assert_close(edge, torch.tensor([first, 2.0], dtype=DOUBLE))
    mode = () if closed else (float(base.mode),)
    assert abs(integral(fn, torch.ones_like, *mode) - 1) < 1e-10
    mean = integral(fn, lambda x: x, *mode)
    assert abs(float(fn.mean) - mean) < 1e-9
    variance = integral(fn, lambda x: (x - mean) ** 2, *mode)
    assert abs(float(fn.variance) / variance - 1) < 1e-9

    def log_ratio(x: Tensor) -> Tensor:
        inside = fn.log_prob(x)
        return torch.where(inside.isfinite(), inside - base.log_prob(x), 0.0)

    divergence = integral(fn, log_ratio, *mode)
    assert abs(float(fn.kl_to_base()) - divergence) < 1e-7
    torch.testing.assert_close(kl_divergence(fn, base), fn.kl_to_base())
    p = torch.tensor([0.0, 1e-5, 0.3, 0.9, 1.0], dtype=DOUBLE)
    torch.testing.assert_close(fn.cdf(fn.icdf(p)), p, rtol=1e-9, atol=1e-12)
    outside = torch.tensor([low - 0.1, high + 0.1], dtype=DOUBLE)
    assert fn.log_prob(outside).tolist() == [-math.inf] * 2
    draws = fn.rsample(torch.Size([1000]))
    assert stats.kstest(fn.cdf(draws).numpy(), "uniform").pvalue > 1e-4
    if not kappa:
        torch.testing.assert_close(fn.kl_to_base(), -fn.log_mass)
    wide = BoundedMeasure(base, nats=torch.tensor([1.0, 2.0]), separation="surprisal")
    assert wide.expand([3, 2]).rsample(torch.Size([4])).shape == (4, 3, 2)


@pytest.mark.slow
def test_gradients_of_a_set_of_highest_density() -> None:
    def summary(shape: Tensor, rate: Tensor, nats: Tensor) -> Tensor:
        torch.manual_seed(0)
        fn = BoundedLevelSet(dist.Gamma(shape, rate), nats=nats)
        x = scalar(1.0)
        low = fn.ends()[0]
        moments = fn.log_prob(x), fn.log_mass, fn.mean, fn.entropy(), fn.cdf(x)
        return torch.stack((*moments, fn.icdf(scalar(0.3)), fn.rsample(), low))

    inputs = [scalar(x).requires_grad_() for x in (2.3, 1.7, 2.0)]
    assert torch.autograd.gradcheck(summary, inputs, atol=1e-5)

    def log_prob(x: Tensor) -> Tensor:
        return BoundedLevelSet(BASES["log-normal"], nats=2.0).log_prob(x)

    x = torch.tensor([0.7, 2.0], dtype=DOUBLE)
    with pyro.validation_enabled(False):
        graph = make_fx(torch.func.vmap(torch.func.grad(log_prob)))(x)
    slope = (log_prob(x + 1e-5) - log_prob(x - 1e-5)) / 2e-5
    torch.testing.assert_close(graph(x), slope, rtol=1e-6, atol=1e-6)


def test_dispatch_and_wrappers() -> None:
    normal = dist.Normal(torch.zeros(3, 2), 1.0)
    boxes = BoundedMeasure(normal.to_event(1), mass=0.9)
    assert (boxes.batch_shape, boxes.event_shape) == ((3,), (2,))
    single = BoundedMeasure(normal, mass=0.9)
    x = boxes.sample(torch.Size([4]))
    torch.testing.assert_close(boxes.log_prob(x), single.log_prob(x).sum(-1))
    kinds: list[tuple[Any, type, dict[str, Any]]] = [
        (normal, BoundedNormal, {"nats": 2.0, "separation": "tail"}),
        (dist.StudentT(3.0), BoundedStudentT, {"radius": 2.0}),
        (dist.Cauchy(0.0, 1.0), BoundedStudentT, {"mass": 0.5}),
        (dist.Laplace(0.0, 1.0), BoundedLaplace, {"nats": 1.0}),
        (dist.Chi2(3.0), BoundedGamma, {"nats": 1.0}),
        (dist.Exponential(3.0), BoundedUnivariate, {"nats": 1.0}),
        (dist.Gamma(2.0, 1.0).expand([3]), BoundedGamma, {"mass": 0.9}),
        (
            dist.MultivariateNormal(torch.zeros(2), torch.eye(2)),
            BoundedMultivariateNormal,
            {"mass": 0.9},
        ),
        (
            dist.LowRankMultivariateNormal(
                torch.zeros(2), torch.ones(2, 1), torch.ones(2)
            ),
            BoundedMultivariateNormal,
            {"nats": 2.0},
        ),
        (
            dist.MultivariateStudentT(3.0, torch.zeros(2), torch.eye(2)),
            BoundedMultivariateStudentT,
            {"radius": 2.0},
        ),
    ]
    for base, kind, size in kinds:
        fn = BoundedMeasure(base, **size)
        assert type(fn) is kind
        assert fn.batch_shape == base.batch_shape
        assert fn.sample().shape == base.sample().shape
    masked = BoundedMeasure(dist.Gamma(2.0, 1.0).mask(False), mass=0.9)
    assert masked.log_prob(torch.tensor(1.0)) == 0
    wide = dist.ExpandedDistribution(dist.Normal(0.0, 1.0), torch.Size([4]))
    assert BoundedMeasure(wide, mass=0.9).batch_shape == (4,)
    levels = BoundedMeasure(dist.StudentT(3.0), nats=2.0, separation="surprisal")
    base = dist.StudentT(torch.tensor(3.0))
    edge = surprisal(base, levels.support.upper_bound)
    torch.testing.assert_close(edge, torch.tensor(2.0))


@pytest.mark.parametrize("name", ALL)
def test_batches_expansion_and_supports(name: str) -> None:
    base = BASES[name]
    fn = BoundedMeasure(base, mass=torch.tensor([0.5, 0.9, 0.99], dtype=DOUBLE))
    assert (fn.batch_shape, fn.event_shape) == ((3,), ())
    wide = fn.expand([2, 3])
    draws = wide.rsample(torch.Size([5]))
    assert (draws.shape, wide.mean.shape, wide.entropy().shape) == (
        (5, 2, 3),
        (2, 3),
        (2, 3),
    )
    torch.testing.assert_close(wide.log_prob(draws)[:, 1], fn.log_prob(draws[:, 1]))
    torch.testing.assert_close(wide.variance[0], fn.variance)
    one = BoundedMeasure(base, mass=0.9)
    torch.testing.assert_close(fn.mean[1], one.mean)
    assert len({id(r) for r in (fn, wide, one)}) == 3
    for registry in (biject_to, transform_to):
        transform: Any = registry(fn.support)
        z = torch.tensor([[-3.0, 0.0, 2.0]], dtype=DOUBLE)
        x = transform(z)
        assert fn.support.check(x).all()
        torch.testing.assert_close(transform.inv(x), z, rtol=1e-6, atol=1e-6)


SINGLE: dict[str, tuple[Any, tuple[str, ...]]] = {
    "student": (dist.StudentT, ("df", "loc", "scale")),
    "laplace": (dist.Laplace, ("loc", "scale")),
    "exponential": (dist.Exponential, ("rate",)),
    "gamma": (dist.Gamma, ("concentration", "rate")),
    "narrow gamma": (dist.Gamma, ("concentration", "rate")),
    "beta": (dist.Beta, ("concentration1", "concentration0")),
}


@pytest.mark.parametrize("name", few(SINGLE, "student", "gamma"))
def test_single_precision_agrees(name: str) -> None:
    base = BASES[name]
    make, names = SINGLE[name]
    single = make(*(getattr(base, key).float() for key in names))
    for kappa in (0.0, 1.0):
        fn = BoundedMeasure(single, mass=0.9, kappa=kappa)
        exact = BoundedMeasure(base, mass=0.9, kappa=kappa)
        p = torch.tensor([0.01, 0.4, 0.9])
        x = fn.icdf(p)
        assert x.dtype == torch.float32
        for found, expected in (
            (x, exact.icdf(p.double())),
            (fn.log_prob(x), exact.log_prob(x.double())),
            (fn.cdf(x), exact.cdf(x.double())),
            (fn.mean, exact.mean),
            (fn.variance, exact.variance),
            (fn.entropy(), exact.entropy()),
            (fn.kl_to_base(), exact.kl_to_base()),
        ):
            assert found.dtype == torch.float32
            torch.testing.assert_close(
                found, expected.float(), rtol=1e-3, atol=1e-4, check_dtype=False
            )


def test_large_balls_are_the_base() -> None:
    for base in BASES.values():
        fn = BoundedMeasure(base, nats=60.0, separation="tail")
        x = fn.icdf(scalar(0.3))
        torch.testing.assert_close(fn.log_prob(x), base.log_prob(x))
        torch.testing.assert_close(tail(base, x), -torch.log(scalar(0.6)))


def test_divergence_from_other_distributions() -> None:
    # from any distribution of one number, by quadrature
    gamma, other = BASES["gamma"], dist.LogNormal(scalar(0.0), scalar(1.0))
    for name, q in (
        ("gamma", other),
        ("student", BASES["normal"]),
        ("laplace", BASES["normal"]),
        ("student", BASES["cauchy"]),
        ("laplace", dist.Laplace(scalar(0.0), scalar(1.0))),
    ):
        fn = BoundedMeasure(BASES[name], mass=MASS)

        def log_ratio(x: Tensor, fn: Any = fn, q: Any = q) -> Tensor:
            return fn.log_prob(x) - q.log_prob(x)

        expected = (
            integral(fn, log_ratio, 0.0)
            if name == "laplace"
            else integral(fn, log_ratio)
        )
        assert abs(float(kl_divergence(fn, q)) - expected) < 1e-9
    # what is not absolutely continuous is infinitely far
    far = dist.Uniform(scalar(0.9), scalar(1.0))
    assert kl_divergence(BoundedMeasure(gamma, mass=MASS), far) == math.inf


def test_bad_arguments_are_refused() -> None:
    bounded: Any = BoundedMeasure
    normal, gamma = dist.Normal(0.0, 1.0), dist.Gamma(2.0, 1.0)
    for base in (normal, gamma, dist.StudentT(3.0), dist.Laplace(0.0, 1.0)):
        with pytest.raises(BallSpecError, match="none of them"):
            bounded(base)
        with pytest.raises(BallSpecError, match="exactly one"):
            bounded(base, nats=1.0, mass=0.5)
        for size in ({"mass": 1.0}, {"mass": 0.0}, {"nats": -1.0}, {"nats": math.nan}):
            with pytest.raises(BallSpecError, match=next(iter(size))):
                bounded(base, **size)
        with pytest.raises(BallSpecError, match="kappa"):
            bounded(base, mass=0.5, kappa=-1.0)
    with pytest.raises(BallSpecError, match="nats or mass"):
        bounded(gamma, radius=1.0)
    for base, separation in (
        (gamma, "mahalanobis"),
        (dist.Laplace(0.0, 1.0), "mahalanobis"),
    ):
        with pytest.raises(BallSpecError, match="separation"):
            bounded(base, nats=1.0, separation=separation)
    with pytest.raises(ConfigurationError, match="separation"):
        bounded(normal, nats=1.0, separation="hellinger")
    for size in ({"nats": 0.0}, {"nats": 1.0, "mass": 0.5}):
        with pytest.raises(BallSpecError, match="nats"):
            bounded(dist.StudentT(3.0), separation="surprisal", **size)
    for size in ({"mass": 0.5}, {"radius": 1.0}, {}, {"nats": 1.0, "mass": 0.5}):
        with pytest.raises(BallSpecError, match="nats alone"):
            bounded(gamma, separation="surprisal", **size)
    for base in (dist.Beta(0.5, 0.5), dist.Gamma(0.5, 1.0)):
        with pytest.raises(BallSpecError, match="finite at one mode"):
            bounded(base, separation="surprisal", nats=1.0)
    vectors = dist.Dirichlet(torch.ones(3))
    for base in (dist.Poisson(1.0), dist.VonMises(0.0, 1.0), vectors):
        with pytest.raises(UnsupportedError, match="Gamma.*InverseGamma.*Normal"):
            bounded(base, mass=0.5)
    with pytest.raises(UnsupportedError, match="StudentT.*own bounded"):
        BoundedUnivariate(dist.StudentT(3.0), mass=0.5)
    with pytest.raises(ShapeError, match="base"):
        BoundedUnivariate(gamma.expand([2]).to_event(1), mass=0.5)
    for bad in (0.0, -1.0, math.inf):
        with pytest.raises(ConfigurationError, match="df"):
            BoundedStudentT(bad, mass=0.5)
        with pytest.raises(ConfigurationError, match="concentration"):
            BoundedGamma(bad, 1.0, mass=0.5)
        with pytest.raises(ConfigurationError, match="rate"):
            BoundedGamma(1.0, bad, mass=0.5)
    with pytest.raises(BallSpecError, match="everywhere"):
        bounded(gamma, mass=torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match="df"):
        BoundedStudentT(torch.tensor(-1.0), radius=0.5, validate_args=True)
