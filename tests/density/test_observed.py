"""Observed data that no value of the latents can make right, and what is said of it."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_geo.density import Target
from pyro_geo.errors import InitializationError, ModelError, ShapeError

X = torch.linspace(-1.0, 1.0, 12)
Y = X.sin()


def column_mean(y):
    w = pyro.sample("w", dist.Normal(torch.zeros(1, 1), 1.0).to_event(2))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X[:, None] @ w, 1.0), obs=y)


def column_without_plate(y):
    w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0))
    pyro.sample("y", dist.Normal(w * X[:, None], 1.0), obs=y)


def line(y):
    w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("data", len(X)):
        pyro.sample("y", dist.Normal(w * X, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "y"),
    [(column_mean, Y), (column_without_plate, Y), (line, Y[:, None])],
)
def test_data_that_broadcasting_would_repeat_are_refused(model, y):
    with pytest.raises(ShapeError, match=r"'y'.*together \(12, 12\)"):
        Target.from_model(model, y)


def test_data_that_are_meant_for_every_element_of_a_plate_are_not():
    def raters(y):
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("rater", 3, dim=-2), pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(w * X, 1.0), obs=y)

    def one_number(y):
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(w * X, 1.0), obs=y)

    def many_of_one(y):
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(w, 1.0), obs=y)

    for model, y in ((raters, Y), (one_number, Y[0]), (many_of_one, Y)):
        assert Target.from_model(model, y).dim == 1


def family(make, mask: Any = True):
    def model(y):
        rate = pyro.sample("rate", dist.LogNormal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", make(rate), obs=y)

    return model


BAD = torch.tensor([1.0, -1.0, 0.0, -1.0])


@pytest.mark.parametrize(
    "make",
    [
        lambda rate: dist.Bernoulli(logits=rate),
        dist.Exponential,
        lambda rate: dist.HalfNormal(rate),
        lambda rate: dist.Exponential(rate).mask(True),
    ],
)
def test_data_outside_a_support_are_refused_and_counted(make):
    with pytest.raises(ModelError, match=r"site 'y'.*2 of 4 values, -1.0 the first"):
        Target.from_model(family(make), BAD)


def test_new_data_outside_a_support_are_refused_too():
    target = Target.from_model(family(dist.Exponential), BAD.abs())
    with pytest.raises(ModelError, match="outside their support"):
        target.with_data(BAD)


def test_masked_data_may_lie_outside():
    seen = BAD >= 0
    Target.from_model(family(dist.Exponential, mask=seen), BAD)
    Target.from_model(family(lambda rate: dist.Exponential(rate).mask(seen)), BAD)


def test_a_support_that_depends_on_a_latent_is_not_looked_at():
    model = family(lambda rate: dist.Uniform(0.0, rate))
    assert Target.from_model(model, torch.tensor([0.1, 50.0])).dim == 1


def test_without_pyros_validation_data_are_taken_as_they_are():
    shares = torch.tensor([0.2, 0.9])
    model = family(lambda rate: dist.Bernoulli(logits=rate))
    with pyro.validation_enabled(False):
        target = Target.from_model(model, shares)
    q = torch.zeros(1, 1)
    expected = shares * 1.0 - torch.nn.functional.softplus(torch.tensor(1.0))
    torch.testing.assert_close(target.log_likelihood(q), expected.sum()[None])


@pytest.mark.parametrize("y", ["twelve", 0.5])
def test_data_that_are_no_tensor_are_refused_by_their_site(y):
    def model():
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(w, 1.0), obs=y)

    with pytest.raises(ModelError, match=rf"no tensor \(site 'y'\).*{y}"):
        Target.from_model(model)


def test_no_start_names_the_argument_with_nan_and_the_bad_parameter():
    x = X.clone()
    x[3] = torch.nan

    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("y", dist.Normal(w * x, 1.0).to_event(1), obs=y)

    with pytest.raises(InitializationError, match=r"number 1 of shape \(12,\) has 1"):
        Target.from_model(model, x, Y).initial(1)

    def negative():
        pyro.sample("w", dist.Normal(torch.tensor(0.0), -1.0))

    with pytest.raises(InitializationError, match="'w'.*scale not in GreaterThan"):
        Target.from_model(negative).initial(1)
