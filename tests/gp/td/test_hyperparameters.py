"""Hyperparameters sampled in plain tensors, and loaded back into a value model."""

import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import multivariate_normal

from pyro_geo.density import Target
from pyro_geo.errors import (
    EpisodeError,
    LayoutMismatchError,
    ModelError,
    ShapeError,
    UnsupportedError,
)
from pyro_geo.gp import (
    ExactGPTD,
    TDNormal,
    Transitions,
    gptd_model,
    load_gptd,
    predict,
)
from pyro_geo.infer import HMC, MCMC
from tests.gp.td.oracle import KINDS, double, matern, new_nodes, posterior, set_up, walk

NORMAL: Any = multivariate_normal


def draws(count=3):
    """Hyperparameters of the oracle first, and others."""
    factor = double(np.linspace(1, 1.5, count))
    return {
        "mean": 0.4 * factor,
        "outputscale": 1.3 * factor,
        "noise": 0.05 * factor,
        "lengthscale": double([0.7, 1.1]) * factor[:, None],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_in_plain_tensors_is_that_of_the_model(kind):
    data = walk()
    law = TDNormal(data.transitions(), kind)(
        double(0.4), double(1.3), double([0.7, 1.1]), double(0.05)
    )
    h, x = data.H, data.visits
    covariance = h @ matern(x, x) @ h.T + data.noise(kind, 0.05)
    np.testing.assert_allclose(law.covariance_matrix.numpy(), covariance, atol=1e-12)
    np.testing.assert_allclose(law.mean.numpy(), 0.4 * h.sum(1), atol=1e-14)


@pytest.mark.parametrize(
    "kind", [pytest.param("reward", marks=pytest.mark.slow), "return"]
)
def test_its_density_is_traced_for_all_chains_at_once(kind):
    data = walk(lengths=(5, 6))
    steps = data.transitions()
    torch.set_default_dtype(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target = Target.from_model(gptd_model(steps, kind), compile=False)
        generator = torch.Generator().manual_seed(0)
        q = 0.3 * torch.randn(3, target.dim, generator=generator)
        value, grad = target.value_and_grad(q)
    assert target.rung == "traced"
    sites = target.constrain(q)
    h, x = data.H, data.visits
    for i in range(3):
        one = {name: site[i].numpy() for name, site in sites.items()}
        k = matern(x, x, one["outputscale"], one["lengthscale"])
        covariance = h @ k @ h.T + data.noise(kind, float(one["noise"]))
        mean: Any = one["mean"] * h.sum(1)
        law = NORMAL(mean, covariance)
        found = target.log_likelihood(q)[i].item()
        assert found == pytest.approx(law.logpdf(data.reward), abs=1e-8)
        step = 1e-6 * torch.eye(target.dim)
        sides = (target.log_prob(q[i] + step) - target.log_prob(q[i] - step)) / 2e-6
        torch.testing.assert_close(grad[i], sides, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_loaded_back_in_one_call(kind):
    data, new = walk(), new_nodes()
    samples, steps = draws(), data.transitions()
    gp = load_gptd(samples, steps, kind)
    law = gp.value(double(new))
    level, covariance, evidence = posterior(data, kind, new)
    assert law.mean.shape == (3, 6)
    assert np.abs(law.mean[0].numpy() - level).max() < 1e-9
    assert np.abs(law.covariance_matrix[0].numpy() - covariance).max() < 1e-9
    assert gp.log_marginal()[0].item() == pytest.approx(evidence, abs=1e-7)
    for i in range(3):
        one = set_up(
            ExactGPTD(steps, noise=kind),
            samples["noise"][i],
            samples["mean"][i].item(),
            samples["outputscale"][i],
            samples["lengthscale"][i],
        )
        torch.testing.assert_close(law.mean[i], one.value(double(new)).mean.detach())
    mixture = predict(gp, double(new), observation_noise=False)
    torch.testing.assert_close(mixture.mean, law.mean.mean(0))
    spread = law.variance.mean(0) + law.mean.var(0, correction=0)
    torch.testing.assert_close(mixture.variance, spread)
    noisy = predict(gp, double(new))
    torch.testing.assert_close(noisy.variance, spread + samples["noise"].mean())
    assert not any(parameter.requires_grad for parameter in gp.parameters())


def test_draws_of_our_sampler_are_loaded():
    torch.set_default_dtype(torch.float64)
    steps = walk(lengths=(6, 7)).transitions()
    law = TDNormal(steps, "return")

    def model():
        m = pyro.sample("mean", dist.Normal(torch.zeros(()), 2.0))
        s = pyro.sample("outputscale", dist.LogNormal(torch.zeros(()), 1.0))
        e = pyro.sample("noise", dist.LogNormal(torch.tensor(-2.0), 1.0))
        ell = dist.LogNormal(torch.zeros(2), 1.0).to_event(1)
        ell = pyro.sample("lengthscale", ell)
        pyro.sample("reward", law(m, s, ell, e), obs=steps.reward)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # far too short to converge
        fit = MCMC(
            HMC(model),
            num_samples=3,
            warmup_steps=5,
            num_chains=2,
            seed=0,
            compile=False,
            progress_bar=False,
        ).run()
    gp = load_gptd(fit.get_samples(), steps, "return")
    assert gp.value(steps.x).mean.shape == (6, 13)
    assert predict(gp, steps.x).mean.isfinite().all()


def test_mistakes_are_named():
    steps, samples = walk().transitions(), draws()
    with pytest.raises(LayoutMismatchError, match="missing"):
        load_gptd({"mean": samples["mean"]}, steps)
    with pytest.raises(ShapeError, match="lengthscale"):
        load_gptd(samples | {"lengthscale": torch.ones(3, 5)}, steps)
    with pytest.raises(ModelError, match="noise"):
        load_gptd(samples | {"noise": -torch.ones(3)}, steps)
    with pytest.raises(UnsupportedError, match="batch of transitions"):
        TDNormal(steps.expand((2,)))
    several = Transitions(steps.x, torch.stack([steps.x] * 2, 1), steps.reward, 0.9)
    with pytest.raises(EpisodeError, match="several successors"):
        TDNormal(several, "return")
    assert TDNormal(several)(*(d[0] for d in order(samples))).mean.shape == (38,)


def order(samples):
    return [samples[n] for n in ("mean", "outputscale", "lengthscale", "noise")]
