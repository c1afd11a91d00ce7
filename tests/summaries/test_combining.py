"""Combination of posteriors: closed forms, orders of matrices, refusals, a twin."""

import itertools

import pytest
import torch
from torch.distributions import constraints

from pyro_geo import citation
from pyro_geo.density import Layout
from pyro_geo.errors import (
    ConfigurationError,
    LayoutMismatchError,
    NotPositiveDefiniteError,
    SampleSizeError,
    ShapeError,
)
from pyro_geo.geometry.matrices import Cholesky, Diagonal
from pyro_geo.infer import HMC
from pyro_geo.summaries import GaussianPosterior, combine, conflict, consensus
from pyro_geo.testing.merging import conjugate_shards, prior_counted_each_time

LAYOUT = Layout.from_supports(
    {
        "a": (torch.Size([2]), constraints.real),
        "b": (torch.Size([]), constraints.positive),
    }
)
CITED = {"product": "scott2016", "barycenter": "alvarez2016"}
SPLITS = [(20,), (10, 10), (1, 19), (5, 5, 5, 5), (2,) * 10, (0, 20), (7, 1, 12)]


def random_posterior(seed: int, layout: Layout = LAYOUT) -> GaussianPosterior:
    generator = torch.Generator().manual_seed(seed)
    dim = layout.dim
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + 0.2 * torch.eye(dim, dtype=torch.float64)
    loc = torch.randn(dim, generator=generator, dtype=torch.float64)
    return GaussianPosterior(loc, Cholesky(torch.linalg.cholesky(matrix)), layout)


def diagonal_posterior(seed: int, layout: Layout = LAYOUT) -> GaussianPosterior:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(2, layout.dim, generator=generator, dtype=torch.float64)
    return GaussianPosterior(numbers[0], Diagonal(0.5 + numbers[1]), layout)


def assert_same(
    one: GaussianPosterior, two: GaussianPosterior, atol: float = 1e-10
) -> None:
    two = two.aligned(one.layout)
    torch.testing.assert_close(one.loc, two.loc, rtol=atol, atol=atol)
    torch.testing.assert_close(
        one.precision.dense(), two.precision.dense(), rtol=atol, atol=atol
    )


# -- products -------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
@pytest.mark.parametrize("on_indefinite", ["raise", "clip"])
def test_a_product_of_shards_is_the_pooled_posterior(sizes, on_indefinite):
    prior, parts, pooled = conjugate_shards(sizes)
    found = combine(parts, how="product", prior=prior, on_indefinite=on_indefinite)
    assert_same(found, pooled)


@pytest.mark.parametrize("sizes", [s for s in SPLITS if len(s) > 1], ids=str)
def test_a_prior_that_is_counted_each_time_is_found_out(sizes):
    prior, parts, pooled = conjugate_shards(sizes)
    wrong = prior_counted_each_time(parts, prior)
    with pytest.raises(AssertionError):
        assert_same(wrong, pooled)
    assert bool((wrong.scale < pooled.scale).all())


def test_fractions_of_the_prior_need_no_division():
    prior, parts, pooled = conjugate_shards((8, 12))
    # the same posteriors with half of the prior each
    halves = [
        combine([p, prior], how="product", weights=[1.0, 1.0], prior=_half(prior))
        for p in parts
    ]
    for p, half in zip(parts, halves, strict=True):
        assert half.precision.logdet() > p.precision.logdet()
    # Lambda_k + Lambda_0 - Lambda_0 / 2: taking Lambda_0 off leaves half of it
    fractions = [
        combine([half], how="product", weights=[1.0]).aligned(prior.layout)
        for half in halves
    ]
    found = combine(fractions, how="product", prior=_scaled(prior, 2.0))
    assert_same(found, pooled, 1e-9)


def _half(prior: GaussianPosterior) -> GaussianPosterior:
    return _scaled(prior, 0.5)


def _scaled(prior: GaussianPosterior, share: float) -> GaussianPosterior:
    root = torch.linalg.cholesky(share * prior.precision.dense())
    return GaussianPosterior(prior.loc, Cholesky(root), prior.layout)


def test_products_are_associative():
    prior, parts, pooled = conjugate_shards((4, 6, 3, 7))
    first = combine(parts[:2], how="product", prior=prior)
    second = combine(parts[2:], how="product", prior=prior)
    assert_same(combine([first, second], how="product", prior=prior), pooled)
    for order in itertools.permutations(parts):
        together = order[0]
        for one in order[1:]:
            together = combine([together, one], how="product", prior=prior)
        assert_same(together, pooled)


def test_weights_of_a_product_are_powers():
    prior, (one,), _ = conjugate_shards((9,))
    twice = combine([one], how="product", prior=prior, weights=[2.0])
    assert_same(twice, combine([one, one], how="product", prior=prior))


