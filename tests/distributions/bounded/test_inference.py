"""Bounded sites in models: our chains, Pyro's, guides, enumeration, ArviZ."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from pyro.infer import MCMC as PyroMCMC
from pyro.infer import NUTS, SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.optim import Adam  # pyright: ignore[reportAttributeAccessIssue]
from torch.distributions import constraints

from pyro_geo import Target
from pyro_geo.distributions import (
    BallReparam,
    BoundedFlat,
    BoundedMultivariateNormal,
    BoundedNormal,
)
from pyro_geo.infer import HMC, MCMC

TRIL = torch.tensor([[1.0, 0.0], [0.5, 2.0]])


def priors(kappa=0.0):
    pyro.sample(
        "x",
        BoundedMultivariateNormal(torch.zeros(2), TRIL, mass=0.9, kappa=kappa),
    )
    with pyro.plate("group", 3):
        pyro.sample("w", BoundedNormal(1.0, 0.5, mass=0.8, kappa=kappa))
        flat = BoundedFlat(torch.zeros(2), torch.eye(2), radius=1.0, kappa=kappa)
        pyro.sample("f", flat)
    pyro.sample("v", BoundedNormal(torch.zeros(2), 1.0, radius=2.0).to_event(1))


def mixed(y):
    """A discrete site is summed out beside a bounded one."""
    place = BoundedMultivariateNormal(torch.zeros(2), torch.eye(2), mass=0.9)
    with pyro.plate("centres", 2):
        centre = pyro.sample("centre", place)
    with pyro.plate("data", len(y)):
        which = pyro.sample("which", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("y", dist.Normal(centre[which], 0.5).to_event(1), obs=y)


def within(draws, mean, variance, num_chains):
    """Whether means and variances are those of the law, at 1e-6 in all."""
    limit = scipy.stats.t.isf(1e-6 / 40, num_chains - 1)
    for values, expected in ((draws, mean), ((draws - mean) ** 2, variance)):
        by_chain = values.mean(1)
        error = by_chain.std(0) / num_chains**0.5
        if not bool(((by_chain.mean(0) - expected).abs() < limit * error).all()):
            return False
    return True


@pytest.mark.slow
def test_our_chains_sample_the_priors_exactly():
    fit = MCMC(
        HMC(priors),
        num_samples=30,
        warmup_steps=40,
        num_chains=16,
        seed=1,
        progress_bar=False,
        compile=False,
    ).run()
    draws = fit.get_samples(group_by_chain=True)
    laws = {
        "x": BoundedMultivariateNormal(torch.zeros(2), TRIL, mass=0.9),
        "w": BoundedNormal(torch.ones(3), 0.5, mass=0.8),
        "f": BoundedFlat(torch.zeros(3, 2), torch.eye(2), radius=1.0),
        "v": BoundedNormal(torch.zeros(2), 1.0, radius=2.0),
    }
    for name, law in laws.items():
        assert draws[name].shape == (16, 30, *law.shape())
        assert draws[name].dtype == torch.float32
        assert bool(law.support.check(draws[name]).all())
        assert within(draws[name], law.mean, law.variance, 16), name
    posterior = fit.to_arviz().posterior
    assert posterior["w"].dims == ("chain", "draw", "group")
    assert posterior["f"].dims[:3] == ("chain", "draw", "group")


def test_a_moving_ball_comes_back_from_our_chains_under_its_own_name():
    def model():
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        with pyro.plate("group", 2):
            pyro.sample("w", BoundedNormal(0.0, scale, radius=2.0))

    moved = poutine.reparam(model, {"w": BallReparam()})
    fit = MCMC(
        HMC(moved),
        num_samples=10,
        warmup_steps=10,
        num_chains=2,
        seed=1,
        progress_bar=False,
        compile=False,
    ).run()
    draws = fit.get_samples()
    assert set(draws) == {"scale", "w_unit", "w"}
    expected = 2 * draws["scale"][:, None] * draws["w_unit"]
    torch.testing.assert_close(draws["w"], expected)
    assert fit.to_arviz().posterior["w"].dims == ("chain", "draw", "group")
    assert set(fit.get_samples(num_samples=3)) == set(draws)


@pytest.mark.slow
@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_the_compiled_density_is_the_traced_one(kappa):
    q = torch.randn(4, 13)
    pairs = [
        Target.from_model(priors, kappa, compile=compile).value_and_grad(q)
        for compile in (True, False)
    ]
    for compiled, traced in zip(*pairs, strict=True):
        torch.testing.assert_close(compiled, traced, rtol=1e-4, atol=1e-4)


def test_discrete_sites_are_summed_out_beside_a_ball():
    y = torch.tensor([[0.5, 0.0], [-0.7, 0.3]])
    target = Target.from_model(mixed, y)
    q = torch.randn(2, target.dim)
    value, grad = target.value_and_grad(q)
    centres = target.constrain(q)["centre"]
    place = BoundedMultivariateNormal(torch.zeros(2), torch.eye(2), mass=0.9)
    normal = dist.Normal(centres.unsqueeze(1), 0.5).to_event(1)
    likelihood = normal.log_prob(y[:, None]).logsumexp(-1) - math.log(2)
    prior = place.log_prob(centres).sum(-1)
    site = target.layout.sites["centre"]
    z = q.reshape(2, 2, 2)
    jacobian = site.transform.log_abs_det_jacobian(z, centres).sum(-1)
    expected = likelihood.sum(-1) + prior + jacobian
    torch.testing.assert_close(value, expected)
    assert bool(grad.isfinite().all())


def test_pyros_own_sampler_runs():
    pyro.set_rng_seed(0)
    kernel = NUTS(lambda: priors(1.0), max_tree_depth=3)
    run = PyroMCMC(kernel, num_samples=5, warmup_steps=5, disable_progbar=True)
    run.run()
    draws = run.get_samples()
    law = BoundedMultivariateNormal(torch.zeros(2), TRIL, mass=0.9, kappa=1.0)
    assert bool(law.support.check(draws["x"]).all())
    assert draws["f"].shape == (5, 3, 2)


@pytest.mark.parametrize(
    "guide",
    [AutoDelta, AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal],
)
def test_pyros_guides_fit_it(guide):
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    fitted = guide(priors)
    svi = SVI(priors, fitted, Adam({"lr": 0.02}), Trace_ELBO())
    losses = torch.tensor([svi.step() for _ in range(3)])
    assert bool(losses.isfinite().all())
    law = BoundedMultivariateNormal(torch.zeros(2), TRIL, mass=0.9)
    assert bool(law.support.check(fitted.median()["x"]).all())
    pyro.clear_param_store()


def test_a_bounded_guide_is_fitted_with_its_exact_divergence():
    pyro.set_rng_seed(0)
    pyro.clear_param_store()

    def model():
        pyro.sample("x", dist.Normal(0.0, 1.0))

    def guide():
        scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
        radius = pyro.param(
            "radius", torch.tensor(0.5), constraint=constraints.positive
        )
        pyro.sample("x", BoundedNormal(0.0, scale, radius=radius))

    svi = SVI(model, guide, Adam({"lr": 0.1}), TraceMeanField_ELBO())
    losses: Any = [svi.step() for _ in range(60)]
    # the loss is the divergence itself, without noise: it falls towards 0
    assert losses[-1] < 0.1 * losses[0]
    assert min(losses) > 0
    pyro.clear_param_store()
