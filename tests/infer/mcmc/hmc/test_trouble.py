"""Steps too long for a part of the density: their signs, and what warm-up does."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo import Target
from pyro_geo.errors import ConvergenceWarning, PyroGeoWarning
from pyro_geo.infer import HMC, MCMC
from pyro_geo.infer.mcmc.hmc.adaptation import start_adaptation
from pyro_geo.infer.mcmc.hmc.review import review_draws
from pyro_geo.infer.mcmc.hmc.schedule import Schedule
from pyro_geo.infer.mcmc.hmc.trouble import (
    long_rejections,
    next_target,
    run_lengths,
    shorter,
    troubled,
)
from pyro_geo.infer.mcmc.hmc.warmup import raise_target
from pyro_geo.infer.transition import chain_state_at
from pyro_geo.testing.targets import FunnelTarget
from tests.cases import numbers

F64 = torch.float64


def run(model, *args, num_chains=32, num_samples=100, warmup=None, seed=0, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PyroGeoWarning)
        return MCMC(
            HMC(model, **options),
            num_samples,
            warmup,
            num_chains,
            seed=seed,
            dtype=F64,
            compile=False,
            progress_bar=False,
        ).run(*args)


# -- signs --------------------------------------------------------------------------


def test_run_lengths_by_hand():
    generator = torch.Generator().manual_seed(0)
    rejected = torch.rand(60, 9, generator=generator) < 0.7
    wanted = torch.zeros(60, 9, dtype=torch.long)
    for chain in range(9):
        for i in range(60):
            first = last = i
            if not rejected[i, chain]:
                continue
            while first > 0 and rejected[first - 1, chain]:
                first -= 1
            while last < 59 and rejected[last + 1, chain]:
                last += 1
            wanted[i, chain] = last - first + 1
    assert torch.equal(run_lengths(rejected), wanted)


def coins(probability, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator) < probability


@pytest.mark.parametrize("chains", [4, 64, 1000])
def test_independent_rejections_are_no_trouble(chains):
    """Also where only 60 % of transitions are accepted: 7 in 10,000 lie in runs of ten
    or more then, `p**10 (10 - 9 p)` for a rate `p` of rejections, and 1 in 100 may."""
    for seed in range(20):
        rejected = coins(0.4, 60, chains, seed=seed)
        assert not troubled(rejected, coins(0.002, 60, chains, seed=seed))
        assert not bool(long_rejections(rejected).any())


def test_each_sign_is_trouble():
    quiet = torch.zeros(60, 64, dtype=torch.bool)
    assert troubled(quiet, coins(0.02, 60, 64))
    # two chains in 64 stand still for a part of the stage: sticky
    sticky = quiet.clone()
    sticky[10:32, :2] = True
    assert troubled(sticky, quiet)
    # one in a thousand does so throughout: stuck
    stuck = torch.zeros(60, 1000, dtype=torch.bool)
    stuck[:, 5] = True
    assert troubled(stuck, torch.zeros_like(stuck))
    assert long_rejections(stuck).nonzero().flatten().tolist() == [5]


def test_the_ladder_of_targets():
    assert [next_target(t) for t in (0.8, 0.95, 0.99)] == [0.95, 0.99, None]
    # rejections are as frequent as the square of the step
    assert shorter(0.4, 0.8, 0.95) == pytest.approx(0.2)


@pytest.mark.parametrize("may_raise", [True, False])
def test_a_target_that_was_given_is_kept(may_raise):
    target = Target.from_potential(lambda q: 0.5 * q.square().sum(-1), 2, dtype=F64)
    chains = chain_state_at(target, numbers(8, 2))
    state = start_adaptation(
        chains, 300, "diagonal", 2, 0.8, None, None, may_raise=may_raise
    )
    still = torch.ones(8, dtype=torch.bool)
    # at first the step size settles: that says nothing
    state.outcomes = [(still, ~still)] * 10 + [(~still, ~still)] * 30
    raise_target(state)
    assert state.target == 0.8
    state.outcomes = [(still, ~still)] * 40
    raise_target(state)
    assert state.target == (0.95 if may_raise else 0.8)
    # a chain that is still searching says nothing about the step of the others
    state.target = 0.8
    state.set_searching(still)
    state.outcomes = [(still, ~still)] * 40
    raise_target(state)
    assert state.target == 0.8


def test_the_last_check_leaves_steps_to_adapt():
    for steps in (0, 20, 40, 100, 300, 500, 1000):
        schedule = Schedule.of(steps)
        check = schedule.last_check
        if check is not None:
            assert schedule.windows[-1] < check <= schedule.end - 20
    assert Schedule.of(300).last_check == 275
    assert Schedule.of(100).last_check is None


# -- whole runs ---------------------------------------------------------------------


def apart(sigma, y):
    """Group means with a scale of their own, written without a funnel."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(y.new_tensor(5.0)))
    with pyro.plate("school", len(y)):
        eta = pyro.sample("eta", dist.Normal(y.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)


SCHOOLS = (
    torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=F64),
    torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=F64),
)


