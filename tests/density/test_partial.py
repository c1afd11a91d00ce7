"""Data with weights of their own, against models without these data."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_geo import Target
from pyro_geo.density.partial import data_scales, reweigh, weigh
from pyro_geo.errors import ConfigurationError, ShapeError, UnsupportedError
from pyro_geo.geometry.curvature import GaussNewton

X = torch.linspace(-1, 1, 5, dtype=torch.float64)
Y = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)


def logistic(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=w[0] + w[1] * x), obs=y)


def mixture(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2)))
        pyro.sample("y", dist.Normal(w[0] + w[1] * z, 1.0), obs=y)


def of(model: object, rows: list[int]) -> Target:
    return Target.from_model(model, X[rows], Y[rows], dtype=torch.float64)  # type: ignore[arg-type]


def positions() -> Tensor:
    return torch.randn(
        3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("model", [logistic, mixture])
def test_weight_zero_is_the_model_without_the_datum(model: object) -> None:
    q, weights = positions(), torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    some = weigh(of(model, [0, 1, 2, 3, 4]), {"y": weights})
    fewer = of(model, [0, 2, 4])
    torch.testing.assert_close(some.log_likelihood(q), fewer.log_likelihood(q))
    torch.testing.assert_close(some.log_prior(q), fewer.log_prior(q))
    for one, two in zip(some.value_and_grad(q), fewer.value_and_grad(q), strict=True):
        torch.testing.assert_close(one, two)
    back = reweigh(some, of(model, [0, 1, 2, 3, 4]), {})
    whole = of(model, [0, 1, 2, 3, 4])
    torch.testing.assert_close(back.log_prob(q), whole.log_prob(q))


def test_powers_between_are_those_of_the_likelihood() -> None:
    target, q = of(logistic, [0, 1, 2, 3, 4]), positions()
    weights = torch.tensor([1.0, 0.3, 1.0, 1.0, 0.5], dtype=torch.float64)
    found = weigh(target, {"y": weights}).log_likelihood(q)
    each = target.pointwise_log_likelihood(q)["y"]
    torch.testing.assert_close(found, (each * weights).sum(1))
    curved = GaussNewton(weigh(target, {"y": weights}), q[0]).dense()
    parts = [GaussNewton(of(logistic, [i]), q[0]).dense() for i in range(5)]
    expected = sum(w * part for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(curved, expected)


def test_scales_and_temperatures_stay() -> None:
    model = poutine.scale(logistic, scale=2.0)
    q = positions()
    for target, factor in (
        (of(model, [0, 1, 2]), 2.0),
        (of(logistic, [0, 1, 2]).tempered(0.5), 0.5),
    ):
        assert data_scales(target)["y"].tolist() == [factor] * 3
        some = weigh(target, {"y": torch.tensor([1.0, 0.0, 1.0])})
        each = target.pointwise_log_likelihood(q)["y"]
        torch.testing.assert_close(
            some.log_likelihood(q), factor * (each[:, 0] + each[:, 2])
        )
        assert data_scales(some)["y"].tolist() == [factor, 0.0, factor]


@pytest.mark.parametrize("model", [logistic, mixture])
@pytest.mark.parametrize("prior", ["model", None])
def test_weights_stay_under_a_temperature(model: object, prior: Any) -> None:
    q, weights = positions(), torch.tensor([1.0, 0.0, 0.5, 0.0, 2.0]).double()
    whole = of(model, [0, 1, 2, 3, 4])
    some = weigh(whole, {"y": weights})
    cold = some.tempered(0.25, prior=prior)
    expected = 0.25 * some.log_likelihood(q)
    torch.testing.assert_close(cold.log_likelihood(q), expected)
    assert data_scales(cold)["y"].tolist() == [0.25, 0.0, 0.125, 0.0, 0.5]
    assert cold.pointwise_log_likelihood(q)["y"][:, 1].tolist() == [0.0] * 3
    if prior is None:
        return
    torch.testing.assert_close(cold.log_prior(q), whole.log_prior(q))
    beta = torch.tensor(0.25, dtype=torch.float64)
    again = cold.with_data(beta, weights, X, 1 - Y).log_prob(q)
    other = Target.from_model(model, X, 1 - Y, dtype=torch.float64)  # type: ignore[arg-type]
    expected = weigh(other, {"y": weights}).tempered(0.25).log_prob(q)
    torch.testing.assert_close(again, expected)
    twice = weigh(cold, {"y": torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0])})
    assert data_scales(twice)["y"].tolist() == [0.0, 0.0, 0.125, 0.0, 0.5]
    each = whole.pointwise_log_likelihood(q)["y"]
    expected = each @ torch.tensor([0.0, 0.0, 0.125, 0.0, 0.5]).double()
    torch.testing.assert_close(twice.log_likelihood(q), expected)


def test_curvature_of_a_weighted_model_is_tempered_with_it() -> None:
    q, weights = positions(), torch.tensor([1.0, 0.0, 0.5, 0.0, 2.0]).double()
    some = weigh(of(logistic, [0, 1, 2, 3, 4]), {"y": weights})
    found = GaussNewton(some.tempered(0.25), q[0]).dense()
    torch.testing.assert_close(found, 0.25 * GaussNewton(some, q[0]).dense())


@pytest.mark.parametrize("model", [logistic, mixture])
def test_data_of_weight_zero_have_no_pointwise_likelihood(model: object) -> None:
    q, weights = positions(), torch.tensor([1.0, 0.0, 0.5, 0.0, 2.0])
    whole = of(model, [0, 1, 2, 3, 4])
    found = weigh(whole, {"y": weights}).pointwise_log_likelihood(q)["y"]
    expected = torch.where(weights > 0, whole.pointwise_log_likelihood(q)["y"], 0.0)
    torch.testing.assert_close(found, expected)


def test_modules_lose_data_too() -> None:
    module = torch.nn.Linear(1, 1).double()

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return (out[:, 0] - y) ** 2

    target = Target.from_module(
        module, loss, (X[:, None], Y), prior_precision=1.0, dtype=torch.float64
    )
    rows = torch.tensor([0, 2, 3])
    fewer = Target.from_module(
        module,
        loss,
        (X[rows, None], Y[rows]),
        prior_precision=1.0,
        dtype=torch.float64,
    )
    q, weights = positions(), torch.zeros(5).index_fill(0, rows, 1.0)
    some = weigh(target, {"loss": weights})
    torch.testing.assert_close(some.log_prob(q), fewer.log_prob(q))
    assert some.pointwise_log_likelihood(q)["loss"][:, 1].tolist() == [0.0] * 3


def test_an_impossible_datum_of_weight_zero_does_no_harm() -> None:
    def model(y: Tensor) -> None:
        rate = pyro.sample("rate", dist.Exponential(torch.ones((), dtype=y.dtype)))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Uniform(0, 1 + rate), obs=y)

    y = torch.tensor([0.5, 40.0], dtype=torch.float64)
    target = Target.from_model(model, y, dtype=torch.float64)
    q = torch.zeros(1, 1, dtype=torch.float64)
    assert target.log_likelihood(q).item() == -torch.inf
    some = weigh(target, {"y": torch.tensor([1.0, 0.0])})
    fewer = Target.from_model(model, y[:1], dtype=torch.float64)
    torch.testing.assert_close(some.log_likelihood(q), fewer.log_likelihood(q))


def test_mistakes_are_named() -> None:
    target = of(logistic, [0, 1, 2])
    with pytest.raises(ConfigurationError, match="sites among"):
        weigh(target, {"x": torch.ones(3)})
    with pytest.raises(ShapeError):
        weigh(target, {"y": torch.ones(2)})
    with pytest.raises(ConfigurationError, match="at least 0"):
        weigh(target, {"y": torch.tensor([-1.0, 1.0, 1.0])})
    with pytest.raises(UnsupportedError, match="sum over data"):
        weigh(Target.from_potential(lambda q: (q * q).sum(), 1), {})
    with pytest.raises(ConfigurationError, match="made by weigh"):
        reweigh(target, target, {})
