"""A posterior as the prior of the next model: density, order, plates, samplers."""

import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.optim import Adam  # pyright: ignore[reportAttributeAccessIssue]
from torch.distributions import constraints

from pyro_geo.density import Layout, Target
from pyro_geo.errors import LayoutMismatchError
from pyro_geo.geometry.matrices import Cholesky, Diagonal
from pyro_geo.infer import HMC
from pyro_geo.infer import MCMC as BatchedMCMC
from pyro_geo.summaries import GaussianPosterior, combine
from pyro_geo.testing.merging import conjugate_shards

pytestmark = pytest.mark.usefixtures("double_precision")

SUPPORTS = {
    "corr": (torch.Size([3, 3]), constraints.corr_cholesky),
    "group": (torch.Size([4]), constraints.real),
    "inside": (torch.Size([]), constraints.interval(-1.0, 5.0)),
    "mix": (torch.Size([3]), constraints.simplex),
    "rows": (torch.Size([4, 2]), constraints.positive),
    "scale": (torch.Size([]), constraints.positive),
}
LAYOUT = Layout.from_supports(SUPPORTS)


def posterior_over(layout: Layout, seed: int = 0) -> GaussianPosterior:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(layout.dim, layout.dim, generator=generator)
    matrix = root @ root.T + 2 * torch.eye(layout.dim)
    loc = 0.3 * torch.randn(layout.dim, generator=generator)
    return GaussianPosterior(loc, Cholesky(torch.linalg.cholesky(matrix)), layout)


def sample_site(name: str) -> torch.Tensor:
    """One site with a prior that has nothing to do with the posterior."""
    if name == "corr":
        return pyro.sample(name, dist.LKJCholesky(3, 1.0))
    if name == "inside":
        return pyro.sample(name, dist.Uniform(-1.0, 5.0))
    if name == "mix":
        return pyro.sample(name, dist.Dirichlet(torch.ones(3)))
    if name == "scale":
        return pyro.sample(name, dist.HalfCauchy(1.0))
    with pyro.plate(f"{name}_plate", 4, dim=-1):
        if name == "group":
            return pyro.sample(name, dist.Normal(0.0, 1.0))
        return pyro.sample(name, dist.LogNormal(torch.zeros(2), 1.0).to_event(1))


def model(order=tuple(SUPPORTS)):
    return {name: sample_site(name) for name in order}


ORDERS = [tuple(SUPPORTS), tuple(reversed(SUPPORTS))]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order[0])
def test_the_density_is_the_normal_one_in_any_order(order):
    posterior = posterior_over(LAYOUT)
    informed = posterior.as_prior()(model)
    values = posterior.sample(generator=torch.Generator().manual_seed(1))
    trace = poutine.trace(poutine.condition(informed, data=values)).get_trace(order)
    found = torch.as_tensor(trace.log_prob_sum())
    torch.testing.assert_close(found, posterior.log_prob(values), rtol=1e-10, atol=1e-8)


def test_a_target_has_the_normal_density_and_the_layout(seed):
    posterior = posterior_over(LAYOUT)
    target = Target.from_model(posterior.as_prior()(model), compile=False)
    assert list(target.layout.sites) == list(LAYOUT.sites)
    generator = torch.Generator().manual_seed(seed)
    q = posterior.loc + 0.5 * torch.randn(5, target.dim, generator=generator)
    expected = posterior.log_density(q)
    torch.testing.assert_close(target.log_prior(q), expected, rtol=1e-9, atol=1e-7)
    value, slope = target.value_and_grad(q)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-7)
    pull = posterior.precision.matvec(posterior.loc - q)
    torch.testing.assert_close(slope, pull, rtol=1e-7, atol=1e-6)
    assert target.layout.sites["rows"].dims[0] == "rows_plate"


def test_each_entry_of_a_plate_has_its_own_term():
    posterior = posterior_over(LAYOUT)
    trace = poutine.trace(posterior.as_prior()(model)).get_trace()
    trace.compute_log_prob()
    nodes: Any = trace.nodes
    shapes = {n: nodes[n]["log_prob"].shape for n in SUPPORTS}
    assert shapes["rows"] == shapes["group"] == (4,)
    assert shapes["corr"] == shapes["mix"] == shapes["scale"] == ()


