"""Priors as rows of numbers: Sobol points, unit cube, Pyro models."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import kstest

from pyro_geo.errors import ModelError
from pyro_geo.planning import Prior

SITES = {
    "mass": dist.LogNormal(torch.tensor(0.0), 0.3),
    "push": dist.Uniform(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 2.0])),
    "share": dist.Beta(torch.tensor(2.0), 3.0),  # without quantiles
}


def test_draws_fill_the_cube_evenly() -> None:
    prior = Prior(SITES)
    assert prior.parameters == ("mass", "push[0]", "push[1]", "share")
    u = prior.unit(prior.sample(64, seed=3))
    for column in range(3):  # an interval of a sixteenth holds a sixteenth of them
        counts = torch.histc(u[:, column], 16, 0.0, 1.0)
        assert counts.tolist() == [4.0] * 16


def test_draws_follow_the_laws() -> None:
    theta = Prior(SITES).sample(1000, seed=0)
    laws = [SITES["mass"], dist.Uniform(-1.0, 1.0), dist.Uniform(0.0, 2.0)]
    for column, law in enumerate(laws):
        found = kstest(
            theta[:, column].numpy(), lambda x, f=law: f.cdf(torch.tensor(x)).numpy()
        )
        assert found.pvalue > 1e-3
    assert abs(float(theta[:, 3].mean()) - 0.4) < 4 * 0.2 / 1000**0.5


def test_fewer_draws_are_the_first_of_more_and_nothing_global_moves() -> None:
    prior, state = Prior(SITES), torch.get_rng_state()
    few, more = prior.sample(10, seed=5), prior.sample(20, seed=5)
    assert torch.equal(few[:, :3], more[:10, :3])
    assert torch.equal(prior.sample(10, seed=5), few)
    assert not torch.equal(prior.sample(10, seed=6)[:, :3], few[:, :3])
    assert torch.equal(torch.get_rng_state(), state)


def test_sites_and_columns_are_inverse() -> None:
    prior = Prior(SITES)
    theta = prior.sample(6, seed=1).reshape(2, 3, 4)
    named = prior.named(theta)
    assert named["push"].shape == (2, 3, 2)
    assert torch.equal(prior.joined(named), theta)


def test_models_whose_sites_depend_on_each_other_are_run() -> None:
    def model() -> None:
        scale = pyro.sample("scale", dist.HalfNormal(torch.tensor(1.0)))
        pyro.sample("push", dist.Normal(0.0, scale))
        pyro.sample("seen", dist.Normal(0.0, 1.0), obs=torch.tensor(1.0))

    prior = Prior.from_model(model)
    assert not prior.factorises
    assert prior.parameters == ("scale", "push")
    theta = prior.sample(400, seed=0)
    # given the scale the push is normal
    ratio = theta[:, 1] / theta[:, 0]
    assert kstest(ratio.numpy(), "norm").pvalue > 1e-3
    u = prior.unit(theta)
    assert bool(((u >= 0) & (u <= 1)).all())


def test_independent_sites_of_a_model_get_sobol_points() -> None:
    def model() -> None:
        pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("b", dist.Uniform(torch.tensor(0.0), 1.0))

    prior = Prior.from_model(model)
    assert prior.factorises
    same = Prior({"a": dist.Normal(0.0, 1.0), "b": dist.Uniform(0.0, 1.0)})
    torch.testing.assert_close(prior.sample(8, 2), same.sample(8, 2))


def test_some_sites_of_a_model() -> None:
    def model() -> None:
        pyro.sample("a", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.sample("noise", dist.HalfNormal(torch.tensor(1.0)))

    assert Prior.from_model(model, sites=["noise"]).parameters == ("noise",)
    with pytest.raises(ModelError, match="sites"):
        Prior.from_model(model, sites=["b"])


def test_a_prior_needs_a_site() -> None:
    with pytest.raises(ModelError, match="without parameters"):
        Prior({})
