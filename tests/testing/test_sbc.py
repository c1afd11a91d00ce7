"""Calibration: replicates keep to their data, and ranks are tested exactly."""

import itertools
import pickle
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_geo.density import Target
from pyro_geo.errors import (
    ConfigurationError,
    SampleSizeError,
    ShapeError,
    UnsupportedModelError,
)
from pyro_geo.ops.random import substream
from pyro_geo.testing._replicates import Simulator, log_likelihood
from pyro_geo.testing.hmc import FixedHMC
from pyro_geo.testing.sbc import (
    SBCResult,
    _ranks,
    _thinning,
    check_sbc,
    sbc,
    uniformity_p_values,
)

F64 = torch.float64


def line(x, y=None):
    """A regression whose covariates all replicates share."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(x.new_zeros(()), 0.3))
    with pyro.plate("rows", len(x)):
        y = pyro.sample("y", dist.Normal(x @ w, noise), obs=y)
        pyro.deterministic("shifted", y + 1)
        pyro.sample("counts", dist.Poisson((x @ w).exp()), obs=y.detach().abs().round())


X = torch.linspace(-1, 1, 8, dtype=F64).view(4, 2)
OBSERVED = ["y", "counts"]


@pytest.fixture
def simulator():
    return Simulator(line, (X,), observed=OBSERVED, dtype=F64)


def simple(y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


KERNEL = partial(FixedHMC, step_size=0.4, num_steps=3)


# -- replicates -----------------------------------------------------------------------


@pytest.mark.slow
def test_each_replicate_is_the_posterior_of_its_own_data(simulator):
    latents, data = simulator.joint(5, seed=0)
    target = simulator.target(data)
    q = target.unconstrain(latents)
    terms, points = target.terms(q), target.pointwise_log_likelihood(q)
    _, grad = target.value_and_grad(q)
    for i in range(5):

        def conditioned(x, i=i):
            one = {name: value[i] for name, value in data.items()}
            return pyro.poutine.condition(line, data=one)(x)

        alone = Target.from_model(conditioned, X, dtype=F64)
        row = q[i : i + 1]
        torch.testing.assert_close(terms.log_prior[i], alone.log_prior(row)[0])
        torch.testing.assert_close(
            terms.log_likelihood[i], alone.log_likelihood(row)[0]
        )
        torch.testing.assert_close(grad[i], alone.value_and_grad(row)[1][0])
        for name, value in alone.pointwise_log_likelihood(row).items():
            torch.testing.assert_close(points[name][i], value[0])
    torch.testing.assert_close(target.deterministics(q)["shifted"], data["y"] + 1)


def test_rows_and_other_data_share_what_is_lifted(simulator):
    latents, data = simulator.joint(4, seed=0)
    target = simulator.target(data)
    q = target.unconstrain(latents)
    part = target.rows([2, 0])
    torch.testing.assert_close(part.log_prob(q[[2, 0]]), target.log_prob(q)[[2, 0]])
    _, other = simulator.joint(4, seed=1)
    again = target.with_observed(other)
    assert again._lifted is target._lifted
    torch.testing.assert_close(again.log_prob(q), simulator.target(other).log_prob(q))


def test_many_draws_of_each_replicate_are_scored_at_once(simulator):
    latents, data = simulator.joint(3, seed=0)
    target = simulator.target(data)
    q = target.unconstrain(latents)
    many = torch.stack([q, q + 0.1, q - 0.1], 1)
    found = log_likelihood(target, many)
    for i in range(3):
        torch.testing.assert_close(found[:, i], target.log_likelihood(many[:, i]))


def sequential(y):
    """A model that looks at its values, and so cannot be mapped."""
    mean = pyro.sample("mean", dist.Normal(y.new_zeros(()), 1.0))
    shift = 1.0 if float(mean.detach()) > 0 else -1.0
    pyro.sample("y", dist.Normal(mean + shift, 1.0), obs=y)


@pytest.mark.filterwarnings("ignore::pyro_geo.errors.FallbackWarning")
def test_a_model_that_cannot_be_mapped_goes_one_replicate_at_a_time():
    simulator = Simulator(sequential, (torch.tensor(0.0, dtype=F64),), dtype=F64)
    latents, data = simulator.joint(3, seed=0)
    target = simulator.target(data)
    assert target.ceiling == "sequential"
    q = target.unconstrain(latents)
    mean, y = latents["mean"], data["y"]
    law = torch.distributions.Normal(mean + mean.sign(), 1.0)
    torch.testing.assert_close(target.log_likelihood(q), law.log_prob(y))
    torch.testing.assert_close(
        log_likelihood(target, q[:, None])[:, 0], law.log_prob(y)
    )


def test_chains_and_replicates_must_be_as_many(simulator):
    target = simulator.target(simulator.joint(3, seed=0)[1])
    with pytest.raises(ShapeError, match=r"argument q.*\(2, 3\), expected 3 rows"):
        target.log_prob(torch.zeros(2, target.dim, dtype=F64))


def test_a_replicate_target_pickles(simulator):
    target = simulator.target(simulator.joint(3, seed=0)[1])
    q = torch.zeros(3, target.dim, dtype=F64)
    again = pickle.loads(pickle.dumps(target))
    assert torch.equal(again.log_prob(q), target.log_prob(q))


# -- simulation -----------------------------------------------------------------------


def test_joint_draws_are_those_of_the_model():
    """The marginal of y is N(0, 2), and its correlation with the mean 1 / sqrt(2)."""
    latents, data = Simulator(simple, (), observed=["y"]).joint(1000, seed=3)
    mean, y = latents["mean"].numpy(), data["y"].numpy()
    assert stats.kstest(mean, "norm").pvalue > 1e-4
    assert stats.kstest(y / np.sqrt(2), "norm").pvalue > 1e-4
    assert stats.kstest(y - mean, "norm").pvalue > 1e-4  # independent of the mean:
    assert abs(np.corrcoef(y - mean, mean)[0, 1]) < 4 / np.sqrt(1000)


def test_data_follow_the_parameters_given():
    simulator = Simulator(simple, (), observed=["y"])
    means = torch.tensor([0.0, 100.0]).repeat(200)
    y = simulator.data({"mean": means}, seed=0)["y"] - means
    assert stats.kstest(y.numpy(), "norm").pvalue > 1e-4


def test_what_the_arguments_observe_is_data(simulator):
    found = Simulator(line, (X, X[:, 0]), dtype=F64)
    assert found.observed == ("y", "counts")
    _, data = found.joint(2, seed=0)
    assert not torch.equal(data["y"][0], X[:, 0])
    assert not torch.equal(data["y"][0], data["y"][1])


def test_simulation_leaves_the_global_state_alone(simulator):
    before = torch.random.get_rng_state()
    first, second = simulator.joint(3, seed=7), simulator.joint(3, seed=7)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first[1]["y"], second[1]["y"])
    assert len({substream(s, i) for s in range(20) for i in range(20)}) == 400


def with_factor(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    pyro.factor("extra", -(mean**2))
    pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def scaled(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.poutine.scale(scale=2.0):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.mark.parametrize(("model", "site"), [(with_factor, "extra"), (scaled, "y")])
def test_what_cannot_be_simulated_is_named(model, site):
    with pytest.raises(UnsupportedModelError, match=f"site '{site}'.*expected"):
        Simulator(model, (torch.zeros(()),))


@pytest.mark.parametrize("observed", [None, ["nothing"], ["mean", "y"], []])
def test_data_sites_must_be_some_of_the_model(observed):
    with pytest.raises(ConfigurationError, match="argument observed"):
        Simulator(simple, (), observed=observed)


# -- ranks ----------------------------------------------------------------------------


@pytest.mark.parametrize(("replicates", "num_draws"), [(4, 3), (3, 5), (6, 1)])
def test_p_values_are_exact(replicates, num_draws):
    """Under uniformity every attainable p-value is its own probability."""
    outcomes = itertools.product(range(num_draws + 1), repeat=replicates)
    p = uniformity_p_values(torch.tensor(list(outcomes)).mT, num_draws)
    for value in p.unique():
        share = float((p <= value + 1e-9).double().mean())
        assert share == pytest.approx(float(value), abs=1e-9)


def test_p_values_of_many_uniform_ranks_are_uniform_at_most(seed):
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.randint(0, 32, (100, 300), generator=generator)
    p = uniformity_p_values(ranks, 31)
    for level in (0.05, 0.5):
        # discreteness can only make the test more careful
        assert int((p <= level).sum()) <= stats.binom.isf(1e-4, 300, level)
        assert int((p <= level + 0.03).sum()) >= stats.binom.ppf(
            1e-4, 300, level - 0.03
        )


@pytest.mark.parametrize(
    "fault",
    [
        lambda u: u**1.5,
        lambda u: 0.5 + 0.7 * (u - 0.5),
        lambda u: stats.norm.cdf(1.5 * stats.norm.ppf(u)),
        lambda u: np.where(u < 0.1, 0.0, u),
    ],
    ids=["shifted", "too wide", "too narrow", "piled up in a tail"],
)
def test_ranks_that_are_not_uniform_are_found(seed, fault):
    uniform = np.random.default_rng(seed).uniform(size=400)
    ranks = torch.as_tensor(np.floor(64 * fault(uniform))).long().clamp(0, 63)
    assert float(uniformity_p_values(ranks[:, None], 63)) < 1e-3


def test_ranks_count_draws_below_and_break_ties_by_chance():
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(2000, 1, 2)
    draws = torch.tensor([-1.0, 0.0, 0.0, 2.0])[None, :, None].expand(2000, 4, 2)
    ranks = _ranks(truth, draws, generator)
    counts = torch.bincount(ranks.flatten(), minlength=5)
    assert counts[0] == counts[4] == 0
    assert stats.chisquare(counts[1:4].numpy()).pvalue > 1e-4


@pytest.mark.parametrize("rho", [0.9, 0.0, -0.8])
def test_thinning_leaves_draws_that_are_hardly_correlated(seed, rho):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(200, 400, 1, generator=generator, dtype=F64)
    x = [noise[:, 0]]
    for i in range(1, 400):
        x.append(rho * x[-1] + (1 - rho**2) ** 0.5 * noise[:, i])
    found = _thinning(torch.stack(x, 1))
    expected = 1 if rho == 0 else np.ceil(np.log(0.1) / np.log(abs(rho)))
    # chains give up their own means, which takes 1 / effective size off
    assert found <= expected + 1
    assert abs(rho) ** found <= 0.1 + 2 * 19 / 400


def test_a_chain_that_does_not_move_counts_as_correlated():
    x = torch.randn(10, 50, 1, generator=torch.Generator().manual_seed(0))
    x[:2] = 1.0
    assert _thinning(x) == 50


# -- the whole ------------------------------------------------------------------------


def calibrate(**options):
    defaults = {
        "num_replicates": 40,
        "num_samples": 60,
        "warmup_steps": 10,
        "observed": ["y"],
        "dtype": F64,
    }
    return sbc(simple, [], KERNEL, **(defaults | options))


@pytest.fixture(scope="module")
def result():
    return calibrate()


def test_the_result_says_what_was_ranked(result):
    assert result.names == ("mean", "log_likelihood")
    assert result.ranks.shape == (40, 2)
    assert result.num_draws == 60 // result.thin
    assert 0 <= int(result.ranks.min()) <= int(result.ranks.max()) <= result.num_draws
    check_sbc(result)


@pytest.mark.slow
def test_replicates_beyond_the_lanes_of_a_kernel_keep_their_data():
    class Narrow(FixedHMC):
        max_lanes = 15

    def make(target):
        assert target.num_replicates <= 40
        return Narrow(target, step_size=0.4, num_steps=3)

    defaults = {"num_replicates": 40, "num_samples": 60, "observed": ["y"]}
    found = sbc(simple, [], make, warmup_steps=10, dtype=F64, **defaults)
    check_sbc(found)
    # the posterior mean is half of y: with data of others the ranks would follow y
    _, data = Simulator(simple, (), observed=["y"], dtype=F64).joint(
        40, substream(0, 0)
    )
    truth = Simulator(simple, (), observed=["y"], dtype=F64).joint(40, substream(0, 0))
    score = stats.norm.cdf((truth[0]["mean"] - data["y"] / 2) * np.sqrt(2))
    ranks = (found.ranks[:, 0] + 0.5) / (found.num_draws + 1)
    assert float(np.abs(score - ranks.numpy()).max()) < 0.4  # at most six errors


def test_the_same_seed_gives_the_same_ranks(result):
    assert torch.equal(calibrate().ranks, result.ranks)
    assert not torch.equal(calibrate(seed=1).ranks, result.ranks)


def test_starts_from_the_prior_are_not_the_truth():
    found = calibrate(initial="prior", warmup_steps=0, thin=1)
    check_sbc(found)


def test_sites_can_be_chosen_and_stray_ones_are_named():
    assert calibrate(sites=["mean"]).names == ("mean", "log_likelihood")
    with pytest.raises(ConfigurationError, match=r"argument sites.*\['scale'\]"):
        calibrate(sites=["scale"])


def test_the_failure_names_quantities_and_how_their_ranks_lie():
    ranks = torch.stack([torch.arange(200) % 32, torch.arange(200) % 16], 1)
    bad = SBCResult(("a", "b"), ranks, 31, 1, uniformity_p_values(ranks, 31))
    with pytest.raises(AssertionError) as caught:
        check_sbc(bad)
    first, *rest = str(caught.value).splitlines()
    assert first == "ranks of 1 of 2 quantities are not uniform"
    assert rest[0].startswith("b: p = ")
    assert "mean 0.24 instead of 0.50" in rest[0]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"num_replicates": 1}, "num_replicates"),
        ({"num_samples": 0}, "num_samples"),
        ({"thin": -1}, "thin"),
    ],
)
def test_counts_out_of_range_are_named(options, name):
    with pytest.raises(ConfigurationError, match=f"argument {name}.*at least"):
        calibrate(**options)


def test_too_few_draws_for_ranks_are_refused():
    with pytest.raises(SampleSizeError, match="6 of 60 draws, 10 apart"):
        calibrate(thin=10)
