"""The table of draws with weights: each column against what it is defined by."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats as laws

from pyro_geo._compat.arviz import pareto_k
from pyro_geo.errors import FallbackWarning
from pyro_geo.io.arviz import get_group, summary, to_arviz
from pyro_geo.io.reports import write_report

FALSE_ALARM = 1e-6


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def weighted(arrays, log_weights, **options: Any):
    return to_arviz({"particles": {**arrays, "log_weights": log_weights}}, **options)


def posterior_of(draws):
    return to_arviz({"posterior": {"w": draws}})


@pytest.mark.parametrize("shift", [0.0, 700.0, -700.0])
def test_equal_weights_give_the_table_of_plain_draws(rng, shift):
    draws = rng.normal(size=(400, 1))
    table = summary(weighted({"w": draws}, np.full((400, 1), shift)), interval=0.8)
    plain = summary(posterior_of(draws.reshape(4, 100)), interval=0.8)
    assert list(table) == [*plain, "khat"]
    row, expected = table.loc["w"], plain.loc["w"]
    for name in ("mean", "sd"):
        assert row[name] == pytest.approx(expected[name], rel=1e-12)
    for name in (n for n in plain if "%" in n or n.startswith("eti")):
        # between neighbours the ends may be chosen differently
        assert row[name] == pytest.approx(expected[name], abs=0.1)
    assert row["ess_bulk"] == pytest.approx(400)
    assert row["ess_tail"] == pytest.approx(400)
    assert row["mcse_mean"] == pytest.approx(draws.std() / 20, rel=1e-12)
    assert math.isnan(row["r_hat"])
    assert math.isnan(row["khat"])  # equal weights have no tail


def test_integer_weights_equal_copies_of_draws(rng):
    """A weight of three is three draws: mean, deviation and interval are theirs."""
    values, counts = rng.normal(size=(50, 1)), rng.integers(0, 5, size=(50, 1))
    with np.errstate(divide="ignore"):
        table = summary(weighted({"w": values}, np.log(counts)))
    copies = np.repeat(values.ravel(), counts.ravel())
    row = table.loc["w"]
    assert row["mean"] == pytest.approx(copies.mean())
    share = counts / counts.sum()
    expected = copies.std() / (1 - (share**2).sum()) ** 0.5
    assert row["sd"] == pytest.approx(expected)
    assert row["ess_bulk"] == pytest.approx(1 / (share**2).sum())
    low, high = row[[n for n in table if "%" in n or n.startswith("eti")]]
    inside = np.mean((copies >= low) & (copies <= high))
    assert 0.9 - 1e-9 <= inside <= 0.9 + 10 / len(copies)


def test_the_errors_are_those_that_estimates_have(rng):
    """Over many repetitions, estimates scatter as the columns say.

    Draws of a normal are weighed to another one. Variances of 400 repetitions are
    compared by their chi-squared law, with room for 15 % of bias of the error itself.
    """
    rows = []
    for _ in range(400):
        draws = rng.normal(scale=1.3, size=(200, 1))
        log_weights = laws.norm.logpdf(draws) - laws.norm.logpdf(draws, scale=1.3)
        rows.append(summary(weighted({"w": draws}, log_weights)).loc["w"])
    for name, exact in (("mean", 0.0), ("sd", 1.0)):
        values = np.array([row[name] for row in rows])
        stated = np.mean([row[f"mcse_{name}"] ** 2 for row in rows])
        ratio = np.mean((values - exact) ** 2) / stated
        low, high = (
            laws.chi2.ppf(p, 400) / 400 for p in (FALSE_ALARM / 2, 1 - FALSE_ALARM / 2)
        )
        assert 0.85 * low < ratio < 1.15 * high


def test_draws_of_one_particle_count_as_one(rng):
    once = rng.normal(size=(60, 1, 2))
    log_weights = rng.normal(size=(60, 1))
    table = summary(weighted({"w": once}, log_weights))
    thrice = summary(weighted({"w": once.repeat(3, 1)}, log_weights.repeat(3, 1)))
    for name in ("mean", "mcse_mean", "ess_bulk", "ess_tail", "khat"):
        np.testing.assert_allclose(table[name], thrice[name])


def test_rows_are_named_by_the_labels_of_plates(rng):
    draws = rng.normal(size=(30, 1, 2))
    labels: dict[str, Any] = {
        "dims": {"w": ["school"]},
        "coords": {"school": ["a", "b"]},
    }
    table = summary(weighted({"w": draws}, np.zeros((30, 1)), **labels))
    plain = summary(to_arviz({"posterior": {"w": draws}}, **labels))
    assert list(table.index) == list(plain.index) == ["w[a]", "w[b]"]


def test_a_particle_without_weight_may_be_anywhere(rng):
    draws = rng.normal(size=(40, 1))
    log_weights = rng.normal(size=(40, 1))
    expected = summary(weighted({"w": draws[1:]}, log_weights[1:]))
    draws[0], log_weights[0] = np.nan, -np.inf
    found = summary(weighted({"w": draws}, log_weights))
    np.testing.assert_allclose(found, expected)


def test_one_particle_is_a_table_too():
    row = summary(weighted({"w": np.ones((1, 1))}, np.zeros((1, 1)))).loc["w"]
    assert row["mean"] == 1
    assert row["ess_bulk"] == 1
    assert math.isnan(row["sd"])


def test_heavy_tails_of_the_weights_warn_and_have_a_column(rng, tmp_path):
    draws = rng.normal(size=(500, 1))
    log_weights = 4 * np.abs(draws)
    idata = to_arviz(
        {
            "posterior": {"w": rng.normal(size=(1, 500))},
            "particles": {"w": draws, "log_weights": log_weights},
        },
    )
    khat = summary(idata).loc["w", "khat"]
    assert khat == pytest.approx(pareto_k(log_weights.ravel()))
    assert khat > 0.7
    path = write_report(idata, tmp_path / "page.html", title="t", facts={})
    page = path.read_text("utf-8")
    assert f"k-hat is {khat:.2f}" in page
    assert "<li class=alert><strong>" in page


def test_names_of_particle_axes_are_reserved_only_with_weights(rng):
    draws = rng.normal(size=(4, 10, 2))
    options: dict[str, Any] = {"dims": {"w": ["particle"]}}
    posterior = get_group(to_arviz({"posterior": {"w": draws}}, **options), "posterior")
    assert posterior is not None
    assert posterior["w"].dims == ("chain", "draw", "particle")
    with pytest.warns(FallbackWarning, match="particle -> particle_"):
        idata = weighted({"w": draws}, np.zeros((4, 10)), **options)
    particles = get_group(idata, "particles")
    assert particles is not None
    assert particles["w"].dims == ("particle", "draw", "particle_")


def test_further_sample_axes_come_before_those_of_the_site(rng):
    idata = to_arviz(
        {
            "posterior": {"w": rng.normal(size=(2, 5, 3, 4))},
            "sample_stats": {"lp": rng.normal(size=(2, 5))},
            "observed_data": {"y": np.zeros(4)},
        },
        dims={"w": ["school"], "y": ["school"]},
        coords={"time": [1990, 1991, 1992]},
        sample_dims=("chain", "draw", "time"),
    )
    posterior, stats = get_group(idata, "posterior"), get_group(idata, "sample_stats")
    assert posterior is not None
    assert stats is not None
    assert posterior["w"].dims == ("chain", "draw", "time", "school")
    assert posterior["time"].values.tolist() == [1990, 1991, 1992]
    assert stats["lp"].dims == ("chain", "draw")
    assert "w[1991, 2]" in summary(idata).index
