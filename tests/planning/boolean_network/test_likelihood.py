"""Likelihoods against sums over all paths, scipy's densities and finite differences."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_geo.density import Target
from pyro_geo.errors import ShapeError
from pyro_geo.planning.boolean_network import (
    BooleanHMM,
    BooleanNetwork,
    Channel,
    log_likelihood,
    transition_log_prob,
)
from tests.planning.boolean_network import brute

RULES = [([1, 2], "0110"), ([0], "10"), ([0, 2], "0010")]
UNKNOWN = [(0, 2), (2, 3)]
NETWORK = BooleanNetwork(
    "abc", [r for r, _ in RULES], [t for _, t in RULES], unknown=UNKNOWN
)
NAN = float("nan")

pytestmark = pytest.mark.usefixtures("double_precision")


def cases():
    r = 1 / 0.4  # of the negative binomial
    return {
        "bernoulli": (
            Channel.bernoulli(0.15),
            [[1, 0, 1], [NAN, 1, 0], [1, 1, 1], [0, 0, 1]],
            lambda y, x: np.log(0.85 if y == x else 0.15),
        ),
        "normal": (
            Channel.normal(-0.5, 1.2, 1.5, 0.7),
            [[0.3, -1.0, 2.0], [1.1, NAN, 0.0], [NAN] * 3, [2.2, 0.1, -0.4]],
            lambda y, x: stats.norm.logpdf(y, *((-0.5, 1.2), (1.5, 0.7))[x]),
        ),
        "poisson": (
            Channel.poisson(1.5, 6.0),
            [[3, 0, 7], [9, 2, 1], [0, NAN, 4], [5, 5, 5]],
            lambda y, x: stats.poisson.logpmf(y, (1.5, 6.0)[x]),
        ),
        "negative_binomial": (
            Channel.negative_binomial(1.5, 6.0, 0.4),
            [[3, 0, 7], [19, 2, 1], [0, NAN, 4], [5, 5, 5]],
            lambda y, x: stats.nbinom.logpmf(y, r, r / (r + (1.5, 6.0)[x])),
        ),
    }


FLIPS = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 1]])
P = np.array([0.05, 0.2, 0.01])
START = np.array([0.3, 0.1, 0.05, 0.05, 0.2, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("name", list(cases()))
def test_it_is_the_sum_over_all_paths(name):
    channel, y, log_density = cases()[name]
    y = np.array(y, dtype=float)
    E = np.stack([brute.likelihood(row, log_density) for row in y])
    sets = NETWORK.rule_sets()
    found = log_likelihood(
        NETWORK,
        torch.tensor(y),
        torch.tensor(FLIPS),
        mutation=torch.tensor(P),
        channel=channel,
        values=sets,
        initial=torch.tensor(START),
    )
    for values, one in zip(sets.tolist(), found, strict=True):
        rules = brute.with_entries(RULES, UNKNOWN, values)
        steps = [brute.matrix(rules, flips, P) for flips in FLIPS]
        expected = np.log(brute.evidence_by_paths(steps, E, START))
        assert abs(float(one) - expected) < 1e-11


def test_batches_of_series_draws_and_parameters_are_those_one_by_one():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(4, 1, 6, 3, generator=generator, dtype=torch.float64)
    flips = torch.randint(2, (4, 1, 5, 3), generator=generator)
    p = torch.rand(4, 1, generator=generator, dtype=torch.float64)
    on = 1 + torch.rand(4, 3, generator=generator, dtype=torch.float64)
    sets = NETWORK.rule_sets()
    found = log_likelihood(
        NETWORK, y, flips, mutation=p, channel=Channel.normal(0.0, 1.0, on, 1.0),
        values=sets,
    )  # fmt: skip
    assert found.shape == (4, 4)
    for series in range(4):
        for draw in range(4):
            one = log_likelihood(
                NETWORK,
                y[series, 0],
                flips[series, 0],
                mutation=p[draw, 0],
                channel=Channel.normal(0.0, 1.0, on[draw], 1.0),
                values=sets[draw],
            )
            torch.testing.assert_close(found[series, draw], one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", list(cases()))
def test_gradients_agree_with_finite_differences(name):
    _, y, _ = cases()[name]
    y = torch.tensor(y, dtype=torch.float64)
    maker = getattr(Channel, name)
    count = {"bernoulli": 1, "normal": 4, "poisson": 2, "negative_binomial": 3}[name]
    start = torch.tensor([0.2, 0.9, 1.7, 0.6])[:count].requires_grad_()
    p = torch.tensor([0.1, 0.3, 0.02], requires_grad=True)
    initial = torch.tensor(START, requires_grad=True)

    def density(p, parameters, initial):
        return log_likelihood(
            NETWORK, y, mutation=p, channel=maker(*parameters), initial=initial
        )

    assert torch.autograd.gradcheck(density, (p, start, initial))


def test_it_is_traced_mapped_and_differentiated():
    y = torch.tensor(cases()["normal"][1], dtype=torch.float64)

    def density(q):
        channel = Channel.normal(q[0], q[1].exp(), q[2], q[3].exp())
        return log_likelihood(NETWORK, y, mutation=q[4].sigmoid(), channel=channel)

    q = torch.randn(5, 5, dtype=torch.float64)
    both = torch.func.vmap(torch.func.grad_and_value(density))
    slopes, values = make_fx(both)(q)(q)
    for row, slope, value in zip(q, slopes, values, strict=True):
        row = row.clone().requires_grad_()
        one = density(row)
        torch.testing.assert_close(value, one.detach(), rtol=0, atol=1e-11)
        (expected,) = torch.autograd.grad(one, row)
        torch.testing.assert_close(slope, expected, rtol=0, atol=1e-10)


def test_a_pyro_model_uses_it_as_a_factor_or_as_a_distribution():
    y = torch.tensor(cases()["bernoulli"][1], dtype=torch.float64)
    p = dist.Beta(torch.tensor(1.0), torch.tensor(20.0))
    q = dist.Beta(torch.tensor(2.0), torch.tensor(20.0))

    def factor():
        options = {
            "mutation": pyro.sample("p", p),
            "channel": Channel.bernoulli(pyro.sample("q", q)),
        }
        pyro.factor("y", log_likelihood(NETWORK, y, **options))

    def observed():
        options = {
            "mutation": pyro.sample("p", p),
            "channel": Channel.bernoulli(pyro.sample("q", q)),
        }
        pyro.sample("y", BooleanHMM(NETWORK, len(y), **options), obs=y)

    place = torch.randn(3, 2, dtype=torch.float64)
    targets = [Target.from_model(m, compile=False) for m in (factor, observed)]
    (a, da), (b, db) = (target.value_and_grad(place) for target in targets)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    torch.testing.assert_close(da, db, rtol=0, atol=1e-12)
    eps = 1e-5 * torch.eye(2, dtype=torch.float64)
    for axis in range(2):
        up, down = (targets[0].log_prob(place + s * eps[axis]) for s in (1, -1))
        slope = (up - down) / 2e-5
        torch.testing.assert_close(da[:, axis], slope, rtol=1e-6, atol=1e-6)


def test_a_path_without_noise_is_a_product_of_transitions():
    path = np.array([[0, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1]])
    sets = NETWORK.rule_sets()
    found = transition_log_prob(
        NETWORK,
        torch.tensor(path),
        torch.tensor(FLIPS),
        mutation=torch.tensor(P),
        values=sets,
    )
    index = path @ [4, 2, 1]
    for values, one in zip(sets.tolist(), found, strict=True):
        rules = brute.with_entries(RULES, UNKNOWN, values)
        steps = [brute.matrix(rules, flips, P) for flips in FLIPS]
        chances = [m[a, b] for m, a, b in zip(steps, index, index[1:], strict=False)]
        assert abs(float(one) - np.log(chances).sum()) < 1e-12


def test_samples_have_the_law_of_the_likelihood():
    # all series of two binary genes and two steps: counts against exact chances
    network = BooleanNetwork("ab", [["b"], ["a", "b"]], ["10", "0110"])
    options = {"mutation": 0.2, "channel": Channel.bernoulli(0.1)}
    flips, start = torch.tensor([[1, 0]]), torch.tensor([0.5, 0.2, 0.2, 0.1])
    hmm = BooleanHMM(network, 2, flips=flips, initial=start, **options)
    count = 40_000
    drawn = hmm.sample((count,))
    assert drawn.shape == (count, 2, 2)
    codes = (drawn.flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    every = torch.tensor([[(k >> s) & 1 for s in (3, 2, 1, 0)] for k in range(16)])
    chances = hmm.log_prob(every.reshape(16, 2, 2).double()).exp()
    assert abs(float(chances.sum()) - 1) < 1e-12
    counts = torch.bincount(codes, minlength=16).double()
    statistic = ((counts - count * chances) ** 2 / (count * chances)).sum()
    assert float(stats.chi2.sf(float(statistic), 15)) > 1e-4


def test_the_distribution_expands_and_predicts_in_plates():
    channel = Channel.normal(0.0, 1.0, 3.0, 1.0)
    hmm = BooleanHMM(
        NETWORK, 5, mutation=torch.rand(4, 1), channel=channel, values=None
    )
    assert (hmm.batch_shape, hmm.event_shape) == ((4,), (5, 3))
    wide = hmm.expand((2, 4))
    y = wide.sample((3,))
    assert y.shape == (3, 2, 4, 5, 3)
    assert wide.log_prob(y).shape == (3, 2, 4)
    torch.testing.assert_close(wide.log_prob(y)[1, 0], hmm.log_prob(y[1, 0]))
    with pytest.raises(ShapeError, match="flips"):
        BooleanHMM(NETWORK, 5, mutation=0.1, channel=channel, flips=torch.zeros(5, 3))


def test_wrong_shapes_are_named():
    options = {"mutation": 0.1, "channel": Channel.bernoulli(0.1)}
    with pytest.raises(ShapeError, match="argument y"):
        log_likelihood(NETWORK, torch.zeros(4, 2), **options)
    with pytest.raises(ShapeError, match="flips"):
        log_likelihood(NETWORK, torch.zeros(4, 3), torch.zeros(4, 3), **options)
    with pytest.raises(ShapeError, match="initial"):
        log_likelihood(NETWORK, torch.zeros(4, 3), initial=torch.ones(4), **options)
