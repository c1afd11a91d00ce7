"""Discrete latents: summed out exactly, wherever they stand in the model."""

import itertools
import pickle
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import init_to_uniform
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.indexing import Vindex

from pyro_geo.density import Target
from pyro_geo.density._log_sum import einsum, log_sum_exp
from pyro_geo.density.model import ModelDensity
from pyro_geo.errors import FallbackWarning, UnsupportedError
from tests.density.kinds import KINDS, Kind, Y, mixture

COUNTS = torch.tensor([0, 3, 0, 1, 0, 0, 2, 4, 0, 1], dtype=torch.float64)


def positions(target, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, target.dim)
    return torch.randn(shape, generator=generator, dtype=target.dtype) * 0.5


# -- against Pyro ---------------------------------------------------------------------


def two_discrete(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2, 3), 2.0).to_event(2))
    with pyro.plate("data", len(y)):
        a = pyro.sample("a", dist.Bernoulli(p)).long()
        b = pyro.sample("b", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        pyro.sample("y", dist.Normal(Vindex(loc)[a, b], 1.0), obs=y)


def one_hot(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 2.0).to_event(1))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.OneHotCategorical(weights))
        pyro.sample("y", dist.Normal(z @ loc, 1.0), obs=y)


def counted(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Binomial(4, p))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def scaled(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with poutine.scale(scale=2.5), pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(p))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def masked(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(y)), poutine.mask(mask=y > 0):
        z = pyro.sample("z", dist.Bernoulli(p))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def partly_observed(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(p), obs=(y > 0.5).double(), obs_mask=y > 0)
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def topics(words):
    """Words in documents: two plates, a discrete site in each."""
    phi = pyro.sample("phi", dist.Dirichlet(torch.ones(2, 4)).to_event(1))
    with pyro.plate("document", words.shape[1], dim=-1):
        kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.3, 0.7])))
        theta = torch.tensor([[0.9, 0.1], [0.4, 0.6]])[kind]
        with pyro.plate("word", len(words), dim=-2):
            topic = pyro.sample("topic", dist.Categorical(theta))
            pyro.sample("words", dist.Categorical(Vindex(phi)[topic, :]), obs=words)


def one_for_all(y):
    """A discrete site outside all plates."""
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    z = pyro.sample("z", dist.Bernoulli(0.3))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc[z.long()], 1.0), obs=y)


def single_row(y):
    """A plate of length one, whose axis the packed tensors drop."""
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("row", 1, dim=-2), pyro.plate("data", len(y), dim=-1):
        z = pyro.sample("z", dist.Bernoulli(p))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y[None])


def sequential_sites(y):
    """No plates at all, as many axes as data."""
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    for i in range(4):
        z = pyro.sample(f"z_{i}", dist.Bernoulli(p))
        pyro.sample(f"y_{i}", dist.Normal(z, 1.0), obs=y[i])


def with_factor(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(p))
        pyro.factor("soft", -((z - y) ** 2))