def test_draws_have_the_moments_of_the_posterior(seed):
    posterior = posterior_over(LAYOUT)
    informed = posterior.as_prior()(model)
    pyro.set_rng_seed(seed)
    count = 4000
    # one run for all draws: the plate of draws is left of those of the model
    draws = Predictive(informed, num_samples=count, parallel=True)()
    shaped = {
        name: draws[name].reshape(count, *shape)
        for name, (shape, _) in SUPPORTS.items()
    }
    q = LAYOUT.unconstrain(shaped)
    white = (q - posterior.loc) @ torch.linalg.cholesky(posterior.precision.dense())
    # entries of standard normal moments; five standard errors, 104 comparisons
    assert white.mean(0).abs().max() < 5 / count**0.5
    gap = white.T @ white / count - torch.eye(LAYOUT.dim)
    assert gap.abs().max() < 5 * (2 / count) ** 0.5


def test_particles_of_an_elbo_are_apart():
    posterior = posterior_over(LAYOUT)
    informed = posterior.as_prior()(model)

    def wrapped():
        with pyro.plate("particles", 7, dim=-2):
            return informed()

    trace = poutine.trace(wrapped).get_trace()
    trace.compute_log_prob()
    nodes: Any = trace.nodes
    assert nodes["group"]["value"].shape == (7, 4)
    assert nodes["scale"]["value"].shape == (7, 1)
    total = torch.zeros(7)
    values = {}
    for name, (shape, _) in SUPPORTS.items():
        node = nodes[name]
        total = total + node["log_prob"].reshape(7, -1).sum(-1)
        values[name] = node["value"].reshape(7, *shape)
    torch.testing.assert_close(total, posterior.log_prob(values), rtol=1e-9, atol=1e-7)


def test_diagonal_posteriors_need_no_matrix():
    layout = Layout.from_supports({"w": (torch.Size([5]), constraints.real)})
    scale = torch.linspace(0.5, 2.0, 5)
    posterior = GaussianPosterior(torch.arange(5.0), Diagonal(1 / scale), layout)

    def linear():
        return pyro.sample("w", dist.Normal(torch.zeros(5), 1.0).to_event(1))

    trace = poutine.trace(posterior.as_prior()(linear)).get_trace()
    nodes: Any = trace.nodes
    value = nodes["w"]["value"]
    expected = dist.Normal(torch.arange(5.0), scale).log_prob(value).sum()
    torch.testing.assert_close(torch.as_tensor(trace.log_prob_sum()), expected)


# -- chained inference ----------------------------------------------------------------


def regression(x, y):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 9.0).to_event(1))
    offset = pyro.sample("offset", dist.Normal(0.0, 9.0))
    with pyro.plate("data", len(x)):
        mean = (slope * x[:, :2]).sum(-1) + offset * x[:, 2]
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def test_the_next_posterior_of_a_conjugate_model_is_exact():
    prior, (first, _), pooled = conjugate_shards((6, 9), seed=3)
    generator = torch.Generator().manual_seed(3)
    draw = {"generator": generator, "dtype": torch.float64}
    _ = torch.randn(3, 3, **draw), torch.randn(3, **draw)  # as the shards begin
    x, y = torch.randn(15, 3, **draw), torch.randn(15, **draw)
    target = Target.from_model(
        first.as_prior()(regression), x[6:], y[6:], compile=False
    )
    pooled = pooled.aligned(target.layout)
    q = pooled.loc + torch.randn(4, 3, generator=generator)
    pull = pooled.precision.matvec(pooled.loc - q)
    torch.testing.assert_close(target.value_and_grad(q)[1], pull, rtol=1e-9, atol=1e-9)


