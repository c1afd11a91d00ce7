"""Data drawn from a model: its law, its randomness, other arguments, what is refused.

A test of a law raises a false alarm once in a hundred thousand runs.
"""

import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from pyro.nn import PyroModule, PyroSample
from pyro.util import get_rng_state
from scipy import stats as laws
from torch.distributions import constraints

from pyro_geo.density import Target
from pyro_geo.errors import FallbackWarning, ShapeError, UnsupportedError
from pyro_geo.ops import chunks
from pyro_geo.results.lane_randomness import LaneRandomness

FALSE_ALARM = 1e-5
FOUR_PARTS = r"^[^:]+ \(.*\): found .*, expected .*\. [A-Z].*\.$"
N = 4000


def regression(x, y=None, scale=0.1):
    prior: Any = dist.Normal(0.0, 1.0).expand([2])
    w = pyro.sample("w", prior.to_event(1))
    with pyro.plate("rows", len(x)):
        mean = pyro.deterministic("mean", x @ w)
        return pyro.sample("y", dist.Normal(mean, scale), obs=y)


X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
Y = torch.tensor([0.5, -0.5, 0.0])


def draws_of_one(distribution, result, chains=2):
    """Replicates of `distribution(a)`, with a = 0.4 in every draw."""

    def model(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", distribution(a), obs=y)

    example = distribution(torch.tensor(0.4, dtype=torch.float64)).sample()
    fit = result(model, example, q=np.full((chains, N // chains, 1), 0.4))
    return fit, fit.posterior_predictive()["y"]


# Everything that is drawn in another way under vmap, and some of the rest.
LAWS = {
    "uniform": (lambda a: dist.Uniform(a, a + 2), laws.uniform(0.4, 2)),
    "exponential": (lambda a: dist.Exponential(a + 1), laws.expon(0, 1 / 1.4)),
    "cauchy": (lambda a: dist.Cauchy(a, 2.0), laws.cauchy(0.4, 2.0)),
    "laplace": (lambda a: dist.Laplace(a, 2.0), laws.laplace(0.4, 2.0)),
    "half-cauchy": (lambda a: dist.HalfCauchy(a), laws.halfcauchy(0, 0.4)),
    "student": (lambda a: dist.StudentT(4.0, a, 2.0), laws.t(4, 0.4, 2.0)),
    "gamma": (lambda a: dist.Gamma(a + 1, 2.0), laws.gamma(1.4, 0, 0.5)),
    "beta": (lambda a: dist.Beta(a, 1.0), laws.beta(0.4, 1.0)),
    "weibull": (lambda a: dist.Weibull(2.0, a + 1), laws.weibull_min(1.4, 0, 2.0)),
    "log-normal": (lambda a: dist.LogNormal(a, 1.0), laws.lognorm(1, 0, np.exp(0.4))),
    "masked": (
        lambda a: dist.Normal(a, 1.0).mask(torch.tensor(True)),
        laws.norm(0.4, 1),
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_continuous_data_follow_their_law(result, name):
    distribution, law = LAWS[name]
    _, drawn = draws_of_one(distribution, result)
    assert drawn.shape == (2, N // 2)
    assert drawn.dtype == torch.float64
    assert len(drawn.flatten().unique()) == N  # no two lanes share their randomness
    assert laws.kstest(drawn.flatten().numpy(), law.cdf).pvalue > FALSE_ALARM


COUNTS = {
    "bernoulli": (lambda a: dist.Bernoulli(a), laws.bernoulli(0.4)),
    "poisson": (lambda a: dist.Poisson(a), laws.poisson(0.4)),
    "binomial": (lambda a: dist.Binomial(3, a), laws.binom(3, 0.4)),
    "geometric": (lambda a: dist.Geometric(a), laws.geom(0.4, -1)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_follow_their_law(result, name):
    distribution, law = COUNTS[name]
    _, drawn = draws_of_one(distribution, result)
    values = drawn.flatten().numpy().astype(int)
    # the last cell takes the tail; every cell expects more than five
    last = max(k for k in range(9) if N * law.sf(k - 1) > 5)
    found = np.bincount(np.minimum(values, last), minlength=last + 1)
    expected = N * np.append(law.pmf(np.arange(last)), law.sf(last - 1))
    assert laws.chisquare(found, expected).pvalue > FALSE_ALARM


def test_vectors_follow_their_law(result):
    tril = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    zeros = torch.zeros(2, dtype=torch.float64)
    _, drawn = draws_of_one(
        lambda a: dist.MultivariateNormal(a + zeros, scale_tril=tril), result
    )
    white = torch.linalg.solve_triangular(
        tril, drawn.flatten(0, 1).mT - 0.4, upper=False
    )
    assert laws.kstest(white.flatten().numpy(), "norm").pvalue > FALSE_ALARM
    _, shares = draws_of_one(
        lambda a: dist.Dirichlet(torch.stack([a, a + 0 * a, 2 * a])), result
    )
    torch.testing.assert_close(
        shares.sum(-1), torch.ones(2, N // 2, dtype=torch.float64)
    )
    first = shares[..., 2].flatten().numpy()
    assert laws.kstest(first, laws.beta(0.8, 0.8).cdf).pvalue > FALSE_ALARM


def test_what_fills_in_place_has_the_same_law_and_never_the_upper_end():
    fresh = torch.zeros(N)
    with LaneRandomness():
        drawn = {
            laws.uniform(-1, 3): torch.empty_like(fresh).uniform_(-1.0, 2.0),
            laws.norm(1, 2): torch.empty_like(fresh).normal_(1.0, 2.0),
            laws.expon(0, 0.5): torch.empty_like(fresh).exponential_(2.0),
            laws.cauchy(1, 2): torch.empty_like(fresh).cauchy_(1.0, 2.0),
        }
        narrow = torch.zeros(N).uniform_(1 - 2**-23, 1.0)
        fresh.normal_()
        kept = torch.empty(5).uniform_(generator=torch.Generator().manual_seed(3))
    for law, values in drawn.items():
        assert laws.kstest(values.numpy(), law.cdf).pvalue > FALSE_ALARM
    assert narrow.max() < 1
    assert fresh.isnan().all()  # nobody can mistake it for random numbers
    again = torch.empty(5).uniform_(generator=torch.Generator().manual_seed(3))
    assert kept.equal(again)


def test_latent_sites_stay_and_data_are_drawn_about_them(result):
    q = np.random.default_rng(0).normal(size=(3, 400, 2))
    fit = result(regression, X, Y, q=q)
    sites = fit.posterior_predictive()
    assert set(sites) == {"mean", "y"}
    mean = torch.as_tensor(q) @ X.double().mT
    torch.testing.assert_close(sites["mean"], mean)
    white = (sites["y"] - mean) / 0.1
    assert laws.kstest(white.flatten().numpy(), "norm").pvalue > FALSE_ALARM
    # rows, draws and chains are independent
    correlation = np.corrcoef(white.flatten(0, 1).T.numpy())
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < laws.norm.isf(
        FALSE_ALARM / 6
    ) / np.sqrt(1200)


def test_the_global_random_state_is_left_alone_and_the_seed_is_all(result):
    fit = result(regression, X, Y, q=np.zeros((2, 50, 2)))
    before = get_rng_state()
    one = fit.posterior_predictive(seed=3)["y"]
    after = get_rng_state()
    assert before["torch"].equal(after["torch"])
    assert before["random"] == after["random"]
    assert (before["numpy"][1] == after["numpy"][1]).all()
    torch.manual_seed(99)
    assert one.equal(fit.posterior_predictive(seed=3)["y"])
    assert not one.equal(fit.posterior_predictive(seed=4)["y"])
    assert not one.equal(fit.posterior_predictive(seed=2**62 + 3)["y"])
    default = fit.posterior_predictive()["y"]
    assert default.equal(fit.posterior_predictive(seed=fit.run_seed)["y"])


def test_other_arguments_are_taken(result):
    q = np.random.default_rng(1).normal(size=(2, 30, 2))
    fit = result(regression, X, Y, q=q, scale=1e-9)
    new = torch.tensor([[2.0, 3.0], [1.0, -1.0], [0.0, 4.0], [9.0, 9.0]])
    sites = fit.posterior_predictive(new, scale=1e-9)
    expected = torch.as_tensor(q) @ new.double().mT
    torch.testing.assert_close(sites["y"], expected, rtol=0, atol=1e-7)
    fit = result(regression, X, Y, q=q)
    same = fit.posterior_predictive()
    for arguments in ((X, Y), (X, None), (X.double(),)):
        assert fit.posterior_predictive(*arguments)["y"].equal(same["y"])


def test_pyro_draws_from_the_same_law(result):
    q = np.random.default_rng(2).normal(size=(1, 2000, 2))
    fit = result(regression, X, Y, q=q)
    theirs = Predictive(regression, {"w": torch.as_tensor(q[0]).float()})(X)
    ours = fit.posterior_predictive()
    assert set(theirs) == set(ours)
    for row in range(3):
        pair = theirs["y"][:, row].numpy(), ours["y"][0, :, row].numpy()
        both: Any = laws.ks_2samp(*pair)
        assert both.pvalue > FALSE_ALARM


def test_one_distribution_for_many_data_is_drawn_for_each(result):
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        pyro.sample("z", dist.Normal(mean + torch.zeros(3), 1.0).to_event(1), obs=y)

    fit = result(model, torch.zeros(3), q=np.zeros((2, 10, 1)))
    sites = fit.posterior_predictive()
    assert sites["y"].shape == sites["z"].shape == (2, 10, 3)
    assert len(sites["y"].unique()) == 60


def test_later_data_follow_the_drawn_ones(result):
    """An observed value that the model goes on with is the drawn one."""

    def walk(steps):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        level = pyro.sample("y_0", dist.Normal(100.0, 0.1), obs=steps[0])
        pyro.sample("y_1", dist.Normal(level + a, 0.1), obs=steps[1])

    fit = result(walk, torch.zeros(2), q=np.zeros((1, 20, 1)))
    assert (fit.posterior_predictive()["y_1"] > 90).all()


def test_factors_have_no_data(result):
    def model(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.factor("f", -(a**2))
        with pyro.plate("rows", 2):
            pyro.factor("g", -(a**2) * torch.ones(2))
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    fit = result(model, torch.zeros(()), q=np.zeros((1, 5, 1)))
    assert set(fit.posterior_predictive()) == {"y"}
    idata = fit.to_arviz(prior=5, posterior_predictive=True)
    assert set(idata["posterior_predictive"].data_vars) == {"y"}
    assert set(idata["prior"].data_vars) == {"a"}


def mixture(y):
    share = pyro.sample("share", dist.Beta(1.0, 1.0))
    with pyro.plate("rows", len(y)):
        kind = pyro.sample(
            "kind",
            dist.Categorical(torch.stack([share, 1 - share])),
            infer={"enumerate": "parallel"},
        )
        pyro.sample("y", dist.Normal(8.0 * kind, 1.0), obs=y)


def test_discrete_sites_that_were_summed_out_are_drawn_too(result):
    # data so far apart that each tells its kind
    fit = result(mixture, torch.tensor([0.0, 8.0]), q=np.full((1, 2000, 1), 1.0))
    sites = fit.posterior_predictive()
    assert set(sites) == {"kind", "y"}
    residual = (sites["y"] - 8.0 * sites["kind"]).flatten().numpy()
    assert laws.kstest(residual, "norm").pvalue > FALSE_ALARM
    idata = fit.to_arviz(prior=6, posterior_predictive=True)
    for name, site, shape in (
        ("posterior", "share", (1, 2000)),
        ("log_likelihood", "y", (1, 2000, 2)),
        ("posterior_predictive", "y", (1, 2000, 2)),
        ("prior", "share", (1, 6)),
        ("prior_predictive", "y", (1, 6, 2)),
    ):
        assert {k: v.shape for k, v in idata[name].data_vars.items()} == {site: shape}


class Network(PyroModule):
    def __init__(self):
        super().__init__()
        linear: Any = PyroModule[torch.nn.Linear]
        self.layer = linear(2, 1)
        prior: Any = dist.Normal(0.0, 1.0).expand([1, 2])
        self.layer.weight = PyroSample(prior.to_event(2))

    def forward(self, x, y=None):
        mean = self.layer(x).squeeze(-1)
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(mean, 1e-6), obs=y)


def test_modules_are_models_too(result):
    torch.set_default_dtype(torch.float64)
    network = Network()
    fit = result(network, X.double(), Y.double(), q=np.ones((1, 4, 2)))
    drawn = fit.posterior_predictive(2 * X.double(), None)["y"]
    expected = 2 * X.double().sum(-1) + network.layer.bias.detach()
    torch.testing.assert_close(drawn, expected.expand(1, 4, 3), rtol=0, atol=1e-4)


class Stubborn(dist.Normal):
    """A sampler that vmap has no rule for."""

    def sample(self, sample_shape=()):
        value = super().sample(sample_shape)
        return value if bool((value < 1e9).all()) else -value


class Careless(dist.Normal):
    """A sampler that does not use what a call in place returns."""

    def sample(self, sample_shape=()):
        x = torch.empty(self.batch_shape, dtype=self.loc.dtype)
        x.normal_()
        return self.loc + self.scale * x


class Elsewhere(dist.Normal):
    """A sampler with randomness that vmap does not see."""

    def sample(self, sample_shape=()):
        return torch.as_tensor(np.random.normal(size=tuple(self.batch_shape)))  # noqa: NPY002


@pytest.mark.parametrize("kind", [Stubborn, Careless, Elsewhere])
def test_what_cannot_be_mapped_goes_one_at_a_time_and_says_so(result, kind):
    def model(y):
        pyro.sample("a", dist.Normal(0.0, 1.0))
        zeros = torch.zeros(3, dtype=torch.float64)
        pyro.sample("y", kind(zeros, 1.0).to_event(1), obs=y)

    fit = result(model, torch.zeros(3), q=np.zeros((2, 200, 1)))
    with pytest.warns(FallbackWarning, match="one at a time") as said:
        drawn = fit.posterior_predictive()["y"]
    assert len(said) == 1
    assert sum("one at a time" in note for note in fit.notes) == 1
    assert drawn.shape == (2, 200, 3)
    assert len(drawn.unique()) == 1200
    assert laws.kstest(drawn.flatten().numpy(), "norm").pvalue > FALSE_ALARM
    with pytest.warns(FallbackWarning):
        assert drawn.equal(fit.posterior_predictive()["y"])


def test_a_target_that_goes_one_at_a_time_does_so_without_another_word(result):
    target = Target.from_model(regression, X, Y, dtype=torch.float64)
    fit = result(target.with_rung("sequential"), q=np.zeros((2, 20, 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit.posterior_predictive()["y"].shape == (2, 20, 3)


def test_a_single_draw_is_enough(result):
    fit = result(regression, X, Y, q=np.zeros((1, 1, 2)))
    assert fit.posterior_predictive()["y"].shape == (1, 1, 3)
    assert fit.to_arviz(prior=1)["prior_predictive"]["y"].shape == (1, 1, 3)


def test_chunks_change_nothing_but_memory(result, monkeypatch):
    q = np.random.default_rng(4).normal(size=(3, 50, 2))
    fit = result(regression, X, Y, q=q)
    whole = fit.to_arviz()
    sizes = []
    kept = Target.stepwise_log_likelihood

    def counting(self, q):
        sizes.append(len(q))
        return kept(self, q)

    monkeypatch.setattr(chunks, "_NUMBERS", 30)
    monkeypatch.setattr(Target, "stepwise_log_likelihood", counting)
    parts = fit.to_arviz()
    assert max(sizes) <= 10  # the largest tensor of a draw has three numbers
    assert sum(sizes[1:]) == 150
    found, expected = (i["log_likelihood"]["y"].values for i in (parts, whole))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    drawn = fit.posterior_predictive()["y"] / 0.1
    assert len(drawn.unique()) == 450


def test_large_intermediate_results_make_small_chunks(result):
    """What counts is what an evaluation makes, not what it returns."""

    def process(x, y):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        kernel = (-((x[:, None] - x) ** 2) / scale).exp() + 1e-3 * torch.eye(len(x))
        pyro.sample("y", dist.MultivariateNormal(0 * x, kernel), obs=y)

    x = torch.linspace(0, 1, 300)
    target = result(process, x, x, q=np.zeros((1, 1, 1))).target
    q = torch.zeros(1, 1, dtype=torch.float64)
    size = chunks.rows_that_fit(lambda: target.pointwise_log_likelihood(q))
    assert size <= (1 << 21) / 300**2
    size = chunks.rows_that_fit(lambda: {"x": q.expand(10**9, 1)})
    assert size == chunks._MOST_ROWS  # a view holds nothing


def hierarchy(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.deterministic("twice", 2 * theta)
        pyro.sample("y", dist.Normal(theta, 3.0), obs=y)


def test_prior_draws_follow_the_prior(result):
    fit = result(hierarchy, torch.zeros(4), q=np.zeros((2, 3, 6)))
    before = get_rng_state()["torch"]
    idata = fit.to_arviz(prior=N)
    assert before.equal(get_rng_state()["torch"])
    prior, predictive = idata["prior"], idata["prior_predictive"]
    assert set(prior.data_vars) == {"mu", "tau", "theta", "twice"}
    assert set(predictive.data_vars) == {"y"}
    mu, tau, theta, y = (
        d[n].values[0]
        for d, n in ((prior, "mu"), (prior, "tau"), (prior, "theta"), (predictive, "y"))
    )
    assert y.shape == theta.shape == (N, 4)
    np.testing.assert_array_equal(prior["twice"].values[0], 2 * theta)
    for values, law in (
        (mu, laws.norm(0, 5)),
        (tau, laws.halfcauchy(0, 5)),
        (((theta - mu[:, None]) / tau[:, None]).ravel(), laws.norm()),
        (((y - theta) / 3).ravel(), laws.norm()),
    ):
        assert laws.kstest(values, law.cdf).pvalue > FALSE_ALARM
    again = fit.to_arviz(prior=N)["prior"]["mu"].values
    np.testing.assert_array_equal(again[0], mu)
    other = fit.to_arviz(prior=N, seed=5)["prior"]["mu"].values
    assert not (other == mu).any()


def test_improper_priors_cannot_be_drawn_but_their_data_can(result):
    def model(y):
        flat = dist.ImproperUniform(constraints.real, (), ())
        a = pyro.sample("a", flat)
        pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    fit = result(model, torch.zeros(()), q=np.zeros((1, 4, 1)))
    assert fit.posterior_predictive()["y"].shape == (1, 4)
    with pytest.raises(UnsupportedError, match=FOUR_PARTS) as caught:
        fit.to_arviz(prior=3)
    assert "site 'a'" in str(caught.value)


def test_without_a_model_there_is_nothing_to_draw(result):
    fit = result(
        Target.from_potential(lambda q: q.square().sum(), 2), q=np.zeros((1, 4, 2))
    )
    for call in (
        fit.posterior_predictive,
        lambda: fit.to_arviz(prior=2),
        lambda: fit.to_arviz(posterior_predictive=True),
    ):
        with pytest.raises(UnsupportedError, match=FOUR_PARTS):
            call()


def test_without_data_there_is_nothing_to_replicate(result):
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.factor("f", -(a**2))

    fit = result(model, q=np.zeros((1, 4, 1)))
    with pytest.raises(UnsupportedError, match=FOUR_PARTS):
        fit.to_arviz(posterior_predictive=True)
    assert "prior_predictive" not in fit.to_arviz(prior=3)


def test_a_latent_of_the_old_data_cannot_serve_new_ones(result):
    fit = result(hierarchy, torch.zeros(4), q=np.zeros((2, 3, 6)))
    with pytest.raises(ShapeError, match=FOUR_PARTS) as caught:
        fit.posterior_predictive(torch.zeros(5))
    assert "site 'theta'" in str(caught.value)


def test_errors_of_the_model_come_through(result):
    fit = result(regression, X, Y, q=np.zeros((1, 3, 2)))
    with pytest.raises(RuntimeError, match="size"):
        fit.posterior_predictive(torch.ones(3, 5), None)
    with pytest.raises(TypeError, match="unexpected keyword"):
        fit.posterior_predictive(X, Y, sale=1.0)