def annotated(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(p), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


WORDS = torch.tensor([[0, 1, 2], [3, 3, 0], [1, 1, 2], [0, 2, 2]])
MODELS: dict[str, Kind] = {
    "two_discrete": Kind(two_discrete, (Y,)),
    "one_hot": Kind(one_hot, (Y,)),
    "counted": Kind(counted, (Y,), warns=True),  # Pyro reads the largest count
    "scaled": Kind(scaled, (Y,)),
    "masked": Kind(masked, (Y,)),
    "partly_observed": Kind(partly_observed, (Y,)),
    "topics": Kind(topics, (WORDS,)),
    "one_for_all": Kind(one_for_all, (Y,)),
    "single_row": Kind(single_row, (Y,)),
    "sequential_sites": Kind(sequential_sites, (Y,)),
    "with_factor": Kind(with_factor, (Y,)),
    "annotated": Kind(annotated, (Y,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_potential_is_pyros_on_every_rung(name):
    kind = MODELS[name]
    target = kind.target()
    q = positions(target)
    torch.set_default_dtype(torch.float64)
    potential = initialize_model(kind.model, kind.args)[1]
    torch.set_default_dtype(torch.float32)
    rows = []
    for row in q:
        torch.set_default_dtype(torch.float64)
        x = row.clone().requires_grad_()
        value = -potential(target.layout.unflatten(x))
        (grad,) = torch.autograd.grad(value, x)
        rows.append((value.detach(), grad))
        torch.set_default_dtype(torch.float32)
    value, grad = (torch.stack(parts) for parts in zip(*rows, strict=True))
    for rung in ("traced", "mapped", "sequential"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if kind.warns else "error", FallbackWarning)
            fixed = target.with_rung(rung)
            found = fixed.value_and_grad(q)
        torch.testing.assert_close(found[0], value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found[1], grad, rtol=1e-10, atol=1e-10)
        assert fixed.rung == rung
    assert len(target.notes) == kind.warns


@pytest.mark.parametrize("name", MODELS)
def test_units_of_data_sum_up_to_the_likelihood(name):
    kind = MODELS[name]
    target = kind.target()
    q = positions(target)
    pointwise = target.pointwise_log_likelihood(q)
    total = sum(v.reshape(len(q), -1).sum(-1) for v in pointwise.values())
    if name == "scaled":  # scaled before the sum over z, as Pyro has it
        z = dist.Bernoulli(target.constrain(q)["p"])
        both = [
            z.log_prob(torch.tensor(k))[:, None] + normal(Y - k) for k in (0.0, 1.0)
        ]
        torch.testing.assert_close(pointwise["y"], torch.logaddexp(*both))
        return
    if name in ("masked", "partly_observed"):
        # Pyro sums over the values of masked sites all the same: log 2 for each
        missing = (Y <= 0) if name == "masked" else (Y > 0)
        total = total + missing.sum() * torch.tensor(2.0).double().log()
        if name == "masked":
            unseen = pointwise["y"][:, missing]
            torch.testing.assert_close(unseen, torch.zeros_like(unseen))
    torch.testing.assert_close(total, target.log_likelihood(q))


def normal(x):
    return dist.Normal(0.0, torch.tensor(1.0).double()).log_prob(x)


def assert_four_parts(error):
    message = str(error)
    assert ": found " in message
    assert ", expected " in message
    assert " (" in message.split(": found ")[0]
    assert message.endswith(".")


# -- against sums by hand --------------------------------------------------------------


def test_a_mixture_is_a_mixture():
    target = KINDS["mixture"].target()
    q = positions(target)
    sites = target.constrain(q)
    for row, found in zip(
        range(3), target.pointwise_log_likelihood(q)["y"], strict=True
    ):
        weights = torch.distributions.Categorical(sites["weights"][row])
        parts = torch.distributions.Normal(sites["loc"][row], sites["scale"][row])
        expected = torch.distributions.MixtureSameFamily(weights, parts).log_prob(Y)
        torch.testing.assert_close(found, expected)


def test_a_hidden_markov_chain_is_the_sum_over_its_paths():
    target = KINDS["hidden_markov"].target()
    q = positions(target, 1)
    sites = {name: value[0] for name, value in target.constrain(q).items()}
    move, loc = sites["move"], sites["loc"]
    y = Y[:4]
    paths = []
    for path in itertools.product(range(2), repeat=4):
        total, last = torch.zeros((), dtype=torch.float64), 0
        for state, value in zip(path, y, strict=True):
            total = total + move[last, state].log() + normal(value - loc[state])
            last = state
        paths.append(total)
    expected = torch.stack(paths).logsumexp(0)
    torch.testing.assert_close(target.log_likelihood(q)[0], expected)
    prior = dist.Dirichlet(torch.ones(2).double()).log_prob(move).sum()
    prior = prior + dist.Normal(0.0, torch.tensor(2.0).double()).log_prob(loc).sum()
    jacobian = target.layout.constrain_with_jacobian(q[0])[1]
    torch.testing.assert_close(target.log_prior(q)[0], prior + jacobian)


def test_a_latent_that_follows_a_discrete_one_has_the_prior_of_both():
    target = KINDS["continuous_on_discrete"].target()
    q = positions(target)
    sites = target.constrain(q)
    p, x = sites["p"][:, None], sites["x"]
    prior = (1 - p) * normal(x).exp() + p * normal((x - 3) / 2).exp() / 2
    likelihood = normal(Y - x)
    expected = prior.log().sum(-1) + dist.Beta(2.0, 2.0).log_prob(sites["p"])
    expected = expected + (p * (1 - p)).log()[:, 0]  # the Jacobian
    torch.testing.assert_close(target.log_prior(q), expected)
    torch.testing.assert_close(target.log_likelihood(q), likelihood.sum(-1))
    torch.testing.assert_close(target.pointwise_log_likelihood(q)["y"], likelihood)


def far_apart(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Categorical(logits=torch.stack([x, -x])))
    fit = torch.tensor([-60.0, 0.0])[z] + torch.tensor([1.0, 3.0])[z] * x
    pyro.factor("fit", fit)


def test_factors_that_peak_at_different_values_do_not_underflow():
    """Where Pyro multiplies exponentials, its gradient is off by a large factor."""
    target = Target.from_model(far_apart, Y, dtype=torch.float64)
    q = torch.tensor([[30.0], [29.0]], dtype=torch.float64, requires_grad=True)
    x = q[:, 0]
    # log-weights of z, normalised, and the factor
    norm = torch.logaddexp(x, -x)
    expected = torch.logaddexp(x - norm - 60 + x, -x - norm + 3 * x)
    expected = expected - 0.5 * x**2 - 0.5 * torch.tensor(2 * torch.pi).log()
    (slope,) = torch.autograd.grad(expected.sum(), q)
    for rung in ("traced", "mapped"):
        value, grad = target.with_rung(rung).value_and_grad(q.detach())
        torch.testing.assert_close(value, expected.detach())
        torch.testing.assert_close(grad, slope)


def zero_inflated(y):
    gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(gate))
        zero = torch.where(y == 0, 0.0, -torch.inf)
        pyro.factor("y", torch.where(z == 1, zero, dist.Poisson(rate).log_prob(y)))


def test_values_that_cannot_have_made_a_datum_count_for_nothing():
    target = Target.from_model(zero_inflated, COUNTS, dtype=torch.float64)
    q = positions(target)
    sites = target.constrain(q)
    gate, rate = sites["gate"][:, None], sites["rate"][:, None]
    expected = dist.ZeroInflatedPoisson(rate, gate=gate).log_prob(COUNTS)
    torch.testing.assert_close(target.pointwise_log_likelihood(q)["y"], expected)
    assert target.value_and_grad(q)[1].isfinite().all()


def test_sums_in_log_space():
    x = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf], [1.0, 2.0]])
    x.requires_grad_()
    total = log_sum_exp(x, (1,))
    assert total[:2].tolist() == [0.0, -torch.inf]
    torch.testing.assert_close(total[2], x[2].logsumexp(0))
    (grad,) = torch.autograd.grad(total[[0, 2]].sum() + total[1].exp(), x)
    assert grad[0].tolist() == [1.0, 0.0]
    assert grad[1].tolist() == [0.0, 0.0]
    assert log_sum_exp(torch.tensor([0.0, torch.nan]), (0,)).isnan()
    a, b, c = torch.rand(2, 3), torch.rand(3, 4), torch.rand(4)
    for equation in ("ij,jk,k->ki", "ij,jk,k->", "ij,jk,k->ijk"):
        found = einsum(equation, a.log(), b.log(), c.log()).exp()
        torch.testing.assert_close(found, torch.einsum(equation, a, b, c))
    same = einsum("ij->ij", a)
    assert same is not a
    assert torch.equal(einsum("ij->ji", a), a.T)


