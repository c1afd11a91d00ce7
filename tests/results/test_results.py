"""A result on its way to ArviZ: groups, axes, order of chains, diagnostics, cost."""

import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal

from pyro_geo._compat.arviz import major_version
from pyro_geo.density import Target
from pyro_geo.errors import ConfigurationError
from pyro_geo.infer import MCMC
from pyro_geo.io.arviz import get_group, import_arviz, nested_r_hat
from pyro_geo.testing.hmc import FixedHMC

CHAINS, DRAWS = 12, 9
Y = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
FOUR_PARTS = r"^[^:]+ \(.*\): found .*, expected .*\. [A-Z].*\.$"


def schools(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.LogNormal(0.0, 1.0))
    with pyro.plate("school", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * eta)
        pyro.sample("y", dist.Normal(theta, 2.0), obs=y)


def group(idata, name) -> Any:
    found = get_group(idata, name)
    assert found is not None, name
    return found


def pattern(chains, draws):
    """Chain c diverges at the draws of the binary digits of c + 1: no two alike."""
    return torch.tensor(
        [[bool(c + 1 >> (d % 4) & 1) for d in range(draws)] for c in range(chains)]
    )


@pytest.fixture
def fit(result, seed):
    q = np.random.default_rng(seed).normal(size=(CHAINS, DRAWS, 6))
    q[..., 4] = np.arange(CHAINS)[:, None]  # mu, after eta in order of names
    shape = (CHAINS, DRAWS)
    number = torch.arange(CHAINS * DRAWS, dtype=torch.float64).reshape(shape)
    stats = {
        "lp": number,
        "energy": number + 0.5,
        "energy_error": -number,
        "acceptance_rate": number / number.numel(),
        "diverging": pattern(*shape),
        "n_steps": number.long(),
        "step_size": torch.full(shape, 0.25),
    }
    return result(schools, Y, q=q, stats=stats, superchains=4)


def test_every_group_is_there_with_the_axes_of_the_plates(fit):
    idata = fit.to_arviz(prior=7, posterior_predictive=True)
    shapes = {
        "posterior": {"mu": (), "tau": (), "eta": (4,), "theta": (4,)},
        "posterior_predictive": {"y": (4,)},
        "log_likelihood": {"y": (4,)},
        "prior": {"mu": (), "tau": (), "eta": (4,), "theta": (4,)},
        "prior_predictive": {"y": (4,)},
    }
    for name, sites in shapes.items():
        found = group(idata, name)
        assert set(found.data_vars) == set(sites)
        lead = (1, 7) if name.startswith("prior") else (CHAINS, DRAWS)
        for site, shape in sites.items():
            assert found[site].shape == (*lead, *shape)
            axes = ("chain", "draw", "school") if shape else ("chain", "draw")
            assert found[site].dims == axes
            if shape:
                assert found["school"].values.tolist() == [0, 1, 2, 3]
    assert group(idata, "observed_data")["y"].values.tolist() == Y.tolist()
    assert set(group(idata, "sample_stats").data_vars) == set(fit.stats)
    attrs = group(idata, "posterior").attrs
    assert attrs["superchains"] == 4
    assert attrs["predictive_seed"] == fit.run_seed
    assert get_group(idata, "predictions") is None


def test_groups_nobody_asked_for_are_left_out(fit):
    idata = fit.to_arviz(False)
    for name in ("log_likelihood", "posterior_predictive", "prior", "prior_predictive"):
        assert get_group(idata, name) is None
    assert "predictive_seed" not in group(idata, "posterior").attrs


def test_every_number_is_on_its_chain_beyond_ten(fit):
    idata = fit.to_arviz(posterior_predictive=True)
    stats, posterior = group(idata, "sample_stats"), group(idata, "posterior")
    likelihood = group(idata, "log_likelihood")["y"]
    replicated = group(idata, "posterior_predictive")["y"]
    samples = fit.get_samples(group_by_chain=True)
    flags = pattern(CHAINS, DRAWS)
    assert len({tuple(row.tolist()) for row in flags}) == CHAINS
    for chain in range(CHAINS):
        here = stats.sel(chain=chain)
        assert here["diverging"].values.tolist() == flags[chain].tolist()
        for name, value in fit.stats.items():
            assert here[name].values.tolist() == value[chain].tolist()
        assert (posterior["mu"].sel(chain=chain) == chain).all()
        theta = chain + samples["tau"][chain, :, None] * samples["eta"][chain]
        found = posterior["theta"].sel(chain=chain).values
        np.testing.assert_allclose(found, theta, rtol=1e-12)
        expected = Normal(theta, 2.0).log_prob(Y)
        np.testing.assert_allclose(likelihood.sel(chain=chain), expected, rtol=1e-10)
        residual = replicated.sel(chain=chain).values - theta.numpy()
        assert np.abs(residual).max() < 2 * 7  # a normal passes 7 once in 4e11