def test_a_funnel_raises_the_target_and_says_so():
    fit = run(FunnelTarget(3, dtype=F64), num_samples=10, warmup=100)
    target = fit.attributes["target_accept_prob"]
    assert target in (0.95, 0.99)
    assert any(f"target_accept_prob from 0.8 to {target}" in n for n in fit.notes)


@pytest.mark.slow
def test_a_target_of_the_user_stays_and_the_review_asks_for_a_higher_one():
    kernel = HMC(FunnelTarget(3, dtype=F64), target_accept_prob=0.8)
    fit = MCMC(kernel, 50, 60, 32, seed=0, compile=False, progress_bar=False)
    with pytest.warns(PyroGeoWarning, match="Raise target_accept_prob"):
        fit.run()
    assert fit.attributes["target_accept_prob"] == 0.8
    assert not any("Warm-up raised" in note for note in fit.notes)


def test_a_model_without_trouble_keeps_the_target():
    options = {"num_samples": 10, "warmup": 100}
    fit = run(apart, *SCHOOLS, **options)
    same = run(apart, *SCHOOLS, **options, target_accept_prob=0.8)
    assert fit.attributes["target_accept_prob"] == 0.8
    assert torch.equal(fit.positions, same.positions)


def poisson_process(x, k):
    """Counts along a line, their logarithm a Gaussian process."""
    rho = pyro.sample("rho", dist.Gamma(x.new_tensor(25.0), x.new_tensor(4.0)))
    alpha = pyro.sample("alpha", dist.HalfNormal(x.new_tensor(2.0)))
    f = pyro.sample("f_tilde", dist.Normal(x.new_zeros(len(x)), 1.0).to_event(1))
    square = ((x[:, None] - x) / rho).square()
    covariance = alpha**2 * (-0.5 * square).exp()
    root = torch.linalg.cholesky(covariance + 1e-10 * torch.eye(len(x)).to(x))
    pyro.sample("k", dist.Poisson((root @ f).exp()).to_event(1), obs=k)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_poisson_process_passes_at_defaults(seed):
    """At an acceptance rate of 0.8 chains stick, and R-hat is above 1.05."""
    x = torch.arange(-10.0, 11.0, 2.0, dtype=F64)
    k = torch.tensor([40, 37, 29, 12, 4, 3, 9, 19, 77, 82, 33], dtype=F64)
    fit = run(poisson_process, x, k, num_chains=64, num_samples=250, seed=seed)
    assert float(fit.attributes["target_accept_prob"]) > 0.8
    assert max(fit.summary()["r_hat"]) < 1.01
    assert fit.attributes["stuck_chains"] == 0


# -- the review of the draws --------------------------------------------------------


def stats_of(lp, rate):
    return {
        "lp": lp,
        "acceptance_rate": rate,
        "diverging": torch.zeros_like(lp, dtype=torch.bool),
    }


def test_chains_that_stand_still_are_counted():
    lp = numbers(8, 100)
    rate = torch.full_like(lp, 0.8)
    assert review_draws(stats_of(lp, rate), 0.8) == []
    lp[3, 20:65], rate[3, 20:65] = 1.0, 0.01
    (warning,) = review_draws(stats_of(lp, rate), 0.8)
    assert isinstance(warning, ConvergenceWarning)
    assert "1 of 8 chains" in str(warning)
    assert "Raise target_accept_prob" in str(warning)
    (warning,) = review_draws(stats_of(lp, rate), 0.99)
    assert "Raise" not in str(warning)
    # one that never moves is stuck, and is said to be that alone
    lp[3], rate[3] = 1.0, 0.0
    (warning,) = review_draws(stats_of(lp, rate), 0.8)
    assert "never moved" in str(warning)
    # a flat density is kept by chains that move
    flat = torch.ones_like(lp)
    assert review_draws(stats_of(flat, flat), 0.8) == []