# -- what a target tells ---------------------------------------------------------------


def test_sites_axes_and_values_leave_the_discrete_ones_out():
    target = KINDS["mixture"].target()
    assert list(target.layout.sites) == ["loc", "scale", "weights"]
    assert target.dims["loc"] == ("component",)
    assert target.dims["y"] == ("data",)
    assert target.coords == {"component": [0, 1, 2], "data": list(range(12))}
    assert list(target.observed) == ["y"]
    assert torch.equal(target.observed["y"], Y)
    q = positions(target)
    found = target.deterministics(q)
    assert list(found) == ["spread"]  # the center of a datum follows its z
    loc = target.constrain(q)["loc"]
    torch.testing.assert_close(found["spread"], loc.amax(-1) - loc.amin(-1))
    new = target.with_data(-Y).pointwise_log_likelihood(q)["y"]
    fresh = Target.from_model(mixture, -Y, dtype=torch.float64)
    torch.testing.assert_close(new, fresh.pointwise_log_likelihood(q)["y"])
    copy = pickle.loads(pickle.dumps(target))
    assert torch.equal(copy.log_prob(q), target.log_prob(q))


def test_observations_need_one_distribution_each():
    target = KINDS["mixture"].target()
    density = target.density
    assert isinstance(density, ModelDensity)
    with pytest.raises(UnsupportedError, match="site 'z'") as caught:
        density.observations(positions(target)[0], target.data)
    assert_four_parts(caught.value)


def sampled(annotation):
    def model(y):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Bernoulli(p), infer=annotation)
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    return model


@pytest.mark.parametrize(
    "annotation",
    [
        {"enumerate": "sequential"},
        {"enumerate": "parallel", "expand": True},
        {"enumerate": "parallel", "num_samples": 5},
    ],
)
def test_the_sum_is_exact_whatever_the_annotation(annotation):
    target = Target.from_model(sampled(annotation), Y, dtype=torch.float64)
    exact = MODELS["annotated"].target()
    q = positions(target)
    torch.testing.assert_close(target.log_prob(q), exact.log_prob(q))


@pytest.mark.parametrize("strategy", ["uniform", "prior", "median", init_to_uniform])
def test_starts(strategy):
    target = KINDS["mixture"].target()
    q = target.initial(3, strategy, torch.Generator().manual_seed(0))
    assert q.shape == (3, target.dim)
    assert target.log_prob(q).isfinite().all()