class Marked(FixedHMC):
    """A kernel whose draws diverge in a pattern that tells chains apart."""

    def block(self, target, state, chains, draws, noise):
        block = super().block(target, state, chains, draws, noise)
        flags = pattern(CHAINS, draws)[list(chains)]
        return block._replace(stats={**block.stats, "diverging": flags})

    def review(self, states, stats):
        return []


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 5])
def test_a_run_of_twelve_chains_arrives_in_order(batch):
    kernel = Marked(schools, step_size=0.1, num_steps=3)
    fit = MCMC(
        kernel,
        DRAWS,
        5,
        CHAINS,
        seed=1,
        chain_batch_size=batch,
        compile=False,
        progress_bar=False,
        dtype=torch.float64,
    ).run(Y)
    idata = fit.to_arviz(log_likelihood=False)
    found = group(idata, "sample_stats")
    assert list(found.data_vars) == list(kernel.statistics)
    expected = pattern(CHAINS, DRAWS)
    assert found["diverging"].values.tolist() == expected.tolist()
    mu = fit.get_samples(group_by_chain=True)["mu"]
    np.testing.assert_array_equal(group(idata, "posterior")["mu"], mu)
    said = fit.diagnostics()["divergences"]
    for chain in range(CHAINS):
        draws = expected[chain].nonzero().flatten().tolist()
        assert said[f"chain {chain}"] == draws


def test_diagnostics_are_those_of_pyro_and_more(fit):
    found = fit.diagnostics()
    names = {"mu", "tau", "eta", "divergences", "acceptance rate"}
    assert set(found) == names
    for site, shape in (("mu", ()), ("eta", (4,))):
        assert set(found[site]) == {"n_eff", "r_hat", "nested_r_hat"}
        assert all(value.shape == shape for value in found[site].values())
    rates = fit.stats["acceptance_rate"].mean(1).tolist()
    assert found["acceptance rate"] == {
        f"chain {i}": pytest.approx(rate) for i, rate in enumerate(rates)
    }
    flags = fit.stats["diverging"]
    assert found["divergences"]["chain 10"] == flags[10].nonzero().flatten().tolist()
    assert float(found["mu"]["nested_r_hat"]) > 2  # chain i has mu = i


def test_without_such_statistics_diagnostics_go_without(result):
    fit = result(schools, Y, q=np.random.default_rng(0).normal(size=(2, 20, 6)))
    found = fit.diagnostics()
    assert set(found) == {"mu", "tau", "eta"}
    assert set(found["mu"]) == {"n_eff", "r_hat"}


def test_the_summary_has_nested_r_hat_where_chains_share_starts(fit):
    table = fit.summary()
    assert list(table.index) == [*(f"eta[{i}]" for i in range(4)), "mu", "tau"]
    expected = nested_r_hat(
        fit.get_samples(group_by_chain=True)["eta"].numpy(), 4, ranked=True
    )
    np.testing.assert_allclose(table["nested_r_hat"][:4], expected)
    fit.superchains = None
    plain = fit.summary()
    assert plain.equals(table.drop(columns="nested_r_hat"))


@pytest.mark.parametrize("prior", [-1, 2.0, "3"])
def test_a_bad_count_of_prior_draws_is_refused(fit, prior):
    with pytest.raises(ConfigurationError, match=FOUR_PARTS):
        fit.to_arviz(prior=prior)


def test_a_potential_has_draws_and_statistics_alone(result):
    target = Target.from_potential(lambda q: q.square().sum(), 2)
    idata = result(target, q=np.zeros((2, 5, 2)), stats={"lp": torch.zeros(2, 5)})
    idata = idata.to_arviz()
    assert group(idata, "posterior")["q"].shape == (2, 5, 2)
    assert get_group(idata, "log_likelihood") is None
    assert get_group(idata, "observed_data") is None


def test_arviz_takes_it_from_there(fit, tmp_path):
    idata = fit.to_arviz(prior=5, posterior_predictive=True)
    arviz = import_arviz()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # these are no real draws
        assert arviz.loo(idata).n_data_points == 4
    idata.to_netcdf(str(tmp_path / "run.nc"))
    back = arviz.from_netcdf(str(tmp_path / "run.nc"))
    for name in ("posterior_predictive", "prior", "prior_predictive", "sample_stats"):
        assert group(back, name).equals(group(idata, name))
    if major_version() < 1:
        assert arviz.bfmi(back).shape == (CHAINS,)


def test_a_hundred_thousand_draws_cost_few_evaluations(result):
    """Counted, not timed: what takes long is a call of the model, not its lanes."""
    calls = 0

    def counted(y):
        nonlocal calls
        calls += 1
        schools(y)

    q = torch.randn(256, 400, 10, dtype=torch.float64)
    fit = result(counted, torch.zeros(8, dtype=torch.float64), q=q)
    for action, most in ((fit.to_arviz, 100), (fit.posterior_predictive, 50)):
        calls = 0
        action()
        assert calls <= most
    calls = 0
    fit.summary()
    assert calls == 0
