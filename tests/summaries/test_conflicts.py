"""Pairs of posteriors that agree, and pairs that do not."""

import pytest
import torch
from scipy.stats import chi2, kstest
from torch.distributions import constraints

from pyro_geo.density import Layout
from pyro_geo.errors import ConfigurationError, LayoutMismatchError
from pyro_geo.geometry.matrices import Cholesky, Diagonal
from pyro_geo.summaries import GaussianPosterior, conflict

pytestmark = pytest.mark.usefixtures("double_precision")

LAYOUT = Layout.from_supports(
    {
        "a": (torch.Size([2]), constraints.real),
        "b": (torch.Size([]), constraints.positive),
    }
)


def precisions(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(count, 3, 3, generator=generator)
    return root @ root.mT + 0.3 * torch.eye(3)


def normal(loc: torch.Tensor, precision: torch.Tensor) -> GaussianPosterior:
    return GaussianPosterior(loc, Cholesky(torch.linalg.cholesky(precision)), LAYOUT)


def test_the_distance_is_mahalanobis_with_both_covariances():
    one, two = precisions(2)
    a, b = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, -1.0, 0.5])
    table = conflict({"north": normal(a, one), "south": normal(b, two)})
    variance = torch.linalg.inv(one) + torch.linalg.inv(two)
    expected = float((a - b) @ torch.linalg.solve(variance, a - b))
    row = table.iloc[0]
    assert row["statistic"] == pytest.approx(expected)
    assert row["p_value"] == pytest.approx(chi2.sf(expected, 3))
    assert (row["first"], row["second"], row["dof"]) == ("north", "south", 3)
    assert table.attrs["p_value"] == pytest.approx(row["p_value"])


def test_with_a_prior_the_variance_is_that_under_the_model():
    start, first, second = precisions(3)
    one, two = start + first, start + second
    s_one, s_two = torch.linalg.inv(one), torch.linalg.inv(two)
    # means are Sigma_k (Lambda_0 mu_0 + L_k (theta + noise_k)), noise of variance 1/L_k
    spread = s_one @ first - s_two @ second
    variance = (
        spread @ torch.linalg.inv(start) @ spread.T
        + s_one @ first @ s_one
        + s_two @ second @ s_two
    )
    apart = torch.tensor([0.3, -0.4, 0.9])
    expected = float(apart @ torch.linalg.solve(variance, apart))
    prior = normal(torch.zeros(3), start)
    fits = [normal(apart, one), normal(torch.zeros(3), two)]
    assert conflict(fits, prior=prior)["statistic"].item() == pytest.approx(expected)
    # the prior draws both together, so the plain distance is too small
    assert conflict(fits)["statistic"].item() < expected


def test_tails_are_uniform_where_posteriors_agree():
    start, first, second = precisions(3, seed=1)
    generator = torch.Generator().manual_seed(0)
    prior = normal(torch.zeros(3), start)
    tails, naive = [], []
    for _ in range(200):
        theta = prior.precision.sample_inverse(torch.randn(3, generator=generator))
        fits = []
        for own in (first, second):
            noise = torch.randn(3, generator=generator)
            seen = theta + normal(torch.zeros(3), own).precision.sample_inverse(noise)
            total = start + own
            fits.append(normal(torch.linalg.solve(total, own @ seen), total))
        tails.append(conflict(fits, prior=prior)["p_value"].item())
        naive.append(conflict(fits)["p_value"].item())
    assert kstest(tails, "uniform").pvalue > 1e-3
    assert kstest(naive, "uniform").pvalue < 1e-3


def test_diagonals_agree_with_matrices():
    scale = torch.tensor([1.0, 2.0, 0.5])
    prior = GaussianPosterior(torch.zeros(3), Diagonal(0.2 * scale), LAYOUT)
    fits = [
        GaussianPosterior(torch.full((3,), m), Diagonal(scale), LAYOUT)
        for m in (0.0, 1.0)
    ]
    dense = [normal(p.loc, p.precision.dense()) for p in fits]
    start = normal(prior.loc, prior.precision.dense())
    for ours, theirs in ((None, None), (prior, start)):
        one, two = conflict(fits, prior=ours), conflict(dense, prior=theirs)
        assert one["statistic"].item() == pytest.approx(two["statistic"].item())


def test_the_site_that_disagrees_is_named():
    one = normal(torch.zeros(3), 4 * torch.eye(3))
    two = normal(torch.tensor([0.1, 0.0, 9.0]), 4 * torch.eye(3))
    row = conflict([one, two]).iloc[0]
    assert row["site"] == "b"
    assert row["site_p_value"] < 1e-6


def test_directions_without_evidence_do_not_count():
    start = torch.eye(3)
    # the second coordinate is as in the prior
    own = torch.diag(torch.tensor([4.0, 1.0, 4.0]))
    fits = [normal(torch.tensor([1.0, 0.0, 1.0]), own), normal(torch.zeros(3), own)]
    row = conflict(fits, prior=normal(torch.zeros(3), start)).iloc[0]
    assert row["dof"] == 2
    # variance 1/4 + 1/4 - 2/16 = 3/8
    assert row["statistic"] == pytest.approx(2 / 0.375)


def test_units_do_not_matter():
    one, two = precisions(2, seed=2)
    apart = torch.tensor([1.0, -1.0, 0.5])
    unit = torch.tensor([1e-9, 1.0, 1e9])
    fits = [normal(apart, one), normal(torch.zeros(3), two)]
    scaled = [
        normal(p.loc * unit, p.precision.dense() / unit / unit[:, None]) for p in fits
    ]
    plain, other = conflict(fits), conflict(scaled)
    assert other["statistic"].item() == pytest.approx(plain["statistic"].item())
    assert other["dof"].item() == 3


# -- components -----------------------------------------------------------------------

MIXTURE = Layout.from_supports(
    {
        "means": (torch.Size([3]), constraints.real),
        "scales": (torch.Size([3]), constraints.positive),
        "shares": (torch.Size([3]), constraints.simplex),
    },
    {"means": ("component",), "scales": ("component",)},
)


def mixture(means: list[float], scales: list[float], shares: list[float]):
    loc = torch.tensor([*means, *scales, *shares])
    return GaussianPosterior(loc, Diagonal(torch.full((8,), 5.0)), MIXTURE)


def test_components_in_another_order_are_found():
    one = mixture([-5.0, 0.0, 5.0], [0.1, 0.2, 0.9], [1.0, 0.0])
    two = mixture([0.1, 5.1, -5.0], [0.25, 0.8, 0.1], [0.0, -1.0])
    row = conflict([one, two]).iloc[0]
    assert row["p_value"] < 1e-6
    assert row["permutation"] == "component: (2, 0, 1)"


def test_a_conflict_that_no_order_resolves_has_no_hint():
    one = mixture([-5.0, 0.0, 5.0], [0.1, 0.2, 0.9], [0.0, 0.0])
    two = mixture([9.0, 20.0, -9.0], [0.1, 0.2, 0.9], [0.0, 0.0])
    assert conflict([one, two]).iloc[0]["permutation"] == ""
    assert conflict([one, one]).iloc[0]["permutation"] == ""


def test_mistakes_are_named():
    one = normal(torch.zeros(3), torch.eye(3))
    with pytest.raises(ConfigurationError, match="argument posteriors"):
        conflict([one])
    other = mixture([0.0] * 3, [0.0] * 3, [0.0] * 2)
    with pytest.raises(LayoutMismatchError, match="posterior south"):
        conflict({"north": one, "south": other})
