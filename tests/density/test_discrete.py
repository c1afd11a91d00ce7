"""Discrete latents drawn given the rest, and likelihoods of data that share one."""

import itertools
import math
import pickle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.ops.indexing import Vindex
from scipy import stats

from pyro_geo.density import Target
from pyro_geo.errors import ConfigurationError, ShapeError
from tests.density.kinds import Y, grouped_mixture, hidden_markov

DOUBLE = torch.float64
GROUPS = torch.tensor([[0.3, 2.0], [-0.4, 1.2], [1.0, 0.9]], dtype=DOUBLE)
FEW = torch.tensor([0.2, 1.4, -0.3], dtype=DOUBLE)
WORDS = torch.tensor([[0, 1], [2, 1]])


def per_datum(y):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample("y", dist.Normal(loc[z] + z, 1.0), obs=y)


def one_for_all(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    z = pyro.sample("z", dist.Bernoulli(0.4))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(loc + z, 1.0), obs=y)


def nested(words):
    phi = pyro.sample("phi", dist.Dirichlet(torch.ones(2, 3)).to_event(1))
    with pyro.plate("document", words.shape[1], dim=-1):
        kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.3, 0.7])))
        theta = torch.tensor([[0.9, 0.1], [0.4, 0.6]])[kind]
        with pyro.plate("word", len(words), dim=-2):
            topic = pyro.sample("topic", dist.Categorical(theta))
            pyro.sample("words", dist.Categorical(Vindex(phi)[topic, :]), obs=words)


def outer(y):
    """Plates the other way round: the groups are the rows."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("group", len(y), dim=-2):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        with pyro.plate("column", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(loc + z, 1.0), obs=y)


def two_sites(y):
    """Two measurements of each entry, and a site without discrete latents."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("first", dist.Normal(loc + z, 1.0), obs=y)
        pyro.sample("second", dist.Normal(loc - z, 2.0), obs=y.flip(0))
        pyro.sample("other", dist.Normal(loc, 1.0), obs=2 * y)


def follows(y):
    """A continuous latent that follows a discrete one."""
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(p))
        x = pyro.sample("x", dist.Normal(3 * z, 1 + z))
        pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def masked(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        with poutine.mask(mask=y > 0):
            pyro.sample("y", dist.Normal(loc + z, 1.0), obs=y)


def one_hot(y):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.2, 0.3, 0.5])))
        pyro.sample("y", dist.Normal(z @ loc, 1.0), obs=y)


def single_value(y):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        only = pyro.sample("only", dist.Categorical(torch.ones(1)))
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(loc[only] + z, 1.0), obs=y)


MODELS = {
    per_datum: FEW,
    grouped_mixture: GROUPS,
    one_for_all: FEW,
    hidden_markov: FEW,
    nested: WORDS,
    outer: GROUPS.T,
    two_sites: FEW,
    follows: FEW,
    masked: FEW,
    one_hot: FEW,
    single_value: FEW,
}
every_model = pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)


def target_and_position(model):
    target = Target.from_model(model, MODELS[model], dtype=DOUBLE)
    q = target.initial(1, "uniform", torch.Generator().manual_seed(3)) / 2
    return target, q


def enumerated(target):
    """The discrete sites, name to shape and number of values."""
    return target.density.enumerated


def configurations(target):
    """All joint values of the discrete sites, by brute force."""
    kinds = {"one_hot": torch.eye(3, dtype=DOUBLE)}
    sites, lists = enumerated(target), []
    drawn = target.sample_discrete(torch.zeros(1, target.dim, dtype=DOUBLE))
    for name, site in sites.items():
        values = torch.arange(site.number).to(drawn[name].dtype)
        values = kinds.get(target.density.model.__name__, values)
        count = math.prod(site.shape[: len(site.shape) - values.dim() + 1])
        rows = itertools.product(range(site.number), repeat=count)
        lists.append([values[list(row)].reshape(site.shape) for row in rows])
    return [dict(zip(sites, row, strict=True)) for row in itertools.product(*lists)]


def log_joint(target, q, values):
    """Log-probability of everything at these values of the discrete sites."""
    values = values | {k: v[0] for k, v in target.constrain(q).items()}
    torch.set_default_dtype(DOUBLE)
    model = poutine.condition(target.density.model, values)
    trace = poutine.trace(model).get_trace(*target.density.arguments(target.data)[0])
    total = trace.log_prob_sum()
    torch.set_default_dtype(torch.float32)
    return float(total)


