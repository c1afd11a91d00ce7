"""Candidates side by side: tables in points, a page, and named errors."""

import pytest
import torch

from pyro_geo.errors import PyroGeoError
from pyro_geo.summaries.merge import Calibration, MergeComparison

BASE = {"w": torch.zeros(2, 2, dtype=torch.float64)}
MODELS = {
    "a": {"w": torch.eye(2, dtype=torch.float64)},
    "b": {"w": -torch.eye(2, dtype=torch.float64)},
}
# both inputs are three times as far along the first axis as their class needs
X = torch.tensor([[3.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
SURE = torch.tensor(3.0, dtype=torch.float64).sigmoid().item()


def forward(params, x):
    return x @ params["w"]


def made(candidates, **options):
    return MergeComparison(BASE, MODELS, candidates, forwards=forward, **options)


def test_tables_hold_the_closed_form_in_points():
    found = made({"a alone": MODELS["a"], "b alone": MODELS["b"]})
    table = found.forecast({"a": X, "b": X})
    assert list(table.index) == ["a", "b"]
    assert list(table.columns) == ["a alone", "b alone"]
    # the class changes on all inputs, from one believed at p to one at 1 - p
    lost = 100 * (2 * SURE - 1)
    expected = [[0.0, lost], [lost, 0.0]]
    assert table.values == pytest.approx(torch.tensor(expected).numpy(), abs=1e-5)


def test_an_outcome_counts_labels():
    found = made({"a alone": MODELS["a"]})
    table = found.outcome(
        {"a": X, "b": X}, {"a": torch.tensor([0, 0]), "b": torch.tensor([1, 0])}
    )
    # the network of a is right on half of its own, and wrong on all of those of b
    assert table["a alone"].tolist() == [0.0, 100.0]


def test_calibrations_change_the_forecast():
    halves = dict.fromkeys(MODELS, Calibration(own=0.0))
    found = made({"a alone": MODELS["a"]}, calibrations=halves)
    # a network that is not believed at all has nothing to lose
    assert found.forecast({"a": X, "b": X})["a alone"].tolist() == [0.0, 0.0]


def test_the_page_grows_with_the_outcome(tmp_path):
    found = made({"a alone": MODELS["a"], "b alone": MODELS["b"]})
    with pytest.raises(PyroGeoError, match="forecast"):
        found.report(tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()
    found.forecast({"a": X, "b": X})
    before = found.report(tmp_path / "before.html").read_text()
    assert "outcome" not in before.lower().replace("forecast against outcome", "")
    found.outcome({"a": X, "b": X}, {"a": torch.tensor([0, 1])} | {"b": X.argmin(1)})
    after = found.report(tmp_path / "after.html").read_text()
    assert "outcome, points against forecast, points" in after
    assert after.count("<img") == 4  # pairs, two candidates, the tasks' own


def test_nothing_to_compare_is_refused():
    with pytest.raises(PyroGeoError, match="candidates"):
        made({})


def test_beliefs_are_evaluated_once_for_all_candidates():
    calls = [0]

    def counted(params, x):
        calls[0] += 1
        return x @ params["w"]

    def count(candidates, **options):
        found = MergeComparison(BASE, MODELS, candidates, forwards=counted, **options)
        calls[0] = 0
        found.forecast({"a": X, "b": X})
        return calls[0]

    halves = dict.fromkeys(MODELS, Calibration(own=0.5))
    one, two = {"a": MODELS["a"]}, {"a": MODELS["a"], "b": MODELS["b"]}
    believed = count(one, calibrations=halves) - count(one)
    assert believed > 0
    assert count(two, calibrations=halves) - count(two) == believed
