"""Values of sites from given noise have the law of the site."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_geo.errors import UnsupportedError
from pyro_geo.planning.mpc.site_noise import noise_shape, value_of

COUNT = 20_000
ALARM = 1e-4  # each of the tests below fails by chance so often


def draws(fn, seed=0):
    shape = noise_shape(fn, "x")
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(shape[0], COUNT, *shape[1:], generator=g, dtype=torch.float64)
    return value_of(fn.expand((COUNT, *fn.batch_shape)), z)


def t64(x):
    return torch.tensor(x, dtype=torch.float64)


CONTINUOUS = {
    "normal": (dist.Normal(t64(1.0), t64(2.0)), stats.norm(1, 2)),
    "log-normal": (
        dist.LogNormal(t64(0.2), t64(0.5)),
        stats.lognorm(0.5, scale=np.exp(0.2)),
    ),
    "uniform": (dist.Uniform(t64(-1.0), t64(3.0)), stats.uniform(-1, 4)),
    "exponential": (dist.Exponential(t64(2.0)), stats.expon(scale=0.5)),
    "Cauchy": (dist.Cauchy(t64(0.0), t64(1.0)), stats.cauchy()),
    "Student": (dist.StudentT(t64(3.0), t64(0.5), t64(2.0)), stats.t(3, 0.5, 2)),
    "gamma": (dist.Gamma(t64(2.5), t64(2.0)), stats.gamma(2.5, scale=0.5)),
    "small gamma": (dist.Gamma(t64(0.3), t64(1.0)), stats.gamma(0.3)),
    "beta": (dist.Beta(t64(2.0), t64(0.7)), stats.beta(2.0, 0.7)),
    "inverse gamma": (
        dist.InverseGamma(t64(3.0), t64(2.0)),
        stats.invgamma(3, scale=2),
    ),
}


@pytest.mark.parametrize("name", list(CONTINUOUS))
def test_continuous_sites_have_their_law(name):
    fn, law = CONTINUOUS[name]
    assert stats.kstest(draws(fn).numpy(), law.cdf).pvalue > ALARM


@pytest.mark.parametrize(
    "fn",
    [
        dist.Bernoulli(t64(0.3)),
        dist.Categorical(t64([0.2, 0.5, 0.3])),
        dist.Binomial(4, t64(0.6)),
    ],
    ids=["coin", "category", "binomial"],
)
def test_finite_sites_have_their_chances(fn):
    found = draws(fn).long()
    values = fn.enumerate_support(expand=False).flatten()
    seen = torch.bincount(found, minlength=len(values)).numpy()
    chance = fn.log_prob(values).exp().numpy()
    assert stats.chisquare(seen, COUNT * chance).pvalue > ALARM


def test_vectors_have_their_covariance():
    root = t64([[1.0, 0.0], [0.8, 0.5]])
    x = draws(dist.MultivariateNormal(torch.zeros(2).double(), scale_tril=root))
    white = torch.linalg.solve_triangular(root, x.mT, upper=False)
    for row in white:
        assert stats.kstest(row.numpy(), "norm").pvalue > ALARM
    assert abs(float((white[0] * white[1]).mean())) < 4 / COUNT**0.5
    share = draws(dist.Dirichlet(t64([0.5, 1.5, 3.0])))
    torch.testing.assert_close(share.sum(-1), torch.ones(COUNT).double())
    assert stats.kstest(share[:, 0].numpy(), stats.beta(0.5, 4.5).cdf).pvalue > ALARM
    one_hot = draws(dist.OneHotCategorical(t64([0.25, 0.75])))
    assert abs(float(one_hot[:, 0].mean()) - 0.25) < 4 * 0.433 / COUNT**0.5


def test_events_masks_and_expansions_are_seen_through():
    plain = dist.Normal(torch.zeros(3).double(), 2.0)
    noise = torch.randn(1, 3, dtype=torch.float64)
    for fn in (plain.to_event(1), plain.mask(False), plain.to_event(1).mask(True)):
        torch.testing.assert_close(value_of(fn, noise), 2 * noise[0])
    assert noise_shape(dist.Delta(torch.zeros(2)), "x") == (0, 2)


def test_a_site_without_such_a_function_is_named():
    with pytest.raises(UnsupportedError, match="site 'hits'.*Poisson"):
        noise_shape(dist.Poisson(torch.tensor(2.0)), "hits")
