"""Beliefs of a cohort as a result: axes, moments over draws, bands, ArviZ, report."""

from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo import citation
from pyro_geo.density import Target
from pyro_geo.distributions import HGF
from pyro_geo.errors import ConfigurationError, ShapeError, UnsupportedError
from pyro_geo.filtering import HGFSeries, hgf_filter, response
from pyro_geo.filtering.hgf.features import learning_rates
from pyro_geo.io.arviz import get_group
from pyro_geo.results import MemoryDraws, PosteriorDraws

D = torch.float64
EXACT: Any = {"rtol": 1e-12, "atol": 1e-12}
SUBJECTS, STEPS = 3, 7
REST: Any = ([1.0], [0.0, 0.2], [1.0, 2.0])


def group(idata: Any, name: str) -> Any:
    """One group of ArviZ data, which must be there."""
    found = get_group(idata, name)
    assert found is not None
    return found


@pytest.fixture
def u():
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(SUBJECTS, STEPS, dtype=D, generator=generator) < 0.7).to(D)


def run(u, omega, **options):
    levels = torch.stack([omega, torch.full_like(omega, -3.0)], -1)
    return hgf_filter(u, levels, *REST, kind="binary", **options)


def inputs(u):
    omega = pyro.sample("omega", dist.Normal(-2.0, 1.0))
    levels = torch.stack([omega, torch.full_like(omega, -3.0)], -1)
    rows = HGF(levels, *REST, num_steps=STEPS, kind="binary")
    with pyro.plate("person", SUBJECTS):
        pyro.sample("u", rows, obs=u)


def choices(u, y):
    omega = pyro.sample("omega", dist.Normal(-2.0, 1.0))
    answers = response.UnitSquare(run(u, omega), 2.0)
    with pyro.plate("person", SUBJECTS):
        pyro.sample("y", answers, obs=y)


def both(u, y):
    inputs(u)
    answers = response.UnitSquare(run(u, u.new_tensor(-2.0)), 2.0)
    with pyro.plate("again", SUBJECTS):
        pyro.sample("y", answers, obs=y)


Q = torch.linspace(-3, -1, 12, dtype=D).reshape(2, 6, 1)


def fitted(model, *args, q=Q, **options):
    target = Target.from_model(model, *args, dtype=D)
    facts = {"kernel": "HMC", "model": "m"}
    draws = MemoryDraws(target, q)
    return PosteriorDraws(target, draws, attributes=facts, notes=["a note"], **options)


# -- one run ---------------------------------------------------------------------------


def test_a_trajectory_becomes_a_series_of_subjects(u):
    path = run(u, torch.tensor(-2.0, dtype=D))
    series = HGFSeries.from_trajectory(path, subjects=["ann", "bob", "cy"])
    assert repr(series).startswith("HGFSeries(3 subjects, 7 steps of each")
    assert torch.equal(series.mean, path.mu)
    torch.testing.assert_close(series.cov.diagonal(0, -2, -1), 1 / path.pi, **EXACT)
    assert torch.equal(series.y[..., 0], u)
    assert torch.equal(series.surprise, path.surprise)
    assert torch.equal(series.learning_rate, learning_rates(path, "binary"))
    assert torch.equal(series.volatility, path.mu[..., 1:])
    assert series.summary().index.tolist() == ["ann", "bob", "cy"]
    np.testing.assert_allclose(
        series.summary()["level 2"], path.mu[:, -1, 1], rtol=1e-12
    )
    with pytest.raises(UnsupportedError, match="from_posterior"):
        series.band()
    with pytest.raises(ShapeError, match="subjects"):
        HGFSeries.from_trajectory(path, subjects=["ann"])


def test_arviz_data_has_subjects_trials_and_levels(u, tmp_path):
    import arviz

    path = run(u, torch.tensor(-2.0, dtype=D))
    idata = HGFSeries.from_trajectory(path).to_arviz(num_draws=5)
    filtered, stats = group(idata, "filtered"), group(idata, "sample_stats")
    assert filtered["mean"].dims == ("subject", "trial", "level")
    assert filtered["level"].values.tolist() == [1, 2]
    assert stats["learning_rate"].dims == ("subject", "trial", "level")
    assert stats["surprise"].dims == ("subject", "trial")
    assert group(idata, "observed_data")["y"].shape == (SUBJECTS, STEPS, 1)
    states = group(idata, "posterior")["states"]
    assert states.dims == ("chain", "draw", "subject", "trial", "level")
    idata.to_netcdf(tmp_path / "series.nc")
    again = group(arviz.from_netcdf(tmp_path / "series.nc"), "filtered")
    np.testing.assert_array_equal(again["mean"], path.mu)


