"""Discrete latents after a run, against the sum over all their values.

A test of a law raises a false alarm once in a hundred thousand runs.
"""

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate, infer_discrete
from scipy import stats as laws

from pyro_geo.errors import FallbackWarning

FALSE_ALARM = 1e-5
N = 4000
F64 = torch.float64
SHARES = torch.tensor([0.2, 0.8], dtype=F64)
MEANS = torch.tensor([0.0, 2.0], dtype=F64)
Y = torch.tensor([-0.5, 0.9, 1.1, 2.5], dtype=F64)


def mixture(y=None):
    a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=F64), 1.0))
    with pyro.plate("rows", 4 if y is None else len(y)):
        kind = pyro.sample("kind", dist.Categorical(SHARES))
        return pyro.sample("y", dist.Normal(a + MEANS[kind], 1.0), obs=y)


def chain(y):
    """A hidden Markov model: neighbours depend on each other."""
    a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=F64), 1.0))
    step = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=F64)
    z = pyro.sample("z_0", dist.Categorical(SHARES))
    for t in range(len(y)):
        if t:
            z = pyro.sample(f"z_{t}", dist.Categorical(step[z]))
        pyro.sample(f"y_{t}", dist.Normal(a + MEANS[z], 1.0), obs=y[t])


def shared(y):
    """One switch for all data, outside their plate."""
    a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=F64), 1.0))
    switch = pyro.sample("switch", dist.Bernoulli(torch.tensor(0.3, dtype=F64)))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a + switch, 1.0), obs=y)


MODELS = {
    "mixture": (mixture, ["kind"], 2 ** len(Y)),
    "chain": (chain, [f"z_{t}" for t in range(len(Y))], 2 ** len(Y)),
    "shared": (shared, ["switch"], 2),
}


