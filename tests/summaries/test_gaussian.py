"""Normal summaries of guides, draws, modules and priors, against what is known."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch.distributions import constraints

from pyro_geo.density import Layout, Target
from pyro_geo.errors import (
    ConfigurationError,
    FallbackWarning,
    LayoutMismatchError,
    MissingCurvatureError,
    NonFiniteParameterError,
    NotPositiveDefiniteError,
    SampleSizeError,
    ShapeError,
    UnsupportedError,
)
from pyro_geo.geometry.laplace import laplace
from pyro_geo.geometry.matrices import (
    Cholesky,
    Dense,
    Diagonal,
    LowRank,
    Spectral,
)
from pyro_geo.io.arviz import get_group
from pyro_geo.results import MemoryDraws, PosteriorDraws
from pyro_geo.summaries import GaussianPosterior

pytestmark = pytest.mark.usefixtures("double_precision")

LAYOUT = Layout.from_supports(
    {
        "mix": (torch.Size([3]), constraints.simplex),
        "scale": (torch.Size([2]), constraints.positive),
        "shift": (torch.Size([]), constraints.real),
    }
)


def covariance_of(dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dim, dim, generator=generator)
    return root @ root.T / dim + 0.1 * torch.eye(dim)


def posterior_of(seed: int = 0) -> GaussianPosterior:
    loc = torch.linspace(-0.5, 0.5, LAYOUT.dim)
    return GaussianPosterior.from_moments(loc, covariance_of(LAYOUT.dim, seed), LAYOUT)


def normal_of(posterior: GaussianPosterior) -> dist.MultivariateNormal:
    return dist.MultivariateNormal(posterior.loc, posterior.covariance)


# -- the distribution -----------------------------------------------------------------


def test_density_and_draws_are_those_of_the_normal():
    posterior = posterior_of()
    draws = posterior.sample((5, 2), generator=torch.Generator().manual_seed(0))
    assert draws["mix"].shape == (5, 2, 3)
    assert draws["shift"].shape == (5, 2)
    q = LAYOUT.unconstrain(draws)
    expected = normal_of(posterior).log_prob(q)
    torch.testing.assert_close(posterior.log_density(q), expected)
    jacobian = torch.stack(
        [LAYOUT.constrain_with_jacobian(row)[1] for row in q.flatten(0, 1)]
    )
    found = posterior.log_prob(draws)
    torch.testing.assert_close(found, expected - jacobian.reshape(5, 2))


def test_draws_have_torchs_default_type():
    torch.set_default_dtype(torch.float32)
    assert posterior_of().sample()["scale"].dtype == torch.float32
    assert posterior_of().loc.dtype == torch.float64


def test_divergence_is_that_of_torch():
    one, two = posterior_of(0), posterior_of(1)
    expected = torch.distributions.kl_divergence(normal_of(one), normal_of(two))
    assert one.kl_divergence(two) == pytest.approx(float(expected), rel=1e-10)
    assert one.kl_divergence(one) == pytest.approx(0, abs=1e-10)


def low_rank() -> LowRank:
    vectors = torch.linalg.qr(torch.arange(10.0).reshape(5, 2).cos()).Q
    return LowRank(torch.arange(1.0, 6.0), vectors, torch.tensor([0.1, 4.0]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Diagonal(torch.arange(1.0, 6.0)),
        low_rank,
        lambda: Dense.from_matrix(covariance_of(5)),
        lambda: Cholesky(torch.linalg.cholesky(covariance_of(5))),
        lambda: Spectral(*torch.linalg.eigh(covariance_of(5))),
    ],
    ids=["diagonal", "low_rank", "dense", "cholesky", "spectral"],
)
def test_every_form_of_precision_is_one_distribution(make):
    precision = make()
    loc = torch.linspace(-1.0, 1.0, 5)
    posterior = GaussianPosterior(loc, precision, LAYOUT)
    dense = torch.linalg.inv(precision.dense())
    torch.testing.assert_close(posterior.covariance, dense)
    torch.testing.assert_close(posterior.scale, dense.diagonal().sqrt())
    order = ("shift", "mix", "scale")
    index = torch.tensor([4, 0, 1, 2, 3])
    moved = posterior.aligned(posterior.marginal(order).layout)
    torch.testing.assert_close(moved.loc, loc[index])
    torch.testing.assert_close(moved.covariance, dense[index][:, index])
    part = posterior.marginal("scale")
    torch.testing.assert_close(part.covariance, dense[2:4, 2:4])
    torch.testing.assert_close(part.loc, loc[2:4])


def test_summary_in_both_spaces():
    layout = Layout.from_supports({"s": (torch.Size([2]), constraints.positive)})
    loc, scale = torch.tensor([0.2, -1.0]), torch.tensor([0.1, 0.5])
    posterior = GaussianPosterior(loc, Diagonal(1 / scale), layout)
    exact = posterior.summary("unconstrained")
    assert list(exact.index) == ["s[0]", "s[1]"]
    np.testing.assert_allclose(exact["95%"], loc + 1.6448536269514722 * scale)
    drawn = posterior.summary(num_draws=20_000)
    mean = (loc + scale**2 / 2).exp()
    deviation = mean * ((scale**2).exp() - 1).sqrt()
    # five standard errors
    error = 5 * deviation / math.sqrt(20_000)
    found = torch.tensor(drawn["mean"].tolist())
    assert bool(((found - mean).abs() < error).all())
    np.testing.assert_allclose(drawn["median"], loc.exp(), rtol=0.03)
    # the mean of draws is not the transform of the mean
    assert drawn["mean"].iloc[1] > float(loc[1].exp()) * 1.1


def test_arviz_data_come_back_as_the_posterior(tmp_path):
    posterior = posterior_of()
    idata = posterior.to_arviz(400, seed=3)
    group = get_group(idata, "posterior")
    assert group is not None
    assert dict(group["mix"].sizes)["chain"] == 4
    again = GaussianPosterior.from_arviz(idata, LAYOUT, ess=400.0)
    assert posterior.kl_divergence(again) < 0.15
    page = posterior.report(tmp_path / "page.html", tables={"T": [["a"], [1]]})
    assert "<img" in page.read_text()


def test_bad_numbers_are_named():
    loc = torch.zeros(5)
    loc[3] = float("nan")
    with pytest.raises(NonFiniteParameterError, match="'scale'"):
        GaussianPosterior(loc, Diagonal(torch.ones(5)), LAYOUT)
    with pytest.raises(NonFiniteParameterError, match="precision"):
        GaussianPosterior(torch.zeros(5), Diagonal(torch.zeros(5)), LAYOUT)
    with pytest.raises(NonFiniteParameterError, match="covariance"):
        GaussianPosterior.from_moments(torch.zeros(5), loc, LAYOUT)
    with pytest.raises(ShapeError, match="argument loc"):
        GaussianPosterior(torch.zeros(4), Diagonal(torch.ones(4)), LAYOUT)
    with pytest.raises(NotPositiveDefiniteError, match="a covariance"):
        GaussianPosterior.from_moments(torch.zeros(5), -torch.eye(5), LAYOUT)
    with pytest.raises(LayoutMismatchError, match="'other'"):
        posterior_of().marginal(["other"])
    with pytest.raises(ConfigurationError, match="argument space"):
        posterior_of().summary("both")  # type: ignore[arg-type]


# -- guides ---------------------------------------------------------------------------


def model(data=None):
    # not in the order of names, as guides keep them
    shift = pyro.sample("shift", dist.Normal(0.5, 2.0))
    with pyro.plate("rows", 2):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    pyro.sample("mix", dist.Dirichlet(torch.ones(3)))
    if data is not None:
        with pyro.plate("data", len(data)):
            pyro.sample("y", dist.Normal(shift, scale.sum()), obs=data)


def test_guides_are_read_exactly():
    data = torch.tensor([0.3, -0.2, 1.0])
    for kind in (
        AutoNormal,
        AutoDiagonalNormal,
        AutoMultivariateNormal,
        AutoLowRankMultivariateNormal,
    ):
        pyro.clear_param_store()
        guide = kind(model)
        guide(data)
        generator = torch.Generator().manual_seed(0)
        for _, param in sorted(guide.named_parameters()):
            param.data += 0.3 * torch.randn(param.shape, generator=generator)
        posterior = GaussianPosterior.from_guide(guide, data)
        assert list(posterior.layout.sites) == ["mix", "scale", "shift"]
        assert posterior.layout.sites["scale"].dims == ("rows",)
        trace = pyro.poutine.trace(guide).get_trace(data)
        nodes: Any = trace.nodes
        values = {name: nodes[name]["value"] for name in LAYOUT.sites}
        # the density of what the guide draws, Jacobians included
        torch.testing.assert_close(
            posterior.log_prob(values), torch.as_tensor(trace.log_prob_sum()).detach()
        )


def test_a_laplace_guide_has_the_hessian_at_its_location():
    data = torch.tensor([0.3, -0.2, 1.0])
    guide = AutoLaplaceApproximation(model)
    guide(data)
    guide.loc.data = torch.tensor([0.4, -0.2, 0.1, 0.0, 0.2])
    posterior = GaussianPosterior.from_guide(guide, data)
    exact = guide.laplace_approximation(data)
    expected = GaussianPosterior.from_guide(exact)
    torch.testing.assert_close(posterior.loc, expected.loc)
    torch.testing.assert_close(posterior.covariance, expected.covariance)
    guide.loc.data[1] = 9.0  # far out a log-normal scale bends the other way
    guide.loc.data[3:] = 40.0
    with pytest.raises(NotPositiveDefiniteError, match="argument guide"):
        GaussianPosterior.from_guide(guide, torch.full((3,), 1e3))


def test_parts_of_a_list_are_independent():
    guide = AutoGuideList(model)
    one = AutoMultivariateNormal(pyro.poutine.block(model, hide=["scale"]))
    two = AutoNormal(pyro.poutine.block(model, expose=["scale"]), init_scale=0.5)
    guide.append(one)
    guide.append(two)
    guide()
    one.scale_tril_unconstrained.data += 0.2
    posterior = GaussianPosterior.from_guide(guide)
    expected = GaussianPosterior.from_guide(one)
    part = posterior.marginal(["mix", "shift"])
    torch.testing.assert_close(part.covariance, expected.covariance)
    covariance = posterior.covariance
    torch.testing.assert_close(covariance[2:4, 2:4], 0.25 * torch.eye(2))
    assert not bool(covariance[2:4, :2].any())


def test_a_point_needs_a_metric():
    guide = AutoDelta(model)
    guide()
    with pytest.raises(MissingCurvatureError, match="metric"):
        GaussianPosterior.from_guide(guide)
    posterior = GaussianPosterior.from_guide(guide, metric=torch.arange(1.0, 6.0))
    torch.testing.assert_close(
        posterior.covariance.diagonal(), 1 / torch.arange(1.0, 6.0)
    )
    value = posterior.layout.constrain(posterior.loc)
    torch.testing.assert_close(value["mix"], guide.median()["mix"])
    torch.testing.assert_close(value["scale"], guide.median()["scale"])
    with pytest.raises(NotPositiveDefiniteError, match="metric"):
        GaussianPosterior.from_guide(guide, metric=torch.zeros(5))
    with pytest.raises(ShapeError, match="metric"):
        GaussianPosterior.from_guide(guide, metric=torch.ones(4))


def local_model(data):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(data), subsample_size=2) as index:
        z = pyro.sample("z", dist.Normal(0.0, scale))
        pyro.sample("y", dist.Normal(z, 1.0), obs=data[index])


def test_other_guides_are_refused():
    flow = AutoIAFNormal(model, hidden_dim=4)
    for guide in (flow, model, lambda data: None):
        with pytest.raises(UnsupportedError, match="argument guide"):
            GaussianPosterior.from_guide(guide)
    guide = AutoNormal(local_model)
    with pytest.raises(UnsupportedError, match="plate 'data'"):
        GaussianPosterior.from_guide(guide, torch.zeros(5))
    with pytest.raises(ConfigurationError, match="argument metric"):
        GaussianPosterior.from_guide(AutoNormal(model), metric=torch.ones(5))


def test_a_module_needs_a_metric_too():
    module = torch.nn.Linear(2, 1)
    with pytest.raises(MissingCurvatureError):
        GaussianPosterior.from_module(module, None)
    metric = Cholesky(torch.linalg.cholesky(covariance_of(3)))
    posterior = GaussianPosterior.from_module(module, metric)
    assert list(posterior.layout.sites) == ["weight", "bias"]
    torch.testing.assert_close(posterior.loc[2], module.bias[0].detach())


def test_a_laplace_approximation_is_taken_as_it_is():
    target = Target.from_model(model, torch.tensor([0.3, 0.1]), compile=False)
    normal = laplace(target, torch.zeros(5), curvature="hessian")
    posterior = GaussianPosterior(normal.mean, normal.precision, target.layout)
    torch.testing.assert_close(posterior.precision.dense(), normal.precision.dense())


# -- draws ----------------------------------------------------------------------------


def draws_of(posterior: GaussianPosterior, count: int, seed: int = 0):
    return posterior.sample((count,), generator=torch.Generator().manual_seed(seed))


def test_the_precision_of_draws_has_no_bias():
    posterior = posterior_of()
    count, dim, runs = 12, LAYOUT.dim, 200
    root = torch.linalg.cholesky(posterior.precision.dense())
    total = torch.zeros(runs, dim, dim)
    for k in range(runs):
        draws = draws_of(posterior, count, k)
        found = GaussianPosterior.from_samples(draws, LAYOUT, ess=float(count))
        inverse = torch.linalg.inv(root)
        total[k] = inverse @ found.precision.dense() @ inverse.T
    mean = total.mean(0)
    error = total.std(0) / math.sqrt(runs)
    # five standard errors for each of 15 entries
    assert bool(((mean - torch.eye(dim)).abs() < 5 * error).all())
    # without the correction: (count - 1) / (count - dim - 2) = 2.2 times too large
    wrong = mean * (count - 1) / (count - dim - 2)
    assert not bool(((wrong - torch.eye(dim)).abs() < 5 * error).all())


def test_moments_are_those_of_the_draws_and_their_weights():
    posterior = posterior_of()
    draws = draws_of(posterior, 200)
    q = LAYOUT.unconstrain(draws)
    weights = torch.rand(200, generator=torch.Generator().manual_seed(1))
    found = GaussianPosterior.from_samples(
        draws, LAYOUT, log_weights=weights.log(), ess=150.0
    )
    expected = np.cov(q.T.numpy(), aweights=weights.numpy())
    ratio = (150 - 1) / (150 - 5 - 2)
    torch.testing.assert_close(found.covariance, ratio * torch.as_tensor(expected))
    mean = (weights[:, None] * q).sum(0) / weights.sum()
    torch.testing.assert_close(found.loc, mean)


def as_tree(idata):
    """What ArviZ 1.x makes."""
    return xr.DataTree.from_dict({"posterior": get_group(idata, "posterior")})


def test_every_way_to_pass_draws_is_the_same():
    posterior = posterior_of()
    draws = draws_of(posterior, 400)
    found = GaussianPosterior.from_samples(draws, LAYOUT, num_chains=4)
    supports: dict[str, Any] = {n: s.transform for n, s in LAYOUT.sites.items()}
    supports["scale"] = constraints.positive
    target = Target.from_potential(lambda q: q["scale"].sum(), LAYOUT)
    result = PosteriorDraws(
        target, MemoryDraws(target, LAYOUT.unconstrain(draws).reshape(4, 100, -1))
    )
    others = [
        GaussianPosterior.from_samples(draws, supports, num_chains=4),
        GaussianPosterior.from_samples(
            {**draws, "more": torch.ones(1)}, target, num_chains=4
        ),
        GaussianPosterior.from_mcmc(result),
        GaussianPosterior.from_arviz(result.to_arviz(), supports),
        GaussianPosterior.from_arviz(as_tree(result.to_arviz()), LAYOUT),
    ]
    for other in others:
        torch.testing.assert_close(other.loc, found.loc)
        torch.testing.assert_close(other.covariance, found.covariance)


def test_weighted_results_count_their_weights():
    draws = draws_of(posterior_of(), 300)
    q = LAYOUT.unconstrain(draws).unsqueeze(1)
    logs = torch.randn(300, 1, generator=torch.Generator().manual_seed(2))
    target = Target.from_potential(lambda q: q["scale"].sum(), LAYOUT)
    result = PosteriorDraws(target, MemoryDraws(target, q), log_weights=logs)
    found = GaussianPosterior.from_mcmc(result)
    expected = GaussianPosterior.from_samples(draws, LAYOUT, log_weights=logs[:, 0])
    torch.testing.assert_close(found.covariance, expected.covariance)


def test_pyros_sampler_is_read():
    kernel = NUTS(lambda: model(torch.tensor([0.5])), max_tree_depth=2)
    mcmc = MCMC(kernel, num_samples=30, warmup_steps=5, disable_progbar=True)
    mcmc.run()
    found = GaussianPosterior.from_mcmc(mcmc, ess=30.0)
    expected = GaussianPosterior.from_samples(mcmc.get_samples(), LAYOUT, ess=30.0)
    torch.testing.assert_close(found.loc, expected.loc)
    torch.testing.assert_close(found.covariance, expected.covariance)
    assert list(found.layout.sites) == list(LAYOUT.sites)


def test_too_few_draws_are_refused_or_shrunk():
    draws = draws_of(posterior_of(), 6)
    with pytest.raises(SampleSizeError, match="more than 7"):
        GaussianPosterior.from_samples(draws, LAYOUT)
    for kind in ("ledoit_wolf", "oas"):
        found = GaussianPosterior.from_samples(draws, LAYOUT, shrinkage=kind)
        q = LAYOUT.unconstrain(draws)
        # shrinkage moves correlations towards zero, and leaves variances alone
        spread = (q - q.mean(0)).T @ (q - q.mean(0)) / 6
        torch.testing.assert_close(found.scale**2, spread.diagonal())
        assert found.covariance[0, 1].abs() < spread[0, 1].abs()


def test_autocorrelated_draws_count_less():
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(4, 300, 5, generator=generator)
    for k in range(1, 300):
        steps[:, k] = 0.9 * steps[:, k - 1] + 0.19**0.5 * steps[:, k]
    layout = Layout.from_supports({"x": (torch.Size([5]), constraints.real)})
    draws = {"x": steps.flatten(0, 1)}
    found = GaussianPosterior.from_samples(draws, layout, num_chains=4)
    many = GaussianPosterior.from_samples(draws, layout, ess=1200.0)
    # about 1200 * .1 / 1.9 = 63 draws: (63 - 7) / 62 = .90, against .995
    ratio = (found.precision.logdet() - many.precision.logdet()).div(5).exp()
    assert 0.7 < float(ratio) < 0.96


def test_bad_draws_are_named():
    draws = draws_of(posterior_of(), 50)
    bad = {**draws, "shift": draws["shift"].clone()}
    bad["shift"][7] = float("inf")
    with pytest.raises(NonFiniteParameterError, match=r"'shift'.*1 of 50"):
        GaussianPosterior.from_samples(bad, LAYOUT)
    with pytest.raises(LayoutMismatchError, match="'scale'"):
        GaussianPosterior.from_samples({"shift": bad["shift"]}, LAYOUT)
    with pytest.raises(LayoutMismatchError, match="'tau'"):
        GaussianPosterior.from_samples(draws, {"tau": constraints.real})
    with pytest.raises(ConfigurationError, match="num_chains"):
        GaussianPosterior.from_samples(draws, LAYOUT, num_chains=3)
    with pytest.raises(ConfigurationError, match="argument shrinkage"):
        GaussianPosterior.from_samples(draws, LAYOUT, shrinkage="none")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="argument shrinkage"):
        GaussianPosterior.from_samples(
            draws, LAYOUT, log_weights=torch.zeros(50), shrinkage="oas"
        )
    with pytest.raises(UnsupportedError, match="argument mcmc"):
        GaussianPosterior.from_mcmc(draws)


# -- priors ---------------------------------------------------------------------------


def hierarchy():
    mean = pyro.sample("mean", dist.Normal(1.0, 2.0))
    with pyro.plate("groups", 2):
        pyro.sample("value", dist.Normal(mean, 0.5))
    pyro.sample("rate", dist.LogNormal(-1.0, 0.3))


def test_normal_priors_are_exact_with_their_correlations():
    prior = GaussianPosterior.from_prior(hierarchy)
    assert list(prior.layout.sites) == ["mean", "rate", "value"]
    torch.testing.assert_close(prior.loc, torch.tensor([1.0, -1.0, 1.0, 1.0]))
    expected = torch.full((4, 4), 4.0)
    expected[1] = expected[:, 1] = 0
    expected += torch.diag(torch.tensor([0.0, 0.09, 0.25, 0.25]))
    torch.testing.assert_close(prior.covariance, expected)


def test_other_priors_are_matched_and_said_to_be():
    def gamma():
        pyro.sample("rate", dist.Gamma(4.0, 2.0))

    with pytest.warns(FallbackWarning, match="moments of a prior"):
        prior = GaussianPosterior.from_prior(gamma, num_draws=1000)
    # of the logarithm of a gamma variable: digamma(4) - log 2, trigamma(4)
    mean, variance = 1.25611766843 - math.log(2), 0.28382295573711
    assert float(prior.loc) == pytest.approx(mean, abs=5 * math.sqrt(variance / 1000))
    assert float(prior.covariance) == pytest.approx(variance, rel=0.25)
    assert "matched" in prior.notes[0]


def test_a_notebook_and_the_summary_name_entries_alike():
    support = {"w": (torch.Size([2, 2]), constraints.real)}
    layout = Layout.from_supports(support)
    posterior = GaussianPosterior(torch.zeros(4), Diagonal(torch.ones(4)), layout)
    html = posterior._repr_html_()
    assert all(f"<th>{name}</th>" in html for name in posterior.summary().index)
