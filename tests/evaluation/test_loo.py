"""Leave-one-out tables against ArviZ's own and against exact refits."""

import math

import arviz
import numpy as np
import pytest

from pyro_geo.errors import ConfigurationError, UnsupportedError
from pyro_geo.evaluation.loo import loo_table
from pyro_geo.io.arviz import to_arviz


def conjugate(y: np.ndarray, draws: int) -> np.ndarray:
    """Log-likelihoods at draws of a mean with prior N(0, 1) and data N(mean, 1)."""
    rng = np.random.default_rng(1)
    variance = 1 / (1 + y.size)
    mean = rng.normal(variance * y.sum(), math.sqrt(variance), size=(4, draws))
    residual = y - mean.reshape(4, draws, *[1] * y.ndim)
    return -0.5 * residual**2 - 0.5 * math.log(2 * math.pi)


def exact(y: np.ndarray) -> np.ndarray:
    """Log-density of each datum given all others."""
    mean = (y.sum() - y) / y.size
    variance = 1 + 1 / y.size
    return -0.5 * (y - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)


@pytest.fixture
def y():
    return np.random.default_rng(0).normal(0.5, 1.0, size=(3, 8))


def test_it_is_close_to_exact_refits(y):
    idata = to_arviz({"log_likelihood": {"y": conjugate(y, 2_000)}})
    found = loo_table(idata).loc["y"].to_dict()
    assert abs(found["elpd"] - exact(y).sum()) < 0.05
    assert abs(found["p_loo"] - 1) < 0.5
    assert found["k > 0.7"] == 0


def test_it_is_the_sum_of_arviz(y):
    values = conjugate(y, 500)
    posterior = {"mean": np.random.default_rng(2).normal(size=values.shape[:2])}
    idata = to_arviz({"posterior": posterior, "log_likelihood": {"y": values}})
    theirs = arviz.loo(idata, pointwise=True, reff=1.0)
    found = loo_table(idata).loc["y"].to_dict()
    assert found["elpd"] == pytest.approx(theirs.elpd_loo, rel=1e-10)
    assert found["se"] == pytest.approx(theirs.se, rel=1e-10)
    assert found["p_loo"] == pytest.approx(theirs.p_loo, rel=1e-8)
    assert found["largest k"] == pytest.approx(float(theirs.pareto_k.max()))


def test_subjects_have_rows_and_missing_data_are_none(y):
    values = conjugate(y, 500)
    values[..., 1, 2:] = 0.0
    dims, coords = {"y": ["subject", "trial"]}, {"subject": ["ann", "bob", "cy"]}
    idata = to_arviz({"log_likelihood": {"y": values}}, dims=dims, coords=coords)
    table = loo_table(idata, by="subject")
    assert table["data"].tolist() == [8, 2, 8]
    assert table.index.get_level_values("subject").tolist() == ["ann", "bob", "cy"]
    whole = loo_table(idata)
    total = float(table["elpd"].to_numpy().sum())
    assert total == pytest.approx(whole.loc["y"].to_dict()["elpd"], rel=1e-10)
    values[..., 0, :] = 0.0
    gone = loo_table(to_arviz({"log_likelihood": {"y": values}}, dims=dims), "subject")
    assert gone.iloc[0][["elpd", "data"]].tolist() == [0.0, 0.0]


def test_a_datum_that_says_nothing_has_no_tail(y):
    values = conjugate(y, 500)
    values[..., 0, 0] = math.log(0.5)  # a first trial, whose prediction is fixed
    found = loo_table(to_arviz({"log_likelihood": {"y": values}})).loc["y"].to_dict()
    assert found["k > 0.7"] == 0
    assert found["largest k"] < 0.7
    assert found["data"] == y.size


def test_mistakes_are_named(y):
    idata = to_arviz({"log_likelihood": {"y": conjugate(y, 100)}})
    with pytest.raises(ConfigurationError, match="subject"):
        loo_table(idata, by="subject")
    with pytest.raises(UnsupportedError, match="log-likelihood"):
        loo_table(to_arviz({"posterior": {"y": conjugate(y, 100)}}))