@pytest.mark.parametrize("kind", ["continuous", "categorical"])
def test_inputs_are_found_in_the_trajectory(kind):
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(2, STEPS, dtype=D, generator=generator)
    omega = torch.tensor([-1.0, -3.0], dtype=D)
    precision: Any = 3.0
    if kind == "categorical":
        u = torch.randint(3, (2, STEPS), generator=generator).to(D)
        omega, precision = omega.expand(3, 2), None
    seen = torch.ones(2, STEPS, dtype=torch.bool)
    seen[0, 2] = False
    path = hgf_filter(
        u, omega, *REST, input_precision=precision, kind=kind, observed=seen
    )
    series = HGFSeries.from_trajectory(path)
    found = series.y[..., 0]
    assert found[0, 2].isnan()
    torch.testing.assert_close(found[seen], u[seen], rtol=1e-14, atol=1e-14)
    if kind == "categorical":  # levels of all classes are those of one state
        assert series.mean.shape == (2, STEPS, 6)
        assert series.state_names[0] == "class 0, level 1"
        assert torch.equal(series.mean[..., 4], path.mu[:, 2, :, 0])
        assert torch.equal(series.prediction, path.pred.argmax(-1).to(D))


class Network(NamedTuple):
    """Beliefs by state, as those of a network."""

    mu: dict[str, torch.Tensor]
    pi: dict[str, torch.Tensor]
    muhat: dict[str, torch.Tensor]
    pihat: dict[str, torch.Tensor]
    pred: dict[str, torch.Tensor]
    surprise: torch.Tensor


@pytest.mark.parametrize("channels", [1, 2])
def test_states_of_a_network_are_levels_by_name(u, channels):
    path = run(u, torch.tensor(-2.0, dtype=D))
    names = ["seen", "rate"]
    states = [
        dict(zip(names, value.unbind(-1), strict=True))
        for value in (path.mu, path.pi, path.muhat, path.pihat)
    ]
    inputs = ["coin", "light"][:channels]
    pred = dict.fromkeys(inputs, path.pred)
    network = Network(*states, pred=pred, surprise=path.surprise)
    several = u if channels == 1 else torch.stack([u, 1 - u], -1)
    series = HGFSeries.from_trajectory(network, several)
    assert series.state_names == names
    assert torch.equal(series.mean, path.mu)
    assert series.y.shape == (SUBJECTS, STEPS, channels)
    stats = group(series.to_arviz(), "sample_stats")
    expected = ("subject", "trial", "channel")[: 1 + channels]
    assert stats["prediction"].dims == expected
    with pytest.raises(UnsupportedError, match="argument u"):
        HGFSeries.from_trajectory(network)


# -- a fit -----------------------------------------------------------------------------


def test_moments_of_a_fit_are_those_of_the_mixture_over_draws(u):
    series = HGFSeries.from_posterior(fitted(inputs, u))
    paths = run(u, Q.flatten()[:, None])
    torch.testing.assert_close(series.draws["mu"].flatten(0, 1), paths.mu, **EXACT)
    assert series.draws["mu"].shape == (2, 6, SUBJECTS, STEPS, 2)
    torch.testing.assert_close(series.mean, paths.mu.mean(0), **EXACT)
    variance = (1 / paths.pi).mean(0) + paths.mu.var(0, correction=0)
    found = series.cov.diagonal(0, -2, -1)
    torch.testing.assert_close(found, variance, **EXACT)
    low, centre, high = series.band("learning_rate", 0.5)
    rates = learning_rates(paths, "binary")
    for level, band in ((0.25, low), (0.5, centre), (0.75, high)):
        torch.testing.assert_close(band, rates.quantile(level, 0), **EXACT)
    own = series.band()
    torch.testing.assert_close(own.low, paths.mu.quantile(0.05, 0), **EXACT)
    assert series.notes == ["a note"]
    assert series.attributes["site"] == "u"
    assert "2605.00966" in citation(series)
    with pytest.raises(ConfigurationError, match="name"):
        series.band("omega")


