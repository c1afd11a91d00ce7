"""The result: tables, scores, draws, ArviZ and the report."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from pyro_geo.errors import ShapeError
from pyro_geo.filtering import BoundedTracker, NearConstantVelocity, RangeBearing
from pyro_geo.filtering.tracker.measurements import Measurement
from pyro_geo.io.arviz import get_group


def group(idata: Any, name: str) -> Any:
    """One group of ArviZ data, which must be there."""
    found = get_group(idata, name)
    assert found is not None
    return found


QUIET = {"progress_bar": False, "dt": 1.0}


@pytest.fixture(scope="module")
def track(tracker, y):
    return tracker.filter(torch.where(y.isinf(), torch.nan, y), **QUIET)


def test_the_summary_has_a_row_for_each_track(track):
    table = track.summary()
    assert table.index.tolist() == list(range(5))
    assert {"refused", "nats severed", "NIS", "level", "level sd"} <= set(table)
    np.testing.assert_allclose(table["level"], track.mean[:, -1, 0])
    assert repr(track) == "Track(5 tracks, 40 steps of each; state level)"
    assert "<table" in track._repr_html_()


def test_a_filter_that_is_right_is_calibrated(plain):
    """A level with the noise that the filter believes in."""
    generator = torch.Generator().manual_seed(1)

    def noise():
        return torch.randn(40, 100, 1, generator=generator, dtype=torch.float64)

    truth = (0.3**0.5 * noise()).cumsum(1)
    track = plain.filter(truth + 2**0.5 * noise(), **QUIET)
    score = track.score(truth)
    assert score["coverage 95%"].mean() == pytest.approx(0.95, abs=0.015)
    assert score["NEES"].mean() == pytest.approx(1.0, abs=0.06)
    np.testing.assert_allclose(
        score["rmse"], (track.mean - truth).square().mean((1, 2)).sqrt()
    )
    found = track.calibration()
    np.testing.assert_allclose(found["found"], found["expected"], atol=0.02)


def test_unknown_truth_is_not_scored(plain, y):
    track = plain.filter(y[3], **QUIET)
    truth = torch.zeros(40, 1)
    truth[:30] = torch.nan
    expected = track.mean[0, 30:].square().mean().sqrt()
    assert track.score(truth)["rmse"].item() == pytest.approx(float(expected))
    with pytest.raises(ShapeError, match="truth"):
        track.score(torch.zeros(39, 1))


def test_draws_have_the_moments(plain, y):
    track = plain.filter(y[3:4, :5], **QUIET)
    draws = track.get_samples(4_000)["states"]
    assert draws.shape == (4_000, 1, 5, 1)
    np.testing.assert_allclose(draws.mean(0), track.mean, atol=0.1)
    np.testing.assert_allclose(draws.var(0), track.cov[..., 0], rtol=0.1)
    assert torch.equal(track.get_samples(9)["states"], track.get_samples(9)["states"])
    other = track.get_samples(9, seed=5)["states"]
    assert not torch.equal(track.get_samples(9)["states"], other)


def test_arviz_has_time_as_an_axis(track):
    idata = track.to_arviz(num_draws=3)
    assert dict(group(idata, "posterior")["states"].sizes) == {
        "chain": 1,
        "draw": 3,
        "track": 5,
        "time": 40,
        "state": 1,
    }
    stats = group(idata, "sample_stats")
    assert stats["p_nominal"].dims == ("track", "time")
    assert stats["dynamics_prob"].dims == ("track", "time", "dynamics")
    assert stats["time"].values.tolist() == list(range(40))
    assert stats.attrs["kernel"] == "BoundedTracker"
    assert "posterior" not in str(list(track.to_arviz().groups()))


def test_diagnostics_name_the_steps_with_flags(tracker, y):
    with pytest.warns(UserWarning, match="not finite"):
        found = tracker.filter(y, **QUIET).diagnostics()
    assert found["nonfinite"]["track 2"] == [7]
    assert found["p_nominal"].shape == (5,)


def test_the_report_shows_path_states_modes_and_ledger(tmp_path):
    tracker = BoundedTracker.preset("terminal", 30.0)
    generator = torch.Generator().manual_seed(0)
    t = 5.0 * torch.arange(30)
    path = torch.stack([100 * t, 50 * t], -1).double()
    noise = torch.randn(2, 30, 2, generator=generator, dtype=torch.float64)
    y = path + 30 * noise
    y[1, 12] += 1e6
    y[0, 4] = torch.nan
    track = tracker.filter(y, t, progress_bar=False, labels=["A", "<B>"])
    page = track.report(
        tmp_path / "track.html", truth=path.expand(2, 30, 2)
    ).read_text()
    for part in (
        "Ledger: 1 refused",
        "Calibration",
        "Against the truth",
        "nats severed",
    ):
        assert part in page
    # the track with most nats comes first, and its name is escaped
    first, second = (page.index(f"Track {name}") for name in ("&lt;B&gt;", "A"))
    assert first < second
    assert len(re.findall("<img", page)) == 2 * 5
    assert "ellipses of 95 % probability" in page


def drawn_reports(monkeypatch, track, path):
    """What the map and the first panels of the report are given to draw."""
    maps, panels = [], []

    def plane(mean, cov, reports, refused, labels):
        maps.append(reports)
        return b""

    def over_time(times, lines):
        panels.append({line.name: line.dots for line in lines})
        return b""

    monkeypatch.setattr("pyro_geo.io._report.series.plane", plane)
    monkeypatch.setattr("pyro_geo.io._report.series.over_time", over_time)
    page = track.report(path).read_text()
    return maps[0], panels[0], page


def test_reports_of_range_and_bearing_are_on_the_map(tmp_path, monkeypatch):
    t = torch.arange(12.0).double()
    path = torch.stack([20 + 3 * t, -5 + 2 * t], -1)
    sensor = RangeBearing((4.0, -1.0))
    y = sensor.predict([path.T]).T.clone()
    y[4] = torch.nan
    noise = torch.tensor([0.1, 0.01]).double().diag()
    tracker = BoundedTracker(NearConstantVelocity(0.1), sensor, noise)
    track = tracker.filter(y, t, progress_bar=False)
    points, dots, page = drawn_reports(monkeypatch, track, tmp_path / "r.html")
    path[4] = torch.nan
    np.testing.assert_allclose(points, path, atol=1e-9)
    np.testing.assert_allclose(dots["x"], path[:, 0], atol=1e-9)
    assert dots["vx"] is None
    assert "Dots are reports" in page


class Bearing(Measurement):
    """A direction alone, which tells no place."""

    def __init__(self):
        super().__init__(1)

    def predict(self, x):
        return torch.atan2(x[0][1], x[0][0])[None]

    def locate(self, y):
        return torch.stack([torch.cos(y[0]), torch.sin(y[0])])


def test_a_report_that_tells_no_place_is_on_no_map(tmp_path, monkeypatch):
    tracker = BoundedTracker(NearConstantVelocity(0.1), Bearing(), 0.01)
    track = tracker.filter(torch.linspace(0, 1, 9)[:, None].double(), **QUIET)
    points, dots, page = drawn_reports(monkeypatch, track, tmp_path / "b.html")
    assert points is None
    assert dots["x"] is None
    assert "Dots are reports" not in page


@pytest.mark.slow
def test_a_scalar_has_no_map(tmp_path, track):
    page = track.report(tmp_path / "level.html", {"Mine": [["a"], [1]]}).read_text()
    assert "The path" not in page
    assert "State over time" in page
    assert "Mine" in page
