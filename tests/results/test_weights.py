"""A result with weights made by hand: what each accessor gives is counted out."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.errors import (
    ConfigurationError,
    FallbackWarning,
    ModelError,
    ShapeError,
    UnsupportedError,
)
from pyro_geo.io.arviz import get_group, true_names
from pyro_geo.results import MemoryDraws, PosteriorDraws, Weights
from pyro_geo.results.weights import equal_rows

Y = torch.tensor([0.5, -0.5], dtype=torch.float64)
SHARES = torch.tensor([[0.5, 0.25], [0.25, 0.0]], dtype=torch.float64)


def model(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.deterministic("twice", 2 * a)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a, 0.1), obs=y)


@pytest.fixture
def fit(result) -> PosteriorDraws:
    q = torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]])
    stats = {"lp": torch.arange(4.0).reshape(2, 2)}
    return result(model, Y, q=q, stats=stats, log_weights=SHARES.log() + 7)


def counts(draws) -> list[int]:
    return [int((draws == value).sum()) for value in (0, 1, 2, 3)]


def test_each_draw_has_its_share(fit):
    assert counts(fit.get_samples()["a"]) == [2, 1, 1, 0]
    assert counts(fit.resample(400)["a"]) == [200, 100, 100, 0]
    assert fit.get_samples(resample=False)["a"].tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(fit.log_weights, SHARES.log().flatten() + 7)
    assert fit.log_z == pytest.approx(7)
    assert fit.ess == pytest.approx(1 / (0.75**2 + 0.25**2))


def test_draws_at_random_follow_the_weights(fit):
    torch.manual_seed(0)
    found = counts(fit.get_samples(8_000)["a"])
    assert found[3] == 0
    # a binomial count lies this many deviations off once in a million
    for count, share in zip(found[:3], (0.5, 0.25, 0.25), strict=True):
        z = (count - 8_000 * share) / (8_000 * share * (1 - share)) ** 0.5
        assert abs(z) < 4.9


def test_draws_at_random_without_the_weights_are_refused(fit):
    with pytest.raises(ConfigurationError, match="num_samples"):
        fit.get_samples(10, resample=False)


def test_every_group_is_of_the_same_draws(fit):
    idata = fit.to_arviz(posterior_predictive=True, prior=3)
    posterior = get_group(idata, "posterior")
    stats = get_group(idata, "sample_stats")
    likelihood = get_group(idata, "log_likelihood")
    predictive = get_group(idata, "posterior_predictive")
    particles = get_group(idata, "particles")
    assert posterior is not None
    assert stats is not None
    assert likelihood is not None
    assert predictive is not None
    assert particles is not None
    a = posterior["a"].values
    assert a.tolist() == [[0, 0, 1, 2]]
    assert stats["lp"].values.tolist() == a.tolist()
    np.testing.assert_array_equal(posterior["twice"].values, 2 * a)
    expected = torch.distributions.Normal(torch.as_tensor(a)[..., None], 0.1)
    np.testing.assert_allclose(likelihood["y"].values, expected.log_prob(Y))
    assert np.abs(predictive["y"].values - a[..., None]).max() < 0.8
    assert particles["a"].values.tolist() == [[0, 1], [2, 3]]
    assert "twice" not in particles
    predicted = fit.posterior_predictive()["y"]
    np.testing.assert_array_equal(predicted, predictive["y"].values)


def test_tables_have_the_keys_of_every_result(fit, result):
    plain = result(model, Y, q=np.random.default_rng(0).normal(size=(2, 20, 1)))
    assert list(fit.summary()) == [*plain.summary(), "khat"]
    assert fit.summary().loc["a", "mean"] == pytest.approx(0.75)
    assert set(fit.diagnostics()) == {*plain.diagnostics(), "ess", "khat", "log_z"}
    assert set(fit.diagnostics()["a"]) == set(plain.diagnostics()["a"])


def test_draws_without_weights_are_their_own_resample(result):
    q = torch.arange(6.0).reshape(2, 3, 1)
    fit = result(model, Y, q=q)
    assert fit.log_weights is None
    assert fit.resample()["a"].tolist() == list(range(6))
    assert torch.equal(fit.get_samples(resample=False)["a"], fit.get_samples()["a"])
    for ask in (lambda: fit.log_z, lambda: fit.ess, lambda: fit.khat):
        with pytest.raises(UnsupportedError, match="no weights"):
            ask()


def test_any_number_of_rows_is_shared_out():
    log_weights = torch.tensor([0.1, 0.6, 0.3]).log()
    for total in (1, 3, 10, 1_000):
        rows = equal_rows(log_weights, seed=3, num_draws=total)
        found = rows.bincount(minlength=3)
        assert len(rows) == total
        assert ((found - total * log_weights.exp()).abs() < 1).all()


def test_further_sample_axes_are_named_and_counted():
    target = Target.from_model(model, Y, dtype=torch.float64)
    q = torch.randn(2, 8, 3, 1, dtype=torch.float64)
    fit = PosteriorDraws(
        target, MemoryDraws(target, q), sample_dims=("chain", "draw", "task")
    )
    assert fit.get_samples()["a"].shape == (16, 3)
    idata = fit.to_arviz(posterior_predictive=True)
    for name, axes in (
        ("posterior", ("chain", "draw", "task")),
        ("log_likelihood", ("chain", "draw", "task", "rows")),
        ("posterior_predictive", ("chain", "draw", "task", "rows")),
        ("observed_data", ("rows",)),
    ):
        found = get_group(idata, name)
        assert found is not None
        (variable,) = [v for n, v in found.data_vars.items() if n != "twice"]
        assert variable.dims == axes
    assert list(fit.summary().index) == ["a[0]", "a[1]", "a[2]"]
    assert fit.diagnostics()["a"]["n_eff"].shape == (3,)
    with pytest.raises(ShapeError, match="sample_dims"):
        PosteriorDraws(target, MemoryDraws(target, q), sample_dims=("draw", "chain"))


def test_arrays_that_do_not_fit_are_refused(fit):
    target = fit.target
    draws = MemoryDraws(target, fit.positions)
    with pytest.raises(ShapeError, match="log_weights"):
        Weights(torch.zeros(4), draws)
    with pytest.raises(ShapeError, match="lp"):
        MemoryDraws(target, fit.positions, {"lp": torch.zeros(4)})
    with pytest.raises(ShapeError, match="positions"):
        MemoryDraws(target, torch.zeros(2, 2, 5))


def test_a_site_with_the_name_of_the_weights_stands_beside_them(result):
    def other(y):
        pyro.sample("log_weights", dist.Normal(0.0, 1.0))

    q = np.arange(4.0).reshape(2, 2, 1)
    fit = result(other, Y, q=q, log_weights=SHARES.log())
    with pytest.warns(FallbackWarning, match="log_weights -> log_weights_"):
        idata = fit.to_arviz(log_likelihood=False)
    particles = get_group(idata, "particles")
    assert particles is not None
    assert true_names(particles.attrs) == {"log_weights_": "log_weights"}
    np.testing.assert_array_equal(particles["log_weights_"].values, q[..., 0])
    np.testing.assert_array_equal(particles["log_weights"].values, SHARES.log())
    with pytest.warns(FallbackWarning, match="log_weights -> log_weights_"):
        table = fit.summary()
    assert table.loc["log_weights_", "mean"] == pytest.approx(
        float((SHARES.numpy() * q[..., 0]).sum() / SHARES.numpy().sum())
    )


def test_nothing_can_be_asked_before_there_are_draws():
    empty = PosteriorDraws()
    assert repr(empty) == "PosteriorDraws(no draws yet)"
    for ask in (empty.get_samples, empty.summary, lambda: empty.target):
        with pytest.raises(ModelError, match="no draws"):
            ask()


def test_the_representation_names_few_sites(fit):
    shown = "PosteriorDraws(2 chains, 2 draws of each, with weights; a ())"
    assert repr(fit) == shown
