"""The plain baselines against closed forms."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.errors import (
    ConfigurationError,
    NotPositiveDefiniteError,
    ShapeError,
    UnsupportedError,
)
from pyro_geo.evaluation import baselines
from pyro_geo.geometry.laplace import laplace

NOISE, PRIOR = 0.5, 2.0

pytestmark = pytest.mark.usefixtures("double_precision")


def regression(x: Tensor, y: Tensor | None = None) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]), PRIOR).to_event(1))
    with pyro.plate("data", x.shape[0]):
        pyro.sample("y", dist.Normal(x @ w, NOISE), obs=y)


def data(num_rows: int = 8, dim: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_rows, dim, generator=generator)
    return x, x.sum(1) + torch.randn(num_rows, generator=generator)


def conjugate() -> tuple[Target, Tensor, Tensor]:
    """The target, its exact posterior mean and its exact precision."""
    x, y = data()
    precision = x.mT @ x / NOISE**2 + torch.eye(x.shape[1]) / PRIOR**2
    mean = torch.linalg.solve(precision, x.mT @ y / NOISE**2)
    return Target.from_model(regression, x, y, compile=False), mean, precision


def assert_standard_normal(z: Tensor, sigmas: float = 4.5) -> None:
    """Mean and covariance of independent rows, each entry within its Monte Carlo error.

    The chance of a false alarm is 7e-6 an entry, below 1e-4 for the nine of a test.
    """
    n, dim = z.shape
    assert (z.mean(0).abs() * math.sqrt(n)).max() < sigmas
    error = torch.full((dim, dim), 1.0 / n).fill_diagonal_(2.0 / n).sqrt()
    assert ((z.mT @ z / n - torch.eye(dim)).abs() / error).max() < sigmas


def whiten(draws: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    return (draws - mean) @ torch.linalg.cholesky(precision)


def random_state_is_kept(call: Callable[[], object]) -> bool:
    before = torch.get_rng_state()
    call()
    return torch.equal(before, torch.get_rng_state())


# -- MAP and ensemble -------------------------------------------------------------


@pytest.mark.parametrize("polish_steps", [0, 50])
def test_map_is_the_ridge_solution(polish_steps: int):
    target, mean, _ = conjugate()
    found = baselines.map_estimate(target, 3, polish_steps=polish_steps)
    atol = 1e-8 if polish_steps else 1e-3
    torch.testing.assert_close(found, mean.expand(3, 3), rtol=0.0, atol=atol)


def test_map_of_a_positive_site_is_that_of_its_logarithm():
    # Gamma(3, 2) in log space: the mode is at shape / rate, not at (shape - 1) / rate
    def model() -> None:
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(3.0), 2.0))
        pyro.sample("y", dist.Normal(0.0 * rate, 1.0), obs=torch.tensor(0.0))

    target = Target.from_model(model, compile=False)
    found = baselines.map_estimate(target, num_steps=300)
    torch.testing.assert_close(target.constrain(found)["rate"], torch.tensor([1.5]))


def test_ensemble_finds_both_wells_and_repeats_with_its_seed():
    target = Target.from_potential(lambda q: (q * q - 1).square().sum(), 1)

    def run(seed: int) -> Tensor:
        return baselines.deep_ensemble(target, 16, seed=seed, num_steps=100)

    found = run(0)
    torch.testing.assert_close(found.abs(), torch.ones(16, 1))
    assert found.min() < 0 < found.max()
    assert torch.equal(found, run(0))
    assert not torch.equal(found.sign(), run(1).sign())
    assert random_state_is_kept(lambda: run(0))


def test_starts_can_be_given_and_are_left_alone():
    target, mean, _ = conjugate()
    initial = torch.full((2, 3), 0.5)
    found = baselines.map_estimate(target, 2, num_steps=0, initial=initial)
    assert torch.equal(initial, torch.full((2, 3), 0.5))
    torch.testing.assert_close(found, mean.expand(2, 3))
    for call in (baselines.deep_ensemble, baselines.sghmc):
        with pytest.raises(ShapeError, match="argument initial"):
            call(target, 3, initial=initial)


def test_fan_in_starts_scale_each_layer_by_its_inputs():
    def network() -> None:
        for name, shape in (("w1", (4, 50)), ("b1", (50,)), ("w2", (50, 30))):
            pyro.sample(name, dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape)))
        pyro.sample("y", dist.Normal(torch.zeros(()), 1.0), obs=torch.tensor(0.0))

    target = Target.from_model(network, compile=False)
    sites = target.constrain(baselines.fan_in_starts(target, 200))
    for name, fan_in in (("w1", 4), ("b1", 4), ("w2", 50)):
        z = sites[name].flatten() * math.sqrt(fan_in)
        # the sample variance of n standard normals has standard deviation sqrt(2 / n)
        assert abs(z.var() - 1) < 4.5 * math.sqrt(2 / z.numel())


# -- Langevin ---------------------------------------------------------------------


@pytest.mark.parametrize("friction", [0.5, 5.0])
def test_sghmc_has_the_exact_normal_covariance_at_a_large_step(friction: float):
    target, mean, precision = conjugate()
    size = 1.2 / torch.linalg.eigvalsh(precision)[-1].sqrt().item()
    draws = baselines.sghmc(
        target,
        2_000,
        300,
        step_size=size,
        friction=friction,
        initial=mean.expand(2000, 3),
    )
    assert draws.shape == (2_000, 1, 3)
    assert_standard_normal(whiten(draws[:, 0], mean, precision))


def test_sghmc_keeps_draws_of_different_times():
    target, mean, precision = conjugate()
    draws = baselines.sghmc(target, 4, 40, num_draws=20, step_size=0.05)
    assert draws.shape == (4, 20, 3)
    assert len(torch.unique(draws.flatten(0, 1), dim=0)) == 80
    assert whiten(draws, mean, precision).abs().max() < 10
    last = baselines.sghmc(target, 4, 40, step_size=0.05)
    assert torch.equal(last[:, 0], draws[:, -1])


def test_sghmc_chooses_a_stable_step():
    target, mean, precision = conjugate()
    start = mean.expand(256, 3)
    draws = baselines.sghmc(target, 256, 150, initial=start)[:, 0]
    spread = whiten(draws, mean, precision).square().mean()
    assert abs(spread - 1) < 4.5 * math.sqrt(2 / (256 * 3))


def test_sghmc_repeats_with_its_seed():
    target, mean, _ = conjugate()

    def run(seed: int) -> Tensor:
        return baselines.sghmc(target, 4, 10, seed=seed, initial=mean.expand(4, 3))

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    assert random_state_is_kept(lambda: run(0))


# -- Laplace ----------------------------------------------------------------------


def draws_of(target: Target, q: Tensor, num_draws: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return laplace(target, q, flat="refuse").draw(num_draws, generator)


def test_linearised_laplace_of_a_linear_model_is_its_laplace():
    target, mean, _ = conjugate()
    x, y = data(num_rows=5)
    test = Target.from_model(regression, x, y, compile=False)
    found = baselines.linearised_laplace(target, mean, test, 7)["y"]
    draws = draws_of(target, mean, 7)
    torch.testing.assert_close(found.loc, draws @ x.mT)
    torch.testing.assert_close(
        found.log_prob(y), test.pointwise_log_likelihood(draws)["y"]
    )


def normal(eta: Tensor) -> dist.TorchDistribution:
    return dist.Normal(eta[:, 0], eta[:, 1].exp())


def student(eta: Tensor) -> dist.TorchDistribution:
    return dist.StudentT(5.0, eta[:, 0], eta[:, 1].exp())


def poisson(eta: Tensor) -> dist.TorchDistribution:
    return dist.Poisson(eta[:, 0].exp())


def bernoulli(eta: Tensor) -> dist.TorchDistribution:
    return dist.Bernoulli(logits=eta[:, 0])


def categorical(eta: Tensor) -> dist.TorchDistribution:
    return dist.Categorical(logits=eta)


def events(eta: Tensor) -> dist.TorchDistribution:
    return dist.Normal(eta, 0.3).to_event(1)


def masked(eta: Tensor) -> dist.TorchDistribution:
    return normal(eta).mask(torch.tensor([True, False, True, True]))


@pytest.mark.parametrize(
    "family", [normal, student, poisson, bernoulli, categorical, events, masked]
)
def test_linearised_laplace_moves_the_natural_parameters(family):
    x, y = torch.linspace(-1, 1, 4).unsqueeze(-1), torch.ones(4, 2)
    y = y if family is events else y[:, 0]

    def eta(w: Tensor) -> Tensor:
        return torch.sin(x @ w.reshape(1, 2) + 1.0)

    def model(y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 4):
            pyro.sample("y", family(eta(w)), obs=y)

    target = Target.from_model(model, y, compile=False)
    q = torch.tensor([0.3, -0.7])
    moves = draws_of(target, q, 3) - q
    found = baselines.linearised_laplace(target, q, target, 3)["y"]
    for i in range(3):
        tangent = torch.func.jvp(eta, (q,), (moves[i],))[1]
        expected = family(eta(q) + tangent)
        expected = (
            getattr(expected, "base_dist", expected) if family is masked else expected
        )
        torch.testing.assert_close(found.log_prob(y)[i], expected.log_prob(y))


def class_fit(family: Callable[[Tensor], Any], width: int, scale: float) -> Target:
    """Classes whose logits are linear in weights of a normal prior, at four places."""
    x = torch.linspace(-1, 1, 4)

    def model(y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(width), scale).to_event(1))
        with pyro.plate("data", 4):
            pyro.sample("y", family(x.unsqueeze(-1) * w), obs=y)

    return Target.from_model(model, torch.tensor([0.0, 1, 1, 0]), compile=False)


Q = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)


@pytest.mark.parametrize("mixing", ["probit", "bridge"])
def test_classes_are_mixed_by_the_published_formulas(mixing):
    target = class_fit(categorical, 3, 2.0)
    moves = draws_of(target, Q, 50) - Q
    moves = moves - moves.mean(-1, keepdim=True)
    x = torch.linspace(-1, 1, 4).unsqueeze(-1)
    mean = x * (Q - Q.mean())
    variance = (x * moves.unsqueeze(1)).square().mean(0)
    if mixing == "probit":
        expected = (mean / (1 + math.pi * variance / 8).sqrt()).softmax(-1)
    else:
        total = (-mean).exp().sum(-1, keepdim=True)
        alpha = (1 - 2 / 3 + mean.exp() * total / 9) / variance
        expected = alpha / alpha.sum(-1, keepdim=True)
    found = baselines.linearised_laplace(target, Q, target, 50, mixing=mixing)["y"]
    torch.testing.assert_close(found.probs, expected.unsqueeze(0))


def test_the_probit_is_near_the_mean_over_normal_logits():
    # MacKay's approximation of E sigmoid(l) has an error below .02 for every l
    target = class_fit(bernoulli, 1, 3.0)
    q = torch.tensor([0.8])
    found = baselines.linearised_laplace(target, q, target, 4000, mixing="probit")
    logits = baselines.linearised_laplace(target, q, target, 4000)["y"].logits
    exact = torch.sigmoid(logits).mean(0)
    assert (found["y"].probs[0] - exact).abs().max() < 0.02 + 4 * 0.5 / 4000**0.5


def test_the_bridge_takes_logits_that_overflow_elsewhere():
    target = class_fit(categorical, 3, 2.0)
    far = 1e4 * Q
    found = baselines.linearised_laplace(target, far, target, 5, mixing="bridge")["y"]
    assert found.probs.isfinite().all()
    assert (found.probs.argmax(-1)[0] == torch.tensor([1, 1, 2, 2])).all()


def test_mixing_is_refused_where_it_has_no_formula():
    target = conjugate()[0]
    with pytest.raises(UnsupportedError, match=r"mixing='probit'.*site 'y'.*Normal"):
        baselines.linearised_laplace(target, torch.zeros(3), target, mixing="probit")
    two = class_fit(bernoulli, 1, 3.0)
    with pytest.raises(UnsupportedError, match=r"bridge.*Bernoulli"):
        baselines.linearised_laplace(two, torch.zeros(1), two, mixing="bridge")


# -- mistakes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("num_starts", lambda t: baselines.map_estimate(t, 0)),
        ("num_steps", lambda t: baselines.map_estimate(t, num_steps=-1)),
        ("polish_steps", lambda t: baselines.map_estimate(t, polish_steps=-1)),
        ("learning_rate", lambda t: baselines.map_estimate(t, learning_rate=math.nan)),
        ("num_starts", lambda t: baselines.deep_ensemble(t, 0)),
        ("num_chains", lambda t: baselines.sghmc(t, 0)),
        ("num_draws", lambda t: baselines.sghmc(t, 1, num_draws=0)),
        ("num_steps", lambda t: baselines.sghmc(t, 1, 9, num_draws=5)),
        ("friction", lambda t: baselines.sghmc(t, 1, friction=0.0)),
        ("step_size", lambda t: baselines.sghmc(t, 1, step_size=-1.0)),
        ("num_draws", lambda t: baselines.linearised_laplace(t, torch.zeros(3), t, 0)),
    ],
)
def test_a_number_out_of_range_is_named(name: str, call: Callable[[Target], Tensor]):
    with pytest.raises(ConfigurationError, match=name):
        call(conjugate()[0])


def test_laplace_refuses_what_it_cannot_do():
    target, mean, _ = conjugate()
    with pytest.raises(ShapeError, match="argument q"):
        baselines.linearised_laplace(target, mean.unsqueeze(0), target)
    plain = Target.from_potential(lambda q: (q * q).sum(), 3)
    with pytest.raises(UnsupportedError, match="'test'"):
        baselines.linearised_laplace(target, mean, plain)
    other = Target.from_model(regression, *data(dim=2), compile=False)
    with pytest.raises(ShapeError, match="'test'"):
        baselines.linearised_laplace(target, mean, other)


def test_linearised_laplace_names_a_prior_that_curves_the_wrong_way():
    def funnel() -> None:
        v = pyro.sample("v", dist.Normal(torch.tensor(0.0), 3.0))
        x = pyro.sample("x", dist.Normal(0.0, v.exp()))
        pyro.sample("y", dist.Normal(x, 10.0), obs=torch.tensor(0.0))

    target = Target.from_model(funnel, compile=False)
    with pytest.raises(NotPositiveDefiniteError, match="smallest eigenvalue"):
        baselines.linearised_laplace(target, torch.tensor([0.0, 2.0]), target, 1)


def test_linearised_laplace_names_an_unknown_family():
    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("y", dist.Exponential(w.exp()), obs=torch.tensor(1.0))

    target = Target.from_model(model, compile=False)
    with pytest.raises(UnsupportedError, match="site 'y'"):
        baselines.linearised_laplace(target, torch.zeros(1), target)
