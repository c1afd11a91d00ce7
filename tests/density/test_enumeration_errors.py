"""Discrete latents that cannot be summed out, and starts that none of them allows."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.errors import (
    InitializationError,
    ModelError,
    ShapeError,
    UnsupportedModelError,
)
from tests.density.kinds import X, Y, mixture


def assert_four_parts(error):
    message = str(error)
    assert ": found " in message
    assert ", expected " in message
    assert " (" in message.split(": found ")[0]
    assert message.endswith(".")


def without_end(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Poisson(rate))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def all_discrete(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def vector(y):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(p).expand([len(y)]).to_event(1))
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


def uneven(y):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("z", dist.Binomial(torch.arange(12.0) + 1, p))


def branch(y):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(p))
    scale = 1.0 if z else 2.0
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(0.0, scale), obs=y)


def undeclared(y):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(z * w.sum(), 1.0), obs=y)


def come_and_go(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    if torch.rand(()) < 0.5:
        pyro.sample("sometimes", dist.Bernoulli(0.5))
    pyro.sample("y", dist.Normal(x.expand(len(y)), 1.0).to_event(1), obs=y)


def more_or_less(y):
    pyro.sample("x", dist.Normal(0.0, 1.0))
    n = int(torch.randint(2, 1_000, ()))
    pyro.sample("z", dist.Categorical(torch.ones(n)))


def crossed(y):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    rows = pyro.plate("rows", y.shape[0], dim=-2)
    columns = pyro.plate("columns", y.shape[1], dim=-1)
    with rows:
        a = pyro.sample("a", dist.Bernoulli(p))
    with columns:
        b = pyro.sample("b", dist.Bernoulli(p))
    with rows, columns:
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


REFUSED = {
    without_end: (UnsupportedModelError, "site 'z'", "Poisson with support"),
    all_discrete: (UnsupportedModelError, "site 'z'", "no continuous latent"),
    vector: (UnsupportedModelError, "site 'z'", "plate instead of to_event"),
    uneven: (UnsupportedModelError, "site 'z'", "the widest range"),
    branch: (UnsupportedModelError, "site 'z'", "ambiguous"),
    undeclared: (ShapeError, "site 'w'", "belongs to no plate"),
    come_and_go: (ModelError, "site 'sometimes'", "not in every run"),
    more_or_less: (ShapeError, "site 'z'", "number="),
    crossed: (UnsupportedModelError, "site 'a'", "tree-structured"),
}


@pytest.mark.parametrize("model", REFUSED, ids=lambda model: model.__name__)
def test_refused_models_are_told_what_and_where(model):
    error, where, what = REFUSED[model]
    with pytest.raises(error, match=what) as caught:
        Target.from_model(model, X)
    assert f"({where})" in str(caught.value)
    assert_four_parts(caught.value)


def test_no_start_names_the_site_that_no_value_explains():
    y = Y.clone()
    y[3:5] = torch.nan
    target = Target.from_model(mixture, y, dtype=torch.float64)
    with pytest.raises(
        InitializationError,
        match=r"chain 0, site 'y' \(observed data, 2 of 12 not finite, log-prob.* nan",
    ):
        target.initial(2)

    def impossible(y):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Bernoulli(p))
            pyro.sample("y", dist.Uniform(z, z + 1), obs=y)

    target = Target.from_model(impossible, torch.tensor([0.5, 2.5, 1.5]))
    with pytest.raises(InitializationError, match=r"site 'y' \(observed data, log-p"):
        target.initial(1)

    def together(y):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Bernoulli(p))
            pyro.sample("y", dist.Uniform(z, z + 1), obs=y)
            pyro.factor("never", torch.where(z == 1, 0.0, -torch.inf))

    target = Target.from_model(together, torch.tensor([0.5, 1.5]))
    with pytest.raises(InitializationError, match=r"the sum over the discrete sites"):
        target.initial(1)