def test_diagonals_stay_diagonal_and_agree_with_matrices():
    parts = [diagonal_posterior(k) for k in range(3)]
    prior = GaussianPosterior(
        torch.zeros(3), Diagonal(torch.full((3,), 0.3)), parts[0].layout
    )
    dense = [
        GaussianPosterior(p.loc, Cholesky(p.precision.dense().sqrt()), p.layout)
        for p in parts
    ]
    start = GaussianPosterior(
        prior.loc, Cholesky(prior.precision.dense().sqrt()), prior.layout
    )
    for how in ("product", "barycenter", "median"):
        found = combine(parts, how=how, prior=prior if how == "product" else None)
        assert isinstance(found.precision, Diagonal)
        expected = combine(dense, how=how, prior=start if how == "product" else None)
        assert_same(found, expected, 1e-8)
    clipped = combine(parts, how="product", prior=prior, on_indefinite="clip")
    assert_same(clipped, combine(parts, how="product", prior=prior))


def test_the_order_of_sites_does_not_matter():
    reversed_layout = Layout.from_supports(
        {
            "b": (torch.Size([]), constraints.positive),
            "a": (torch.Size([2]), constraints.real),
        }
    )
    parts = [random_posterior(k) for k in range(3)]
    moved = [parts[0], parts[1].aligned(reversed_layout), parts[2]]
    assert list(moved[1].layout.sites) == ["b", "a"]
    for how in ("product", "barycenter", "mixture", "median"):
        assert_same(combine(moved, how=how), combine(parts, how=how), 1e-9)


# -- indefinite products --------------------------------------------------------------


def wide_and_prior() -> tuple[GaussianPosterior, GaussianPosterior]:
    """A posterior that is wider than its prior in one direction."""
    prior = random_posterior(3)
    root = torch.linalg.cholesky(prior.precision.dense())
    change = torch.diag(torch.tensor([3.0, 2.0, 0.2], dtype=torch.float64))
    matrix = root @ change @ root.T
    posterior = GaussianPosterior(
        prior.loc + 1, Cholesky(torch.linalg.cholesky(matrix)), prior.layout
    )
    return posterior, prior


def test_an_indefinite_product_is_refused():
    wide, prior = wide_and_prior()
    with pytest.raises(NotPositiveDefiniteError, match="smallest eigenvalue -"):
        combine([wide, wide, wide], how="product", prior=prior)


