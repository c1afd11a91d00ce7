"""A Pyro model as a density: equal to Pyro's, and what is refused."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model
from pyro.infer.reparam import LocScaleReparam, TransformReparam

from pyro_geo.density import Target
from pyro_geo.errors import (
    ModelError,
    ShapeError,
    UnsupportedModelError,
)
from tests.density.kinds import KINDS, Module, X, Y

ALL = pytest.mark.parametrize("name", KINDS)


def positions(target, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, target.dim)
    return torch.randn(shape, generator=generator, dtype=target.dtype) * 0.5


@ALL
def test_potential_is_pyros(name):
    kind = KINDS[name]
    target = kind.target()
    torch.set_default_dtype(torch.float64)
    if name == "improper_uniform":
        pytest.skip("Pyro samples the site before it starts; see the next test")
    potential = initialize_model(kind.model, kind.args, dict(kind.kwargs))[1]
    q = positions(target)
    expected = torch.stack([-potential(target.layout.unflatten(row)) for row in q])
    torch.testing.assert_close(target.log_prob(q), expected, rtol=1e-12, atol=1e-12)


def test_an_improper_prior_counts_for_its_jacobian_alone():
    target = KINDS["improper_uniform"].target()
    q = positions(target)
    torch.testing.assert_close(target.log_prior(q), q[:, 0])
    expected = dist.Normal(q.exp(), 1.0).log_prob(Y).sum(-1)
    torch.testing.assert_close(target.log_likelihood(q), expected)
    assert target.initial(2, "prior").isfinite().all()


@ALL
def test_terms_and_data_sum_up(name):
    target = KINDS[name].target()
    q = positions(target)
    log_prior, log_likelihood = target.terms(q)
    torch.testing.assert_close(target.log_prob(q), log_prior + log_likelihood)
    pointwise = target.pointwise_log_likelihood(q)
    total = sum(v.reshape(len(q), -1).sum(-1) for v in pointwise.values())
    scale = 2.5 if name == "scale" else 1.0
    torch.testing.assert_close(scale * total, log_likelihood, rtol=1e-10, atol=0)


def test_names_of_axes_and_observed_values():
    target = KINDS["nested_plates"].target()
    assert target.dims == {"mean": ("column",), "y": ("row", "column")}
    assert target.coords["column"] == [0, 1, 2]
    assert target.observed["y"].shape == (12, 3)
    assert KINDS["factor"].target().observed == {}
    assert KINDS["lkj"].target().dims["factor"] == ("factor_dim_0", "factor_dim_1")
    target = KINDS["hierarchical"].target()
    q = positions(target)
    sites = target.constrain(q)
    theta = sites["mu"][:, None] + sites["tau"][:, None] * sites["eta"]
    torch.testing.assert_close(target.deterministics(q)["theta"], theta)


def test_a_reparametrised_site_is_neither_latent_nor_data():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("schools", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, 2.0))
            scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
            pyro.sample("y", dist.Normal(theta, scale), obs=y)

    config = {"theta": LocScaleReparam(0.0), "scale": TransformReparam()}
    model = poutine.reparam(model, config)
    target = Target.from_model(model, Y, dtype=torch.float64)
    assert list(target.layout.sites) == ["mu", "scale_base", "theta_decentered"]
    assert list(target.observed) == ["y"]
    q = positions(target)
    sites, values = target.constrain(q), target.deterministics(q)
    theta = sites["mu"][:, None] + 2 * sites["theta_decentered"]
    torch.testing.assert_close(values["theta"], theta)
    torch.testing.assert_close(values["scale"], sites["scale_base"].exp())
    assert list(target.pointwise_log_likelihood(q)) == ["y"]
    assert target.dims["theta"] == ("schools",)


def test_latents_are_chosen_by_name():
    conditioned, plain = KINDS["conditioned"].target(), KINDS["hierarchical"].target()
    assert list(conditioned.layout.sites) == ["eta", "mu", "tau"]
    q = positions(plain)
    for ours, theirs in zip(conditioned.terms(q), plain.terms(q), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
def test_global_random_states_are_untouched():
    def states():
        shared = np.random.get_state()  # noqa: NPY002 (the state others share)
        return torch.get_rng_state().tolist(), str(shared), random.getstate()

    kind = KINDS["hierarchical"]
    before = states()
    target = kind.target()
    q = target.initial(4, "prior", torch.Generator().manual_seed(0))
    target.value_and_grad(q)
    target.pointwise_log_likelihood(q)
    assert states() == before
    assert torch.get_default_dtype() == torch.float32


def test_input_tensors_are_untouched():
    kind = KINDS["regression"]
    copies = [x.clone() for x in kind.args]
    target = kind.target(torch.float32)
    target.value_and_grad(positions(target))
    for before, now in zip(copies, kind.args, strict=True):
        assert torch.equal(before, now)
        assert now.dtype == torch.float64


def test_parameters_keep_their_values():
    pyro.param("s", torch.tensor(3.0))
    target = KINDS["pyro_param"].target()
    assert pyro.param("s").item() == 3.0
    assert dict(pyro.get_param_store()).keys() == {"s"}
    q = torch.zeros(1, 1, dtype=torch.float64)
    expected = dist.Normal(0.0, 3.0).log_prob(torch.tensor(0.0)).double()
    torch.testing.assert_close(target.log_prior(q)[0], expected)
    value, grad = target.value_and_grad(q)
    assert value.isfinite().all()
    assert grad.isfinite().all()
    assert pyro.param("s").grad is None


def test_priors_that_validate_can_be_mapped():
    model = Module()
    prior = model.linear._pyro_samples["weight"]
    prior._validate_args = prior.base_dist._validate_args = True
    target = Target.from_model(model, X, Y, dtype=torch.float64)
    assert target.ceiling == "compiled"
    assert prior._validate_args
    assert prior.base_dist._validate_args


def subsampled(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y), subsample_size=3) as rows:
        pyro.sample("y", dist.Normal(x, 1.0), obs=y[rows])


def noisy(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x + torch.randn(()), 1.0), obs=y)


def without_latent(y):
    pyro.sample("y", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1), obs=y)


def moving_support(y):
    low = pyro.sample("low", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Uniform(low, low + 1.0))


def moving_shape(y):
    n = int(torch.randint(1, 1_000, ()))
    pyro.sample("x", dist.Normal(torch.zeros(n), 1.0).to_event(1))


def come_and_go(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    if torch.rand(()) < 0.5:
        pyro.sample("sometimes", dist.Normal(x, 1.0))


def come_with_values(y):
    x = pyro.sample("x", dist.Normal(0.0, 1e-9))
    if x > 0.01:  # never under the prior, always at the first position tried
        pyro.sample("late", dist.Normal(x, 1.0))


def unknown_label(y):
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Categorical(p), obs=torch.full((len(y),), 7))


def counted(y):
    """Sees one datum more on each run."""
    runs.append(0)
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample(f"y_{len(runs)}", dist.Normal(x, 1.0), obs=y[0])


runs: list[int] = []
REFUSED = {
    subsampled: (UnsupportedModelError, "plate 'rows'"),
    noisy: (UnsupportedModelError, "site 'y'"),
    without_latent: (ModelError, "argument model"),
    moving_support: (UnsupportedModelError, "site 'x'"),
    moving_shape: (ShapeError, "site 'x'"),
    come_and_go: (ModelError, "site 'sometimes'"),
    come_with_values: (ModelError, "site 'late'"),
    unknown_label: (ModelError, "site 'y'"),
    counted: (UnsupportedModelError, "site 'y_3'"),
}


@pytest.mark.parametrize("model", REFUSED, ids=lambda model: model.__name__)
def test_refused_models_are_told_what_and_where(model):
    error, where = REFUSED[model]
    with pytest.raises(error) as caught:
        Target.from_model(model, Y)
    message = str(caught.value)
    assert f"({where})" in message
    assert ": found " in message
    assert ", expected " in message
    assert message.endswith(".")


def test_a_failed_cholesky_stays_in_its_chain():
    def model(y):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        cov = torch.eye(3) + shift * torch.ones(3, 3)
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(3), cov), obs=y)

    target = Target.from_model(model, torch.ones(3), dtype=torch.float64)
    q = torch.tensor([[0.5], [-2.0], [0.1]], dtype=torch.float64)
    for rung in ("mapped", "traced"):
        value, grad = target.with_rung(rung).value_and_grad(q)
        assert value.isfinite().tolist() == [True, False, True]
        assert grad.isfinite()[[0, 2]].all()
