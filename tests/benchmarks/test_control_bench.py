"""The control benchmark measures what it says it does."""

import importlib
from pathlib import Path

import pytest
import torch

from pyro_geo.planning import UCB
from pyro_geo.planning.boolean_network import Channel, load_networks

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def networks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("_control_networks")


def test_one_rule_is_the_default_and_runs_are_paired(networks):
    assert UCB(0.5) == networks.DEFAULT
    problem = load_networks(networks.FILE, channel=Channel.bernoulli(0.05))[0]
    costs = networks.measure_network(problem, 3)
    # without any control the cost of a step is that of the target alone
    assert set(costs) >= {"known rules", "UCB", "myopic, two steps"}
    torch.testing.assert_close(costs["myopic, one step"], costs["no control"])


def test_intervals_of_pairs_are_those_of_the_t_test(networks):
    first, second = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 2.0, 6.0])
    found = networks.paired(first, second)
    assert found.mean == pytest.approx(-1.0)
    assert found.high - found.mean == pytest.approx(4.302653 / 3**0.5, rel=1e-5)


def test_ratios_count_networks(networks):
    rows = []
    for name, late in (("a", [1.0, 1.0]), ("b", [3.0, 2.0])):
        costs = {
            "no control": torch.tensor([4.0, 4.0]),
            "known rules": torch.tensor([1.0, 1.0]),
            "UCB": torch.tensor(late),
            "myopic, two steps": torch.tensor([2.0, 2.1]),
        }
        for setting in ("noisy", "seen"):
            found = networks.rows_of(name, setting, costs, 1.0)
            rows += [{"part": "networks", **row} for row in found]
    ratios = networks.ratios(rows)
    assert ratios["regret/known_late/networks_at_1.25"] == 1
    assert ratios["regret/known_late/largest"] == 2.5
    assert ratios["captured/late/networks_at_0.90"] == 1
    assert ratios["networks_better/myopic2"] == 1
    assert ratios["networks_not_worse/myopic2"] == 2