def test_trajectories_of_draws_are_in_the_posterior_group(u):
    idata = HGFSeries.from_posterior(fitted(inputs, u), num_draws=4).to_arviz()
    posterior = group(idata, "posterior")
    assert posterior["mu"].dims == ("chain", "draw", "subject", "trial", "level")
    assert posterior["mu"].shape == (2, 2, SUBJECTS, STEPS, 2)
    assert posterior["surprise"].dims == ("chain", "draw", "subject", "trial")
    assert posterior["subject"].values.tolist() == list(range(SUBJECTS))
    assert "low_mu" in group(idata, "sample_stats")


def test_responses_know_the_beliefs_that_they_follow_from(u):
    series = HGFSeries.from_posterior(fitted(choices, u, u))
    paths = run(u, Q.flatten()[:, None])
    torch.testing.assert_close(series.mean, paths.mu.mean(0), **EXACT)
    assert torch.equal(series.y[..., 0], u)
    fit = fitted(both, u, u)
    assert HGFSeries.from_posterior(fit).attributes["site"] == "u"
    other = HGFSeries.from_posterior(fit, "y")
    torch.testing.assert_close(other.mean, run(u, u.new_tensor(-2.0)).mu, **EXACT)
    with pytest.raises(ConfigurationError, match="site"):
        HGFSeries.from_posterior(fit, "omega")


def test_weights_of_draws_count(u):
    weights = torch.full((2, 6), -torch.inf, dtype=D)
    weights[1, 2] = 0.0
    series = HGFSeries.from_posterior(fitted(inputs, u, log_weights=weights))
    torch.testing.assert_close(series.mean, run(u, Q[1, 2]).mu, **EXACT)


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        ("omega kappa pi0", ["scale of level 2"]),
        ("omega kappa mu0 pi0", ["scale of level 2", "origin of level 2"]),
        ("omega mu0", ["origin of level 2"]),
        ("omega pi0", []),
        ("kappa mu0 pi0", []),
    ],
)
def test_levels_without_a_scale_or_an_origin_are_named(u, free, expected):
    def loose(u):
        z = pyro.sample("z", dist.Normal(u.new_zeros(()), 1.0))
        moved = {
            name: z if name in free.split() else 0 * z
            for name in ("omega", "kappa", "mu0", "pi0")
        }
        rows = HGF(
            torch.stack([-2.0 + moved["omega"], -3.0 + moved["omega"]]),
            (1.0 + moved["kappa"]).unsqueeze(-1),
            torch.stack([0 * z, moved["mu0"]]),
            torch.stack([1 + 0 * z, moved["pi0"].exp()]),
            num_steps=STEPS,
            kind="binary",
        )
        pyro.sample("u", rows, obs=u[0])

    notes = HGFSeries.from_posterior(fitted(loose, u)).notes[1:]
    assert len(notes) == len(expected)
    for note, words in zip(notes, expected, strict=True):
        assert words in note


def test_what_has_no_beliefs_is_refused(u):
    def plain(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    with pytest.raises(UnsupportedError, match="no site"):
        HGFSeries.from_posterior(fitted(plain, u[0, :3]))
    target = Target.from_potential(lambda q: (q * q).sum(), 1, dtype=D)
    fit = PosteriorDraws(target, MemoryDraws(target, Q))
    with pytest.raises(UnsupportedError, match="no model"):
        HGFSeries.from_posterior(fit)


@pytest.mark.slow
def test_a_report_pictures_rates_predictions_and_the_cohort(u, tmp_path):
    series = HGFSeries.from_posterior(fitted(inputs, u), subjects=["ann", "bob", "cy"])
    page = series.report(tmp_path / "series.html").read_text()
    assert "Subject ann" in page
    assert "Learning rate of each level. Bands" in page
    assert "Prediction of each input" in page
    assert "Median over 3 series" in page
    assert "level 2 ends at" in page


def test_the_report_of_a_fit_takes_a_series(u, tmp_path):
    fit = fitted(inputs, u)
    series = HGFSeries.from_posterior(fit)
    page = fit.report(tmp_path / "fit.html", series=series).read_text()
    assert "Learning rate of each level" in page
    assert "omega" in page