def test_clipping_keeps_the_prior_where_evidence_is_negative():
    wide, prior = wide_and_prior()
    found = combine([wide] * 3, how="product", prior=prior, on_indefinite="clip")
    root = torch.linalg.cholesky(prior.precision.dense())
    inverse = torch.linalg.inv(root)
    whitened = inverse @ found.precision.dense() @ inverse.T
    # eigenvalues 3, 2 and .2 of the prior: evidence 2, 1 and none, three times
    expected = torch.tensor([1.0, 4.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.eigvalsh(whitened), expected)


def test_a_diagonal_product_is_clipped_entry_by_entry():
    prior = GaussianPosterior(torch.zeros(3), Diagonal(torch.ones(3)), LAYOUT)
    scale = torch.tensor([2.0, 0.5, 1.0])
    wide = GaussianPosterior(torch.ones(3), Diagonal(scale), LAYOUT)
    with pytest.raises(NotPositiveDefiniteError):
        combine([wide] * 3, how="product", prior=prior)
    found = combine([wide] * 3, how="product", prior=prior, on_indefinite="clip")
    torch.testing.assert_close(
        found.precision.dense().diagonal(),
        torch.tensor([10.0, 1.0, 1.0], dtype=torch.float64),
    )
    torch.testing.assert_close(
        found.loc, torch.tensor([1.2, 0.0, 0.0], dtype=torch.float64)
    )


# -- centres --------------------------------------------------------------------------


def test_covariances_are_in_order():
    parts = [random_posterior(k) for k in range(4)]
    weights = [0.1, 0.4, 0.2, 0.3]
    bary, mixture = (
        combine(parts, how=how, weights=weights) for how in ("barycenter", "mixture")
    )
    mean = sum(w * p.covariance for w, p in zip(weights, parts, strict=True))
    assert torch.linalg.eigvalsh(mean - bary.covariance).min() > -1e-9
    assert torch.linalg.eigvalsh(mixture.covariance - mean).min() > -1e-9
    torch.testing.assert_close(bary.loc, mixture.loc)


def test_a_mixture_has_the_moments_of_the_mixture():
    parts = [random_posterior(k) for k in range(2)]
    found = combine(parts, how="mixture", weights=[1.0, 3.0])
    loc = 0.25 * parts[0].loc + 0.75 * parts[1].loc
    second = sum(
        w * (p.covariance + torch.outer(p.loc, p.loc))
        for w, p in zip((0.25, 0.75), parts, strict=True)
    )
    torch.testing.assert_close(found.loc, loc)
    torch.testing.assert_close(found.covariance, second - torch.outer(loc, loc))


def test_diagonal_mixtures_of_one_mean_stay_diagonal():
    parts = [
        GaussianPosterior(torch.zeros(3), Diagonal(torch.full((3,), s)), LAYOUT)
        for s in (1.0, 2.0)
    ]
    found = combine(parts, how="mixture")
    assert isinstance(found.precision, Diagonal)
    torch.testing.assert_close(found.scale**2, torch.full_like(found.scale, 0.625))


def test_an_outlier_moves_a_product_and_not_a_median():
    parts = [random_posterior(k) for k in range(8)]
    far = GaussianPosterior(parts[0].loc + 1e6, parts[0].precision, LAYOUT)
    median = combine(parts, how="median")
    moved = (combine([*parts, far], how="median").loc - median.loc).norm()
    assert moved < 1
    product = combine(parts, how="product")
    assert (combine([*parts, far], how="product").loc - product.loc).norm() > 1e4


@pytest.mark.parametrize("how", ["product", "barycenter", "mixture", "median"])
def test_one_posterior_is_its_own_combination(how):
    one = random_posterior(0)
    assert_same(combine([one], how=how), one, 1e-9)


# -- consensus ------------------------------------------------------------------------


def test_consensus_of_equal_precisions_is_the_mean_of_draws():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    shards = [{"x": x}, {"x": x + 4.0}]
    for weights in ("precision", "diagonal", "uniform"):
        found = consensus(shards, {"x": constraints.real}, weights=weights)
        torch.testing.assert_close(found["x"].double(), x + 2, rtol=0, atol=1e-5)


def test_consensus_weighs_by_precision_and_keeps_supports(double_precision):
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(2, 4000, generator=generator)
    shards = [{"s": draws[0].exp()}, {"s": (3 + 0.5 * draws[1, :3000]).exp()}]
    found = consensus(shards, {"s": constraints.positive})["s"]
    assert len(found) == 3000
    # precisions 1 and 4: mean 12 / 5, variance 1 / 5; five standard errors
    error = 5 * (0.2 / 3000) ** 0.5
    assert abs(float(found.log().mean()) - 2.4) < error + 0.05
    assert abs(float(found.log().var()) - 0.2) < 0.03


def test_consensus_refuses_too_few_draws():
    shards = [{"x": torch.randn(4, 3)}] * 2
    with pytest.raises(SampleSizeError, match="more than 5"):
        consensus(shards, {"x": constraints.real})


# -- refusals -------------------------------------------------------------------------


def test_mistakes_are_named():
    one, two = random_posterior(0), random_posterior(1)
    with pytest.raises(ConfigurationError, match="argument how"):
        combine([one, two], how="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="argument posteriors"):
        combine([], how="product")
    with pytest.raises(ConfigurationError, match="argument posteriors"):
        combine(one, how="product")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="argument prior"):
        combine([one, two], how="mixture", prior=one)
    for weights in ([1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(ConfigurationError, match="argument weights"):
            combine([one, two], how="mixture", weights=weights)
    with pytest.raises(ShapeError, match="argument weights"):
        combine([one, two], how="mixture", weights=[1.0])
    with pytest.raises(ConfigurationError, match="argument on_indefinite"):
        combine([one], how="product", on_indefinite="repair")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("supports", "match"),
    [
        ({"a": ([3], constraints.real), "b": ([], constraints.positive)}, r"\(3,\)"),
        ({"a": ([2], constraints.real), "c": ([], constraints.positive)}, "'b'"),
        ({"a": ([2], constraints.real), "b": ([], constraints.real)}, "'b'"),
        (
            {"a": ([2], constraints.real), "b": ([], constraints.unit_interval)},
            "'b'",
        ),
    ],
)
def test_other_sites_are_refused_by_name(supports, match):
    layout = Layout.from_supports(
        {n: (torch.Size(s), c) for n, (s, c) in supports.items()}
    )
    with pytest.raises(LayoutMismatchError, match=match):
        combine([random_posterior(0), diagonal_posterior(1, layout)], how="product")


@pytest.mark.parametrize("how", ["product", "barycenter", "mixture", "median"])
def test_a_posterior_cites_how_it_was_made(how):
    fitted = GaussianPosterior(
        torch.zeros(3), Diagonal(torch.ones(3)), LAYOUT, citations=("expected_hessian",)
    )
    text = citation(combine([fitted, random_posterior(1)], how=how).marginal("a"))
    assert "opper2009" in text  # of the parts
    for kind, key in CITED.items():
        assert (key in text) == (kind == how)
    assert "scott2016" in citation(consensus)


@pytest.mark.parametrize(
    "call", [conflict, lambda x, prior: combine(x, how="product", prior=prior)]
)
def test_a_prior_that_is_a_model_is_told_what_it_should_be(call):
    with pytest.raises(ConfigurationError, match=r"argument prior\).*from_prior"):
        call([random_posterior(0), random_posterior(1)], prior=lambda: None)


def test_a_kernel_has_no_prior_of_its_own():
    with pytest.raises(ConfigurationError, match=r"kernel\.model"):
        GaussianPosterior.from_prior(HMC(lambda: None))
