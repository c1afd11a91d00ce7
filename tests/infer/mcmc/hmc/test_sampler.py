"""HMC inside `pyro.infer.MCMC`, one chain at a time."""

import math
import pickle

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch

from pyro_geo._compat.arviz import import_arviz
from pyro_geo.errors import ConvergenceWarning, DivergenceWarning, InitializationError
from pyro_geo.infer import HMC
from tests.cases import numbers

Y = 1.5 + numbers(20)
SCALE = 3.0


def model(y):
    """A mean with a normal prior: the posterior is known; and a scale beside it."""
    mean = pyro.sample("mean", dist.Normal(0.0, SCALE))
    pyro.sample("free", dist.LogNormal(0.5, 0.25))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


VARIANCE = 1 / (1 / SCALE**2 + len(Y))
MEAN = VARIANCE * float(Y.sum())


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)  # put back by the fixture of all tests


def run(kernel, num_samples=50, seed=0, **options):
    pyro.set_rng_seed(seed)
    options = {"warmup_steps": 60, "disable_progbar": True} | options
    mcmc = pyro.infer.MCMC(kernel, num_samples=num_samples, **options)
    mcmc.run(Y)
    return mcmc


@pytest.fixture(scope="module")
def one_chain():
    torch.set_default_dtype(torch.float64)
    found = run(HMC(model), 600, warmup_steps=300)
    torch.set_default_dtype(torch.float32)
    return found


def test_one_chain_has_the_right_moments(one_chain):
    """Means and variances within five standard errors: false alarms below 1e-5."""
    samples = one_chain.get_samples()
    az = import_arviz()
    for draws, mean, variance in (
        (samples["mean"], MEAN, VARIANCE),
        (samples["free"].log(), 0.5, 0.25**2),
    ):
        assert draws.shape == (600,)
        for values, expected in (
            (draws, mean),
            ((draws - mean).square(), variance),
        ):
            effective = float(az.ess(values.numpy()[None]))
            assert effective > 100
            error = float(values.std()) / math.sqrt(effective)
            assert abs(float(values.mean()) - expected) < 5 * error
        assert float(az.rhat(draws.view(4, -1).numpy())) < 1.05


def test_diagnostics_are_those_pyro_gives(one_chain):
    found = one_chain.diagnostics()
    assert found["divergences"] == {"chain 0": []}
    assert 0.6 < found["acceptance rate"]["chain 0"] < 1
    assert float(found["mean"]["n_eff"]) > 100


def test_arviz_converts_it(one_chain):
    az = import_arviz()
    if int(az.__version__.split(".")[0]) >= 1:
        pytest.skip("ArviZ 1.x has no converter for Pyro")
    idata = az.from_pyro(one_chain)
    assert idata["posterior"]["mean"].shape == (1, 600)
    assert not bool(idata["sample_stats"]["diverging"].any())


@pytest.mark.slow
def test_predictive_uses_the_draws(one_chain):
    found = pyro.infer.Predictive(
        pyro.poutine.uncondition(model), one_chain.get_samples()
    )
    assert found(Y)["y"].shape == (600, 20)


def test_randomness_comes_from_the_global_generator():
    one, again, other = (
        run(HMC(model), seed=seed).get_samples()["mean"] for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_kernel_pickles_and_starts_anew():
    kernel = HMC(model, step_size=0.2, metric="diagonal")
    expected = run(kernel).get_samples()["mean"]
    copy = pickle.loads(pickle.dumps(kernel))
    assert copy.options == kernel.options
    assert torch.equal(run(copy).get_samples()["mean"], expected)


def test_divergences_are_numbered_and_said():
    kernel = HMC(model, step_size=1e4)
    with (
        pytest.warns(DivergenceWarning, match="10 of 10"),
        pytest.warns(ConvergenceWarning, match="never moved"),
    ):
        found = run(kernel, 10, warmup_steps=0).diagnostics()
    assert found["divergences"] == {"chain 0": list(range(10))}


def test_a_start_without_a_density_names_the_site():
    kernel = HMC(model)
    with pytest.raises(InitializationError, match="site 'y'"):
        pyro.infer.MCMC(kernel, 5, warmup_steps=5, disable_progbar=True).run(
            Y + torch.nan
        )
