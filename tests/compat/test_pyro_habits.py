"""Draws of our kernels in the hands of Pyro and ArviZ: as those of NUTS."""

from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC as PyroMCMC
from pyro.infer import Predictive

from pyro_geo.infer import DIMS, HMC, MCMC

X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
Y = torch.tensor([0.5, -0.5, 0.0])


def model(x, y=None):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("two", 2):
        pyro.sample("e", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(x)):
        mean = (x * w.unsqueeze(-2)).sum(-1)
        return pyro.sample("y", dist.Normal(mean, scale), obs=y)


def by_hand(samples, row):
    """Log-likelihood of each datum at one draw, from a trace of Pyro."""
    values = {name: value[row] for name, value in samples.items()}
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace(X, Y)
    site: Any = trace.nodes["y"]
    return site["fn"].log_prob(Y)


KERNELS = {
    "hmc": lambda: HMC(model, step_size=0.1, trajectory_length=0.5),
    "dims": lambda: DIMS(model, velocity="isotropic", anchor_steps=5, alpha=0.0),
}


@pytest.mark.filterwarnings("ignore::pyro_geo.errors.PyroGeoWarning")
@pytest.mark.filterwarnings("ignore:num_chains=:UserWarning")
@pytest.mark.parametrize(
    "kernel", ["hmc", pytest.param("dims", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("chains", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_arviz_reads_a_run_of_pyros_runner(kernel, chains, monkeypatch):
    # so that Pyro runs its chains one after the other, whatever the machine has
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 1)
    pyro.set_rng_seed(0)
    options: dict[str, Any] = {"num_chains": chains, "disable_progbar": True}
    mcmc = PyroMCMC(KERNELS[kernel](), 6, 2, **options)
    mcmc.run(X, y=Y)
    idata = az.from_pyro(mcmc)
    found = idata["log_likelihood"]["y"].to_numpy()
    assert found.shape == (chains, 6, 3)
    samples = mcmc.get_samples()
    for row in (0, 6 * chains - 1):
        expected = by_hand(samples, row)
        np.testing.assert_allclose(found.reshape(-1, 3)[row], expected, rtol=1e-4)
    assert idata["sample_stats"]["diverging"].shape == (chains, 6)


@pytest.fixture(scope="module")
def fit():
    kernel = HMC(model, step_size=0.1, trajectory_length=0.5)
    return MCMC(kernel, 6, 0, 2, seed=0, progress_bar=False).run(X, y=Y)


def test_arviz_reads_our_own_runner_as_pyros(fit):
    idata = az.from_pyro(fit)
    ours = fit.to_arviz()
    for group, name in (("posterior", "w"), ("log_likelihood", "y")):
        np.testing.assert_allclose(idata[group][name], ours[group][name], rtol=1e-4)
    assert not idata["sample_stats"]["diverging"].any()
    np.testing.assert_array_equal(idata["observed_data"]["y"], Y)


def test_predictive_takes_our_draws(fit):
    samples = fit.get_samples()
    shapes = {name: tuple(value.shape) for name, value in samples.items()}
    assert shapes == {"w": (12, 2), "e": (12, 2), "scale": (12,)}
    pyro.set_rng_seed(0)
    for parallel in (False, True):
        sites = Predictive(model, samples, parallel=parallel)(X)
        assert sites["y"].shape == (12, 3)
    few = Predictive(model, fit.get_samples(num_samples=5))(X)
    assert few["y"].shape == (5, 3)


def test_pyros_hooks_and_saved_sites_work():
    seen = []
    options: dict[str, Any] = {"disable_progbar": True, "save_params": ["w"]}
    kernel = HMC(model, step_size=0.1, trajectory_length=0.5)
    mcmc = PyroMCMC(
        kernel, 4, 2, hook_fn=lambda k, z, stage, i: seen.append(stage), **options
    )
    mcmc.run(X, Y)
    assert set(mcmc.get_samples()) == {"w"}
    assert len(seen) == 6
    assert set(mcmc.diagnostics()) == {"w", "divergences", "acceptance rate"}
