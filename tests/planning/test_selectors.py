"""Rules that choose an action, against sums written out."""

import numpy as np
import pytest
import torch

from pyro_geo.errors import ConfigurationError
from pyro_geo.planning import MMRL, UCB, make_selector, thompson_rule
from pyro_geo.planning.selectors import summarise

VALUES = torch.tensor(
    [[0.0, 1.0, 0.4], [3.0, 1.1, 0.4], [-1.0, 0.0, 0.4]], dtype=torch.float64
)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def test_summary_is_that_of_numpy() -> None:
    v, w = VALUES.numpy(), WEIGHTS.numpy()
    found = summarise(VALUES, (7 * WEIGHTS).log())  # of any sum
    mean = np.average(v, axis=0, weights=w)
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    sd = np.sqrt(np.average((v - mean) ** 2, axis=0, weights=w))
    np.testing.assert_allclose(found.sd, sd, atol=1e-12)
    np.testing.assert_allclose(found.p_best, [0.3, 0.5, 0.2], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "action"), [("mean", 1), ("certainty", 1), ("prior", 1), ("ucb", 0)]
)
def test_named_rules(name: str, action: int) -> None:
    # means: .7, .83, .4 under the weights, .67, .7, .4 without; sd of the first: 1.55
    assert int(make_selector(name)(VALUES, WEIGHTS.log())) == action


def test_rules_take_runs_and_draws_without_weight() -> None:
    weights = torch.stack([WEIGHTS.log(), torch.tensor([-torch.inf, 0.0, -torch.inf])])
    runs = VALUES.expand(2, 3, 3)
    for name in ("mean", "certainty", "thompson", "ucb"):
        found = make_selector(name)(runs, weights.double())
        assert found.shape == (2,)
        assert int(found[1]) == 0


def test_thompson_draws_as_often_as_an_action_is_best() -> None:
    count = 4000
    torch.manual_seed(0)
    found = thompson_rule(VALUES.expand(count, 3, 3), WEIGHTS.log().expand(count, 3))
    share = torch.bincount(found, minlength=3) / count
    expected = torch.tensor([0.3, 0.5, 0.2])
    sd = (expected * (1 - expected) / count).sqrt()
    assert bool(((share - expected).abs() < 4 * sd).all())


def test_mixture_of_few_models_sees_them_alone() -> None:
    assert int(MMRL(torch.tensor([1, 2]))(VALUES, WEIGHTS.log())) == 0
    assert int(MMRL(torch.tensor([0]))(VALUES, WEIGHTS.log())) == 1


def test_width_of_the_upper_bound_decides() -> None:
    log_weights = WEIGHTS.log()
    assert [int(UCB(c)(VALUES, log_weights)) for c in (0.0, 2.0)] == [1, 0]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'thompson'"):
        make_selector("greedy")
    with pytest.raises(ConfigurationError, match="width"):
        make_selector("ucb", -1.0)
