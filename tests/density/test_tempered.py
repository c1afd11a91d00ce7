"""Tempered targets: the likelihood to a power, and nothing built twice."""

import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.density import Localisation, Target
from pyro_geo.errors import ConfigurationError
from pyro_geo.geometry.curvature import GaussNewton, PriorHessian
from tests.density.kinds import KINDS

F64 = torch.float64


def squares(outputs, targets):
    return (outputs - targets).square().sum(-1)


def module_target():
    x = torch.linspace(-1, 1, 6, dtype=F64).reshape(3, 2)
    return Target.from_module(
        torch.nn.Linear(2, 1),
        squares,
        (x, x[:, :1]),
        prior_precision=2.0,
        dtype=F64,
    )


MAKERS: dict[str, Any] = {
    "model": lambda: KINDS["hierarchical"].target(),
    "scaled sites": lambda: KINDS["scale"].target(),
    "masked sites": lambda: KINDS["mask"].target(),
    "discrete latents": lambda: KINDS["mixture"].target(),
    "module": module_target,
    "potential": lambda: Target.from_potential(lambda q: q.exp().sum(), 2, dtype=F64),
}
EVERY = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def positions(target, count=3):
    generator = torch.Generator().manual_seed(1)
    return 0.3 * torch.randn(count, target.dim, generator=generator, dtype=target.dtype)


@EVERY
@pytest.mark.parametrize("beta", [0.0, 0.3, 2.0])
def test_the_likelihood_is_raised_to_a_power(make, beta):
    target = make()
    q = positions(target)
    plain, found = target.terms(q), target.tempered(beta).terms(q)
    torch.testing.assert_close(found.log_prior, plain.log_prior)
    torch.testing.assert_close(found.log_likelihood, beta * plain.log_likelihood)
    alone = target.tempered(beta, prior=None).terms(q)
    torch.testing.assert_close(alone.log_likelihood, beta * plain.log_likelihood)
    assert bool((alone.log_prior == 0).all())


@EVERY
def test_a_localisation_takes_the_place_of_the_prior(make):
    target = make()
    q = positions(target)
    centre = torch.full((target.dim,), 0.5, dtype=target.dtype)
    found = target.tempered(0.3, prior=Localisation(centre, 4.0)).terms(q)
    expected = -2 * (q - 0.5).square().sum(-1)
    torch.testing.assert_close(found.log_prior, expected)
    plain = target.log_likelihood(q)
    torch.testing.assert_close(found.log_likelihood, 0.3 * plain)


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("prior", ["model", None, "pull"])
def test_another_temperature_builds_nothing(make, prior):
    target = make()
    q = positions(target)

    def at(start, beta, strength=1.0):
        pull = Localisation(torch.zeros_like(q[0]), strength)
        return start.tempered(beta, prior=pull if prior == "pull" else prior)

    first = at(target, 0.5)
    values = [first.value_and_grad(q)[1]]
    built = first.build_seconds
    # from the target, from a sibling, from a tempered one; a number and a tensor
    for start, beta in ((target, 0.25), (target.with_rung("traced"), 2.0), (first, 1)):
        other = at(start, torch.tensor(beta), strength=3.0)
        values.append(other.value_and_grad(q)[1])
        assert other.build_seconds == built
    assert not torch.equal(values[0], values[1])


@EVERY
def test_a_tempered_target_at_another_temperature_is_not_tempered_twice(make):
    target = make()
    q = positions(target)
    twice = target.tempered(0.5).tempered(0.25)
    assert torch.equal(twice.log_prob(q), target.tempered(0.25).log_prob(q))
    with pytest.raises(ConfigurationError, match="argument prior"):
        target.tempered(0.5).tempered(0.25, prior=None)


def test_the_power_of_a_sum_over_discrete_values_is_not_a_sum_of_powers():
    def model(y):
        p = pyro.sample("p", dist.Normal(y.new_zeros(()), 1.0))
        z = pyro.sample("z", dist.Bernoulli(logits=p))
        pyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)

    target = Target.from_model(model, torch.tensor(1.5, dtype=F64), dtype=F64)
    q = torch.tensor([[0.4]], dtype=F64)
    y = torch.tensor(1.5, dtype=F64)
    chance = q[0, 0].sigmoid()
    by_value = [dist.Normal(m, 1.0).log_prob(y).exp() for m in (0.0, 2.0)]
    total = ((1 - chance) * by_value[0] + chance * by_value[1]).log()
    found = target.tempered(0.5).log_likelihood(q)
    torch.testing.assert_close(found, 0.5 * total[None])


def test_a_tempered_model_is_still_a_model():
    target = KINDS["hierarchical"].target()
    tempered = target.tempered(0.3)
    q = positions(target)
    assert tempered.dims == target.dims
    assert tempered.coords == target.coords
    assert list(tempered.observed) == list(target.observed)
    for name, rows in target.pointwise_log_likelihood(q).items():
        assert torch.equal(tempered.pointwise_log_likelihood(q)[name], rows)
    found = GaussNewton(tempered, q[0]).dense()
    torch.testing.assert_close(found, 0.3 * GaussNewton(target, q[0]).dense())
    prior = PriorHessian(tempered, q[0]).dense()
    torch.testing.assert_close(prior, PriorHessian(target, q[0]).dense())
    again = pickle.loads(pickle.dumps(module_target().tempered(0.3)))
    at = positions(again)
    assert torch.equal(again.log_prob(at), module_target().tempered(0.3).log_prob(at))


def test_new_data_go_behind_the_temperature():
    def model(y):
        m = pyro.sample("m", dist.Normal(y.new_zeros(()), 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    y = torch.tensor([1.0, 2.0], dtype=F64)
    target = Target.from_model(model, y, dtype=F64)
    q = torch.tensor([[0.2]], dtype=F64)
    beta = torch.tensor(0.5, dtype=F64)
    new = target.tempered(0.5).with_data(beta, y + 1)
    expected = target.with_data(y + 1).tempered(0.5)
    assert torch.equal(new.log_prob(q), expected.log_prob(q))
    potential = Target.from_potential(lambda q, y: (q - y).square().sum(), 1, y)
    moved = potential.tempered(0.5).with_data(torch.tensor(0.5), y.float() + 1)
    expected = potential.with_data(y.float() + 1).tempered(0.5)
    at = torch.tensor([[0.2]])
    assert torch.equal(moved.log_prob(at), expected.log_prob(at))


@pytest.mark.parametrize("beta", [-0.1, float("inf"), float("nan")])
def test_an_impossible_temperature_is_named(beta):
    with pytest.raises(ConfigurationError, match="argument beta"):
        module_target().tempered(beta)