def flat(values):
    return tuple(int(x) for v in values.values() for x in v.flatten())


@every_model
def test_draws_have_the_joint_posterior_of_all_discrete_sites(model):
    target, q = target_and_position(model)
    every = configurations(target)
    logs = np.array([log_joint(target, q, values) for values in every])
    posterior = np.exp(logs - logs.max())
    posterior /= posterior.sum()
    number = {flat(values): i for i, values in enumerate(every)}
    draws = 4000
    z = target.sample_discrete(
        q.expand(draws, -1), torch.Generator().manual_seed(1), temperature=1
    )
    counts = np.zeros(len(every))
    for row in range(draws):
        counts[number[flat({name: z[name][row] for name in z})]] += 1
    # chi-square, rare values together; a false alarm of 1e-4 over all eleven models
    order = np.argsort(posterior)
    rare = order[posterior[order].cumsum() * draws < 10]
    common = np.setdiff1d(order, rare)
    observed = np.append(counts[common], counts[rare].sum())
    expected = draws * np.append(posterior[common], posterior[rare].sum())
    kept = expected > 0
    statistic = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
    assert observed[~kept].sum() == 0
    assert stats.chi2.sf(statistic, kept.sum() - 1) > 1e-4 / len(MODELS)


@every_model
def test_temperature_zero_gives_the_most_probable_joint_values(model):
    target, q = target_and_position(model)
    every = configurations(target)
    logs = [log_joint(target, q, values) for values in every]
    found = target.sample_discrete(q.expand(2, -1), temperature=0)
    values = {name: value[0] for name, value in found.items()}
    assert log_joint(target, q, values) == pytest.approx(max(logs))
    for name, site in enumerated(target).items():
        assert found[name].shape == (2, *site.shape)
        assert found[name].dtype == target.sample_discrete(q)[name].dtype


@every_model
def test_units_of_data_sum_up_to_the_likelihood(model):
    target, q = target_and_position(model)
    found = target.pointwise_log_likelihood(q)
    total = sum(value.sum() for value in found.values())
    hidden = (FEW <= 0).sum() if model is masked else 0
    assert hidden == (1 if model is masked else 0)
    torch.testing.assert_close(total, target.log_likelihood(q)[0])
    dims = target.pointwise_dims
    assert list(dims) == list(found)
    for name, value in found.items():
        assert len(dims[name]) == value.dim() - 1
        for dim, size in zip(dims[name], value.shape[1:], strict=True):
            assert len(target.coords[dim]) == size


def normal(x, loc, scale=1.0):
    scale = torch.as_tensor(scale, dtype=DOUBLE)
    return dist.Normal(loc, scale).log_prob(x)


def test_a_group_has_the_likelihood_of_its_data_together():
    target, q = target_and_position(grouped_mixture)
    sites = {name: value[0] for name, value in target.constrain(q).items()}
    prior = torch.stack([1 - sites["p"], sites["p"]]).log()
    expected = torch.stack(
        [prior[z] + normal(GROUPS, sites["loc"][z]).sum(0) for z in range(2)]
    ).logsumexp(0)
    found = target.pointwise_log_likelihood(q)
    assert target.pointwise_dims == {"y": ("group",)}
    torch.testing.assert_close(found["y"][0], expected)
    target, q = target_and_position(outer)
    loc = target.constrain(q)["loc"][0]
    parts = [
        math.log(p) + normal(GROUPS.T, loc + z).sum(1) for z, p in ((0, 0.7), (1, 0.3))
    ]
    found = target.pointwise_log_likelihood(q)
    assert target.pointwise_dims == {"y": ("group",)}
    torch.testing.assert_close(found["y"][0], torch.stack(parts).logsumexp(0))


def test_one_discrete_site_for_all_data_makes_them_one_unit():
    target, q = target_and_position(one_for_all)
    loc = target.constrain(q)["loc"][0]
    parts = [math.log(p) + normal(FEW, loc + z).sum() for z, p in ((0, 0.6), (1, 0.4))]
    found = target.pointwise_log_likelihood(q)["y"]
    assert found.shape == (1,)
    torch.testing.assert_close(found[0], torch.stack(parts).logsumexp(0))