def exact(model, names, a):
    """Probability of all joint values of the discrete sites, by listing them."""
    shapes = {}
    conditioned = poutine.condition(model, data={"a": a})
    nodes: Any = poutine.trace(conditioned).get_trace(Y).nodes
    for name in names:
        shapes[name] = nodes[name]["value"].shape
    count = sum(math.prod(shape) for shape in shapes.values())
    table = {}
    for values in itertools.product((0, 1), repeat=count):
        left, data = list(values), {"a": a}
        for name, shape in shapes.items():
            own = [left.pop(0) for _ in range(math.prod(shape))]
            value = torch.tensor(own).reshape(shape)
            data[name] = value.to(F64) if name == "switch" else value
        joint = poutine.trace(poutine.condition(model, data=data)).get_trace(Y)
        table[values] = float(joint.log_prob_sum())
    weights = torch.tensor(list(table.values()), dtype=F64).softmax(0)
    return dict(zip(table, weights.tolist(), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_discrete_latents_follow_their_joint_posterior(result, name):
    """Shares of all joint values, at two values of the continuous latent."""
    model, names, count = MODELS[name]
    for a in (0.0, 0.7):
        fit = result(model, Y, q=np.full((2, N // 2, 1), a))
        sites = fit.posterior_predictive()
        rows = torch.cat([sites[n].reshape(N, -1).long() for n in names], 1)
        expected = exact(model, names, torch.tensor(a, dtype=F64))
        assert len(expected) == count
        found = {values: 0 for values in expected}
        for values in rows.tolist():
            found[tuple(values)] += 1
        # cells that expect fewer than five are taken together
        large = [v for v in expected if N * expected[v] > 5]
        pairs = [(found[v], N * expected[v]) for v in large]
        rest = N - sum(n for n, _ in pairs), N - sum(n for _, n in pairs)
        if rest[1] > 5:
            pairs.append(rest)
        observed, wanted = np.array(pairs).T
        wanted = wanted * observed.sum() / wanted.sum()
        assert laws.chisquare(observed, wanted).pvalue > FALSE_ALARM


def test_predictive_moments_are_those_of_the_posterior(result):
    """Means and variances of replicated data, each by the kind of its own datum."""
    fit = result(mixture, Y, q=np.full((1, N, 1), 0.3))
    replicates = fit.posterior_predictive()["y"][0]
    joint = exact(mixture, ["kind"], torch.tensor(0.3, dtype=F64))
    second = torch.zeros(len(Y), dtype=F64)  # share of the second kind, by datum
    for values, probability in joint.items():
        second += probability * torch.tensor(values, dtype=F64)
    mean, variance = 0.3 + 2 * second, 1 + 4 * second * (1 - second)
    z = (replicates.mean(0) - mean) / (variance / N).sqrt()
    assert float(z.abs().max()) < laws.norm.isf(FALSE_ALARM / 8)
    # the fourth moment of a mixture of two normals bounds the error of its variance
    error = ((replicates - mean) ** 2).var(0).div(N).sqrt()
    z = (replicates.var(0) - variance) / error
    assert float(z.abs().max()) < laws.norm.isf(FALSE_ALARM / 8)


def test_pyros_infer_discrete_works_on_the_draws(result):
    """The same shares as Pyro's own sampler, given the same draws."""
    fit = result(mixture, Y, q=np.full((1, 400, 1), 0.3))
    ours = fit.posterior_predictive()["kind"][0].double().mean(0)
    pyro.set_rng_seed(0)
    theirs = torch.zeros(len(Y), dtype=F64)
    for a in fit.get_samples()["a"]:
        model = poutine.condition(config_enumerate(mixture), data={"a": a})
        serving = infer_discrete(model, first_available_dim=-2)
        nodes: Any = poutine.trace(serving).get_trace(Y).nodes
        theirs += nodes["kind"]["value"] / 400
    error = (2 * 0.25 / 400) ** 0.5
    assert float((ours - theirs).abs().max()) < error * laws.norm.isf(FALSE_ALARM / 8)


def test_draws_depend_on_the_seed_alone(result):
    fit = result(mixture, Y, q=np.full((2, 30, 1), 0.3))
    one = fit.posterior_predictive(seed=3)["kind"]
    assert one.equal(fit.posterior_predictive(seed=3)["kind"])
    assert not one.equal(fit.posterior_predictive(seed=4)["kind"])


def test_new_rows_have_new_kinds_and_shared_sites_keep_theirs(result):
    fit = result(mixture, Y + 50.0, q=np.full((1, N, 1), 50.0))
    # four rows at the run's own arguments, or without data: kinds of the run
    for arguments in ((), (Y + 50.0,), (None,)):
        kinds = fit.posterior_predictive(*arguments)["kind"][0].double().mean(0)
        assert kinds[0] < 0.2 < 0.9 < kinds[3]
    # five rows are others: kinds from the prior
    kinds = fit.posterior_predictive(torch.zeros(5))["kind"]
    low = int((kinds == 0).sum())
    assert laws.binomtest(low, 5 * N, 0.2).pvalue > FALSE_ALARM
    # a switch for all data is that of the run, whatever the new rows are
    fit = result(shared, Y + 50.0, q=np.full((1, 200, 1), 49.0))
    sites = fit.posterior_predictive(torch.zeros(9))
    assert (sites["switch"] == 1).double().mean() > 0.95
    assert sites["y"].shape == (1, 200, 9)


def test_other_data_of_as_many_rows_are_remarked(result):
    fit = result(mixture, Y, q=np.full((1, 20, 1), 0.3))
    with pytest.warns(FallbackWarning, match="site 'kind'.*as many rows"):
        fit.posterior_predictive(Y + 1.0)
    assert any("'kind'" in note for note in fit.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.posterior_predictive(Y.clone())
        fit.posterior_predictive(Y[:2])
        # a site outside the plate of the data has no rows
        result(shared, Y, q=np.full((1, 20, 1), 0.3)).posterior_predictive(Y + 1.0)


def test_data_that_share_a_discrete_latent_have_a_likelihood_together(result):
    fit = result(shared, Y, q=np.linspace(-1, 1, 8).reshape(2, 4, 1))
    found = fit.to_arviz()["log_likelihood"]["y"].to_numpy()
    assert found.shape == (2, 4)
    q = fit.positions.flatten(0, 1)
    together = fit.target.log_likelihood(q).unflatten(0, (2, 4))
    np.testing.assert_allclose(found, together, rtol=1e-10)
    a = float(q[3, 0])
    # by hand, over the two values of the switch
    each = dist.Normal(a + torch.tensor([[0.0], [1.0]], dtype=F64), 1.0)
    logs = torch.tensor([0.7, 0.3], dtype=F64).log() + each.log_prob(Y).sum(-1)
    np.testing.assert_allclose(found[0, 3], float(logs.logsumexp(0)), rtol=1e-10)
