"""Moments over time: what any filter hands over, without a tracker."""

from typing import Any

import numpy as np
import pytest
import torch

from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.io.arviz import get_group
from pyro_geo.results import MemorySteps, Series


def group(idata: Any, name: str) -> Any:
    """One group of ArviZ data, which must be there."""
    found = get_group(idata, name)
    assert found is not None
    return found


def numbers(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def values():
    """Two subjects, five trials, a state of two."""
    root = numbers(2, 5, 2, 2)
    return {
        "mean": numbers(2, 5, 2),
        "cov": root @ root.mT,
        "surprise": numbers(2, 5).abs(),
        "strange": numbers(2, 5) > 1,
        "y": numbers(2, 5, 1),
        "t": torch.arange(5.0).expand(2, 5),
    }


@pytest.fixture
def series(values):
    axes = {"mean": ["state"], "cov": ["state", "state_other"], "y": ["channel"]}
    names = ["level", "volatility"]
    return Series(
        MemorySteps(values),
        dims=axes,
        coords={"state": names, "state_other": names, "subject": ["ann", "bob"]},
        sample_dims=("subject", "time"),
        attributes={"kernel": "HGF"},
        notes=["a note", "a note"],
        seed=1,
    )


def test_a_series_has_the_name_its_method_gives_it(series):
    text = "Series(2 subjects, 5 steps of each; state level, volatility)"
    assert repr(series) == text
    assert series.labels == ["ann", "bob"]
    assert series.notes == ["a note"]
    sizes = dict(group(series.to_arviz(), "filtered")["cov"].sizes)
    assert sizes == {"subject": 2, "time": 5, "state": 2, "state_other": 2}


def test_the_summary_has_the_last_state_and_means_of_statistics(series, values):
    table = series.summary()
    assert table.index.tolist() == ["ann", "bob"]
    np.testing.assert_allclose(table["volatility"], values["mean"][:, -1, 1])
    np.testing.assert_allclose(table["level sd"], values["cov"][:, -1, 0, 0].sqrt())
    np.testing.assert_allclose(table["surprise"], values["surprise"].mean(1))
    assert "ann" in series._repr_html_()
    assert "a note" in series._repr_html_()


def test_diagnostics_name_the_steps_of_flags(series, values):
    found = series.diagnostics()["strange"]
    assert found["subject ann"] == values["strange"][0].nonzero().flatten().tolist()


def test_draws_of_a_covariance_that_is_not_quite_positive_are_finite(values):
    values["cov"][0, 2] = torch.tensor([[1.0, 1.0], [1.0, 1.0 - 1e-14]])
    values["mean"][1, 0] = torch.nan
    draws = Series(MemorySteps(values)).get_samples(2_000)["states"]
    assert draws[:, 0].isfinite().all()
    np.testing.assert_allclose(draws[:, 0, 2].var(0), [1.0, 1.0], rtol=0.1)
    np.testing.assert_allclose(
        draws[:, 0, 2, 0] - draws[:, 0, 2, 1],
        draws.new_zeros(2_000) + values["mean"][0, 2, 0] - values["mean"][0, 2, 1],
        atol=1e-6,
    )
    assert draws[:, 1, 0].isnan().all()


def test_bad_draws_and_values_are_refused(series, values):
    with pytest.raises(ConfigurationError, match="num_samples"):
        series.get_samples(0)
    with pytest.raises(ConfigurationError, match="num_draws"):
        series.to_arviz(-1)
    with pytest.raises(ShapeError, match="surprise"):
        MemorySteps({**values, "surprise": torch.zeros(2, 4)})


def test_reports_at_the_same_times_label_the_axis(series, values):
    data = group(series.to_arviz(), "observed_data")
    assert data["time"].values.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert "t" not in data
    values["t"] = values["t"] + torch.tensor([[0.0], [0.5]])
    other = Series(MemorySteps(values), sample_dims=("subject", "time"))
    assert group(other.to_arviz(), "observed_data")["t"].shape == (2, 5)


def test_files_hold_it(series, tmp_path):
    import arviz

    series.to_arviz(num_draws=4).to_netcdf(tmp_path / "series.nc")
    again = arviz.from_netcdf(tmp_path / "series.nc")
    filtered = group(again, "filtered")
    np.testing.assert_array_equal(filtered["mean"].values, series.mean)
    assert filtered["state"].values.tolist() == ["level", "volatility"]
    assert group(again, "posterior")["states"].shape == (1, 4, 2, 5, 2)


@pytest.mark.slow
def test_a_report_needs_no_nats(series, tmp_path):
    page = series.report(tmp_path / "series.html").read_text()
    assert "HGF on 2 subjects" in page
    assert "Subject ann" in page
    assert "State over time" in page