def test_a_chain_is_one_unit_that_bears_the_names_of_its_sites():
    target, q = target_and_position(hidden_markov)
    assert target.pointwise_dims == {"y_0+y_1+y_2": ()}
    longer = Target.from_model(hidden_markov, Y[:5], dtype=DOUBLE)
    assert longer.pointwise_dims == {"y_0+...+y_4": ()}
    logs = [log_joint(target, q, values) for values in configurations(target)]
    sites = target.constrain(q)
    prior = dist.Dirichlet(torch.ones(2).double()).log_prob(sites["move"]).sum()
    prior = prior + normal(sites["loc"], 0.0, 2.0).sum()
    found = target.pointwise_log_likelihood(q)["y_0+y_1+y_2"]
    torch.testing.assert_close(
        found[0], torch.tensor(logs).double().logsumexp(0) - prior
    )


def test_two_sites_that_share_a_discrete_latent_are_one_unit_per_entry():
    target, q = target_and_position(two_sites)
    loc = target.constrain(q)["loc"][0]
    parts = [
        math.log(p) + normal(FEW, loc + z) + normal(FEW.flip(0), loc - z, 2.0)
        for z, p in ((0, 0.7), (1, 0.3))
    ]
    found = target.pointwise_log_likelihood(q)
    assert list(found) == ["first+second", "other"]
    torch.testing.assert_close(
        found["first+second"][0], torch.stack(parts).logsumexp(0)
    )
    torch.testing.assert_close(found["other"][0], normal(2 * FEW, loc))

    def taken(y):
        two_sites(y)
        pyro.sample("first+second", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))

    names = Target.from_model(taken, FEW, dtype=DOUBLE).pointwise_dims
    assert list(names) == ["first+second+", "other", "first+second"]


def branch(y):
    """A model that goes one chain at a time."""
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    scale = 1.0 if x > 0 else 2.0
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(x + z, scale), obs=y)


@pytest.mark.filterwarnings("ignore::pyro_geo.errors.FallbackWarning")
def test_draws_depend_on_the_noise_of_their_row_alone():
    for model in (nested, branch):
        target = Target.from_model(model, MODELS.get(model, FEW), dtype=DOUBLE)
        q = target.initial(6, "uniform", torch.Generator().manual_seed(0))
        shape = (6, target.num_discrete)
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(1)).double()
        both = target.sample_discrete(q, noise)
        half = target.sample_discrete(q[3:], noise[3:])
        copy = pickle.loads(pickle.dumps(target)) if model is nested else target
        tempered = copy.tempered(0.1).sample_discrete(q, noise)
        for name, value in both.items():
            assert torch.equal(half[name], value[3:])
            assert torch.equal(tempered[name], value)
        state = torch.get_rng_state()
        first = target.sample_discrete(q, torch.Generator().manual_seed(7))
        again = target.sample_discrete(q, torch.Generator().manual_seed(7))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert torch.equal(torch.get_rng_state(), state)


def test_values_without_probability_are_never_drawn():
    def impossible(y):
        pyro.sample("x", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            logits = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0]).log()
            z = pyro.sample("z", dist.Categorical(logits=logits))
            pyro.sample("y", dist.Normal(0.0 * z, 1.0), obs=y)

    target = Target.from_model(impossible, FEW)
    edges = torch.tensor([[0.0, 1 - 2**-24, 0.5], [1e-30, 0.499999, 0.999999]])
    found = target.sample_discrete(torch.zeros(2, 1), edges)["z"]
    assert found.tolist() == [[1, 3, 3], [1, 1, 3]]


def test_targets_without_discrete_latents_have_none_to_draw():
    target = Target.from_potential(lambda q: (q * q).sum(), 2)
    assert target.num_discrete == 0
    assert target.sample_discrete(torch.zeros(1, 2)) == {}
    assert target.pointwise_dims == {}


def test_wrong_noise_is_refused():
    target, q = target_and_position(per_datum)
    with pytest.raises(ShapeError, match="argument noise"):
        target.sample_discrete(q, torch.rand(1, 2))
    with pytest.raises(ConfigurationError, match="argument noise"):
        target.sample_discrete(q, torch.full((1, 3), 1.0))
    with pytest.raises(ConfigurationError, match="argument temperature"):
        target.sample_discrete(q, temperature=2)  # pyright: ignore[reportArgumentType]