def test_the_prior_of_a_model_with_this_prior_is_the_posterior():
    _, (first, _), _ = conjugate_shards((6, 9))
    again = GaussianPosterior.from_prior(
        first.as_prior()(regression), torch.zeros(1, 3), torch.zeros(1)
    )
    again = again.aligned(first.layout)
    torch.testing.assert_close(again.loc, first.loc, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(again.precision.dense(), first.precision.dense())


def test_guides_and_samplers_take_the_model(seed):
    _, (first, second), _ = conjugate_shards((6, 9))
    informed = first.as_prior()(regression)
    data = torch.ones(4, 3), torch.zeros(4)
    pyro.set_rng_seed(seed)
    for kind, loss in (
        (AutoNormal, TraceMeanField_ELBO()),
        (
            AutoMultivariateNormal,
            Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        ),
    ):
        guide = kind(informed)
        svi = SVI(informed, guide, Adam({"lr": 0.01}), loss)
        assert isinstance(svi.step(*data), float)
        fit = GaussianPosterior.from_guide(guide)
        # the sites are those of the model, so that fits go on being combined
        assert set(fit.layout.sites) == {"slope", "offset"}
        combine([fit, second], how="product")
    mcmc = MCMC(NUTS(informed), num_samples=8, warmup_steps=4, disable_progbar=True)
    mcmc.run(*data)
    assert set(mcmc.get_samples()) == {"slope", "offset"}
    fit = BatchedMCMC(
        HMC(informed), 4, 4, 2, seed=1, compile=False, progress_bar=False
    ).run(*data)
    assert set(fit.get_samples()) == {"slope", "offset"}


# -- refusals -------------------------------------------------------------------------


def one_site(fn):
    layout = Layout.from_supports({"x": (torch.Size([2]), constraints.positive)})
    prior = posterior_over(layout).as_prior()
    return prior(lambda: pyro.sample("x", fn))


def test_sites_that_do_not_fit_are_named():
    with pytest.raises(LayoutMismatchError, match=r"'x'.*found \(3,\)"):
        one_site(dist.LogNormal(torch.zeros(3), 1.0).to_event(1))()
    with pytest.raises(LayoutMismatchError, match="another support"):
        one_site(dist.Normal(torch.zeros(2), 1.0).to_event(1))()
    one_site(dist.Gamma(torch.ones(2), 1.0).to_event(1))()


def test_a_site_that_the_model_lacks_is_named_and_can_be_left_out():
    posterior = posterior_over(LAYOUT)
    fewer = ("scale", "group")
    with pytest.raises(LayoutMismatchError, match="'corr'"):
        posterior.as_prior()(model)(fewer)
    kept = posterior.marginal(fewer)
    trace = poutine.trace(kept.as_prior()(model)).get_trace(fewer)
    nodes: Any = trace.nodes
    values = {name: nodes[name]["value"] for name in fewer}
    torch.testing.assert_close(
        torch.as_tensor(trace.log_prob_sum()), kept.log_prob(values)
    )


def test_other_sites_keep_their_priors():
    kept = posterior_over(LAYOUT).marginal("scale")
    trace = poutine.trace(kept.as_prior()(model)).get_trace()
    nodes: Any = trace.nodes
    assert isinstance(nodes["mix"]["fn"], dist.Dirichlet)


def test_an_error_of_the_model_is_not_hidden():
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        posterior_over(LAYOUT).as_prior()(broken)()


def test_a_prior_can_be_pickled_and_shown():
    prior = posterior_over(LAYOUT).as_prior()
    prior(model)()
    again = pickle.loads(pickle.dumps(prior))
    assert repr(again) == repr(prior)
    assert "rows" in repr(prior)
    assert prior(model).__name__ == "model"


@pytest.mark.slow  # compiles
def test_compiled_and_traced_densities_are_the_same(seed):
    posterior = posterior_over(LAYOUT)
    informed = posterior.as_prior()(model)
    target = Target.from_model(informed, compile=True)
    generator = torch.Generator().manual_seed(seed)
    q = posterior.loc + 0.5 * torch.randn(5, target.dim, generator=generator)
    value, slope = target.value_and_grad(q)
    torch.testing.assert_close(value, posterior.log_density(q), rtol=1e-9, atol=1e-7)
    pull = posterior.precision.matvec(posterior.loc - q)
    torch.testing.assert_close(slope, pull, rtol=1e-7, atol=1e-6)
