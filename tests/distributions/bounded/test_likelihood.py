"""Bounded likelihoods: densities, caps, bounds on the posterior, and factors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.infer import MCMC as PyroMCMC
from pyro.infer import NUTS, Predictive
from pyro.infer.autoguide import init_to_median
from scipy import integrate
from torch import Tensor
from torch.distributions import constraints

from pyro_geo import Target
from pyro_geo.distributions import (
    BoundedLikelihood,
    capped_factor,
    density_power_factor,
    tempered,
)
from pyro_geo.errors import ConfigurationError, ShapeError, UnsupportedError
from pyro_geo.infer import HMC, MCMC

dist: Any = pyro.distributions
DOUBLE = torch.float64


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


def likelihood(chance: float = 0.05) -> BoundedLikelihood:
    good = dist.Normal(scalar(0.3), scalar(0.5))
    return BoundedLikelihood(good, dist.Uniform(scalar(-20.0), scalar(20.0)), chance)


# -- the distribution ------------------------------------------------------------------


def test_it_is_a_proper_density_with_its_moments() -> None:
    fn = likelihood()

    def density(x: float) -> float:
        return float(fn.log_prob(scalar(x)).exp())

    def moment(power: int) -> float:
        ends = (-20.0, -4.0, 0.3, 5.0, 20.0)
        parts = zip(ends, ends[1:], strict=False)
        return sum(
            integrate.quad(lambda x: x**power * density(x), *pair)[0] for pair in parts
        )

    assert abs(moment(0) - 1) < 1e-10
    assert abs(moment(1) - float(fn.mean)) < 1e-10
    assert abs(moment(2) - moment(1) ** 2 - float(fn.variance)) < 1e-8
    draws = fn.sample(torch.Size([20_000]))
    error = 5 * float(fn.variance / len(draws)) ** 0.5
    assert abs(float(draws.mean() - fn.mean)) < error
    far = ((draws - 0.3).abs() > 3).double().mean()
    expected = 0.05 * (1 - 6 / 40)
    assert abs(float(far) - expected) < 5 * (expected / len(draws)) ** 0.5


def test_cap_is_the_most_that_one_observation_carries() -> None:
    fn = likelihood(0.02)
    floor = 0.02 / 40
    c = math.log(0.98 / (0.5 * math.sqrt(2 * math.pi)) / floor)
    torch.testing.assert_close(fn.cap, scalar(c))
    y = torch.linspace(-19.7, 19.7, 3941, dtype=DOUBLE)
    ratio = fn.log_prob(y) - math.log(floor)
    assert ratio.min() >= -1e-12
    assert ratio.max() <= math.log1p(math.exp(c)) + 1e-12
    torch.testing.assert_close(ratio.max(), scalar(math.log1p(math.exp(c))))
    shares = fn.outlier_probs(y)
    torch.testing.assert_close(shares, (-ratio).exp())


def test_values_outside_a_support_have_no_density_and_no_nan() -> None:
    fn = BoundedLikelihood(dist.Gamma(2.0, 1.0), dist.Exponential(0.1), 0.1)
    x = torch.tensor([-1.0, 0.5], requires_grad=True)
    found = fn.log_prob(x)
    assert found.isinf().tolist() == [True, False]
    assert torch.autograd.grad(found[1], x)[0].isfinite().all()
    y = torch.tensor([60.0, 0.0], requires_grad=True)
    wide = likelihood().log_prob(y)
    assert wide.isfinite().all()
    assert torch.autograd.grad(wide.sum(), y)[0].isfinite().all()
    assert fn.support.check(torch.tensor([-1.0, 1.0])).tolist() == [False, True]
    assert likelihood().support is constraints.real
    counts = BoundedLikelihood(dist.Poisson(3.0), dist.Geometric(0.01), 0.1)
    assert counts.support.check(torch.tensor([-1.0, 0.5, 4.0])).tolist() == [0, 0, 1]
    assert counts.log_prob(torch.tensor(-1.0)) == -math.inf
    mixed = BoundedLikelihood(dist.Gamma(2.0, 1.0), dist.Uniform(-1.0, 3.0), 0.1)
    assert mixed.support.check(torch.tensor([-2.0, -0.5, 9.0])).tolist() == [0, 1, 1]


def test_batches_events_and_expansion() -> None:
    base = dist.Normal(torch.zeros(4, 1, 3), 1.0).to_event(1)
    clutter = dist.Normal(torch.zeros(3), 30.0).to_event(1)
    fn = BoundedLikelihood(base, clutter, torch.tensor([0.1, 0.2]))
    assert (fn.batch_shape, fn.event_shape) == ((4, 2), (3,))
    draws = fn.sample(torch.Size([5]))
    assert (draws.shape, fn.log_prob(draws).shape) == ((5, 4, 2, 3), (5, 4, 2))
    assert (fn.mean.shape, fn.cap.shape) == ((4, 2, 3), (4, 2))
    wide = fn.expand([6, 4, 2])
    assert torch.equal(wide.log_prob(draws[0])[0], fn.log_prob(draws[0]))
    vectors = dist.MultivariateStudentT(3.0, torch.zeros(2), torch.eye(2))
    around = dist.MultivariateNormal(torch.zeros(2), 100 * torch.eye(2))
    expected = (
        math.log(9) + vectors.log_prob(torch.zeros(2)) - around.log_prob(torch.zeros(2))
    )
    found = BoundedLikelihood(vectors, around, 0.1).cap
    torch.testing.assert_close(found, expected)
    half = BoundedLikelihood(dist.Normal(0.0, 1.0), dist.Cauchy(0.0, 9.0), 0.1)
    assert half.sample().dtype == torch.float32
    assert likelihood().sample().dtype == DOUBLE


def model(y: Tensor | None = None, n: int = 60) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    chance = pyro.sample("chance", dist.Beta(1.0, 9.0))
    with pyro.plate("data", n if y is None else len(y)):
        fn = BoundedLikelihood(
            dist.Normal(mean, scale), dist.Uniform(-50.0, 50.0), chance
        )
        pyro.sample("y", fn, obs=y)


def spoiled(seed: int = 0) -> Tensor:
    y = torch.randn(60, generator=torch.Generator().manual_seed(seed))
    y[:9] = 30.0
    return y


@pytest.mark.slow
def test_scale_and_chance_are_learned_through_outliers() -> None:
    fit = MCMC(HMC(model), 100, 100, 8, seed=1, progress_bar=False, compile=False)
    draws = fit.run(spoiled()).get_samples()
    clean = spoiled()[9:]
    assert abs(float(draws["mean"].mean() - clean.mean())) < 0.15
    assert abs(float(draws["scale"].mean() - clean.std())) < 0.2
    assert 0.08 < float(draws["chance"].mean()) < 0.25
    assert not fit.attributes.get("notes")


def test_it_works_in_pyro() -> None:
    kernel = NUTS(model, init_strategy=init_to_median)
    run = PyroMCMC(kernel, 5, 5, disable_progbar=True)
    run.run(spoiled())
    draws = run.get_samples()
    assert all(x.isfinite().all() for x in draws.values())
    assert Predictive(model, draws)()["y"].shape == (5, 60)


def test_gradient_is_right_on_the_ladder() -> None:
    target = Target.from_model(model, spoiled(), dtype=DOUBLE, compile=False)
    q = 0.3 * torch.randn(2, target.dim, dtype=DOUBLE)
    value, grad = target.value_and_grad(q)
    assert target.rung == "traced"
    torch.testing.assert_close(value, target.log_prob(q))
    assert torch.autograd.gradcheck(target.log_prob, q.requires_grad_())
    found = torch.autograd.grad(target.log_prob(q).sum(), q)[0]
    torch.testing.assert_close(found, grad)


def test_bad_arguments_are_refused() -> None:
    good = dist.Normal(0.0, 1.0)
    with pytest.raises(ShapeError, match="clutter"):
        BoundedLikelihood(good, dist.Normal(torch.zeros(2), 1.0).to_event(1), 0.1)
    for chance in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ConfigurationError, match="outlier_prob"):
            BoundedLikelihood(good, good, chance)
    with pytest.raises(ValueError, match="outlier_prob"):
        BoundedLikelihood(good, good, torch.tensor(1.5), validate_args=True)
    no_mode = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2), 1.0)
    )
    with pytest.raises(UnsupportedError, match="mode"):
        _ = BoundedLikelihood(no_mode, good, 0.1).cap


# -- bounds ----------------------------------------------------------------------------


@given(
    seed=st.integers(0, 10_000),
    c=st.floats(0.05, 12.0),
    dim=st.integers(1, 3),
)
def test_posterior_is_bounded_whatever_the_prior_and_the_data(
    seed: int, c: float, dim: int
) -> None:
    # any prior: weighted points; any likelihood in [exp(-c), 1]
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 40))
    prior = rng.dirichlet(np.full(n, rng.uniform(0.05, 2.0)))
    x = rng.standard_t(2.0, (n, dim))
    info = capped_factor(torch.as_tensor(rng.gamma(0.5, 10.0, n)), c).numpy()
    if rng.random() < 0.5:  # the extreme cases have two values
        info = np.where(rng.random(n) < 0.5, 0.0, -c)
    posterior = prior * np.exp(info)
    posterior /= posterior.sum()
    slack = 1 + 1e-9
    ratio = posterior / prior
    assert ratio.max() <= math.exp(c) * slack
    assert ratio.min() >= math.exp(-c) / slack
    assert 0.5 * np.abs(posterior - prior).sum() <= math.tanh(c / 4) * slack

    def moments(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = w @ x
        return mean, (x - mean).T @ (w[:, None] * (x - mean))

    (before, cov), (after, new) = moments(prior), moments(posterior)
    scale, vectors = np.linalg.eigh(cov)
    keep = scale > 1e-9 * scale.max()
    white = vectors[:, keep] / np.sqrt(scale[keep])
    assert np.linalg.norm((after - before) @ white) <= math.sinh(c / 2) * (1 + 1e-6)
    grown = np.linalg.eigvalsh(white.T @ new @ white)
    assert grown.max() <= math.exp(c) * (1 + 1e-6)


def test_bound_on_the_mean_is_sharp() -> None:
    # half of the prior mass at each of two points, tilted as far as c nats allow
    c = 1.7
    share = 1 / (1 + math.exp(c))
    prior = np.array([1 - share, share])
    posterior = prior * np.array([math.exp(-c), 1.0])
    posterior /= posterior.sum()
    x = np.array([0.0, 1.0])
    sd = math.sqrt(prior @ x**2 - (prior @ x) ** 2)
    assert abs((posterior @ x - prior @ x) / sd - math.sinh(c / 2)) < 1e-12


# -- factors ---------------------------------------------------------------------------


def test_capped_factor_and_its_gradient() -> None:
    info = torch.tensor([0.5, 3.0, 5.0, 1e30, math.inf], requires_grad=True)
    found = capped_factor(info, 4.0)
    assert found.tolist() == [-0.5, -3.0, -4.0, -4.0, -4.0]
    (grad,) = torch.autograd.grad(found.sum(), info)
    assert grad.tolist() == [-1.0, -1.0, 0.0, 0.0, 0.0]
    assert capped_factor(scalar(9.0), 0.1) == scalar(-0.1)
    for cap in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigurationError, match="cap"):
            capped_factor(info, cap)


def test_a_cap_alone_lets_a_learned_scale_collapse() -> None:
    # what the docs warn of: all but one observation become outliers
    y = torch.randn(30, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))

    def objective(s: float) -> float:
        info = (y - y[0]) ** 2 / (2 * s**2)
        return float((capped_factor(info, 3.0) - math.log(s)).sum())

    assert objective(1e-8) > objective(1e-4) > objective(1.0)

    def proper(s: float) -> float:
        fn = BoundedLikelihood(
            dist.Normal(y[0], scalar(s)), dist.Uniform(scalar(-9.0), scalar(9.0)), 0.1
        )
        return float(fn.log_prob(y).sum())

    assert proper(1.0) > proper(1e-4)


POWERED: dict[str, tuple[Any, tuple[float, float]]] = {
    "normal": (dist.Normal(scalar(1.0), scalar(0.4)), (-9.0, 11.0)),
    "laplace": (dist.Laplace(scalar(1.0), scalar(0.4)), (-29.0, 31.0)),
    "student": (
        dist.StudentT(scalar(2.5), scalar(1.0), scalar(0.4)),
        (-math.inf, math.inf),
    ),
    "exponential": (dist.Exponential(scalar(1.7)), (0.0, math.inf)),
    "gamma": (dist.Gamma(scalar(2.3), scalar(1.7)), (0.0, math.inf)),
    "beta": (dist.Beta(scalar(2.3), scalar(1.7)), (0.0, 1.0)),
}


@pytest.mark.parametrize("name", POWERED)
@pytest.mark.parametrize("power", [0.2, 0.7])
def test_density_power_factor_is_its_integral(name: str, power: float) -> None:
    fn, ends = POWERED[name]
    points: Any = {"points": (1.0,)} if all(map(math.isfinite, ends)) else {}
    integral, _ = integrate.quad(
        lambda x: float((fn.log_prob(scalar(x)) * (1 + power)).exp()),
        *ends,
        epsabs=1e-11,
        limit=200,
        **points,
    )
    y = scalar(0.8)
    density = float(fn.log_prob(y).exp())
    expected = (density**power - 1) / power + 1 - integral / (1 + power)
    assert abs(float(density_power_factor(fn, y, power)) - expected) < 1e-8
    small = density_power_factor(fn, y, 1e-7)
    torch.testing.assert_close(small, fn.log_prob(y), atol=1e-5, rtol=1e-5)


def test_density_power_factor_of_vectors_and_classes() -> None:
    tril = torch.tensor([[1.0, 0.0], [0.4, 0.7]], dtype=DOUBLE)
    vector = dist.MultivariateNormal(torch.zeros(2, dtype=DOUBLE), scale_tril=tril)
    y = torch.tensor([0.3, -1.0], dtype=DOUBLE)
    det = float(tril.diagonal().prod())
    integral = (2 * math.pi * det) ** -0.5 / 1.5
    expected = (vector.log_prob(y).exp() ** 0.5 - 1) / 0.5 + 1 - integral / 1.5
    torch.testing.assert_close(density_power_factor(vector, y, 0.5), expected)
    apart = dist.Normal(torch.zeros(2), 1.0)
    joint = density_power_factor(apart.to_event(1), torch.zeros(2), 0.5)
    top = 1 / (2 * math.pi)
    expected = (top**0.5 - 1) / 0.5 + 1 - (top**0.5 / 1.5) / 1.5
    assert abs(float(joint) - expected) < 1e-6
    probs = torch.tensor([0.2, 0.3, 0.5])
    for fn, value in (
        (dist.Categorical(probs), torch.tensor(1)),
        (dist.OneHotCategorical(probs), torch.tensor([0.0, 1.0, 0.0])),
    ):
        found = density_power_factor(fn, value, 0.5)
        expected = (0.3**0.5 - 1) / 0.5 + 1 - float((probs**1.5).sum()) / 1.5
        assert abs(float(found) - expected) < 1e-6
    coin = density_power_factor(dist.Bernoulli(0.3), torch.tensor(1.0), 0.5)
    expected = (0.3**0.5 - 1) / 0.5 + 1 - (0.3**1.5 + 0.7**1.5) / 1.5
    assert abs(float(coin) - expected) < 1e-6
    with pytest.raises(UnsupportedError, match="Poisson"):
        density_power_factor(dist.Poisson(1.0), torch.tensor(1.0), 0.5)
    with pytest.raises(ConfigurationError, match="power"):
        density_power_factor(vector, y, 0.0)
    peaked = dist.Gamma(scalar(0.1), scalar(1.0))  # the integral diverges
    assert density_power_factor(peaked, scalar(1.0), 0.5) == -math.inf


def test_tempered_is_a_power() -> None:
    fn = dist.Normal(torch.zeros(3), 2.0)
    y = torch.tensor([1.0, 2.0, 30.0])
    torch.testing.assert_close(tempered(fn, y, 0.3), 0.3 * fn.log_prob(y))
    with pytest.raises(ConfigurationError, match="beta"):
        tempered(fn, y, -1.0)


@pytest.mark.parametrize("kind", ["capped", "power", "tempered"])
def test_factors_in_a_model(kind: str) -> None:
    def robust(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(y)):
            fn = dist.Normal(mean, 1.0)
            if kind == "capped":
                factor = capped_factor((y - mean) ** 2 / 2, 4.0)
            elif kind == "power":
                factor = density_power_factor(fn, y, 0.3)
            else:
                factor = tempered(fn, y, 0.5)
            pyro.factor("robust", factor)

    y = spoiled()
    target = Target.from_model(robust, y, compile=False)
    q = torch.zeros(1, 1)
    value, grad = target.value_and_grad(q)
    # nine outliers at 30 pull only where their information has no bound
    pull = float(grad) - float(target.with_data(y.clamp(max=12.0)).value_and_grad(q)[1])
    assert (abs(pull) < 1e-4) == (kind != "tempered")
    assert value.isfinite().all()
