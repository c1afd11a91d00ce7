"""CVaR against closed forms and against its definition as a minimum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from pyro_geo.errors import ConfigurationError
from pyro_geo.planning.mpc import CVaR

COUNT = 200_000
MIDPOINTS = (np.arange(COUNT) + 0.5) / COUNT  # quantiles stand for the whole law


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99])
def test_cvar_of_known_laws(beta):
    z = stats.norm.ppf(beta) if beta else -math.inf
    closed = {
        "normal": (stats.norm(2, 3), 2 + 3 * stats.norm.pdf(z) / (1 - beta)),
        "exponential": (stats.expon(scale=0.5), 0.5 * (1 - math.log(1 - beta))),
        "uniform": (stats.uniform(), (1 + beta) / 2),
    }
    for name, (law, expected) in closed.items():
        found = float(CVaR(beta)(torch.from_numpy(law.ppf(MIDPOINTS))))
        # the midpoint rule misses a part of the tail beyond the last quantile
        assert found == pytest.approx(expected, abs=3e-3 if beta == 0.99 else 5e-4), (
            name
        )


@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=12),
    st.floats(0.0, 0.98),
)
def test_cvar_is_the_minimum_of_rockafellar_and_uryasev(values, beta):
    costs = torch.tensor(values, dtype=torch.float64)

    def upper(c):
        return float(c + (costs - c).clamp_min(0).mean() / (1 - beta))

    # a convex function with corners at the costs: its minimum is at one of them
    expected = min(upper(c) for c in values)
    assert float(CVaR(beta)(costs)) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    wide = optimize.minimize_scalar(upper, bounds=(-101, 101), method="bounded")
    assert float(CVaR(beta)(costs)) <= wide.fun + 1e-6


def test_cvar_lies_between_the_mean_and_the_worst():
    costs = torch.tensor([[1.0, 4.0, 2.0, 3.0], [0.0, 0.0, 0.0, 8.0]])
    torch.testing.assert_close(CVaR(0.0)(costs), costs.mean(-1))
    torch.testing.assert_close(CVaR(0.75)(costs), costs.amax(-1))
    torch.testing.assert_close(CVaR(0.99)(costs), costs.amax(-1))
    # three eighths are one draw and a half
    torch.testing.assert_close(CVaR(0.625)(costs)[0], torch.tensor((4 + 0.5 * 3) / 1.5))


def test_a_lost_draw_outside_the_share_still_loses_the_candidate():
    costs = torch.tensor([1.0, math.nan, 2.0])
    assert not bool(CVaR(0.9)(costs).isfinite())


@pytest.mark.parametrize("beta", [-0.1, 1.0, math.nan])
def test_levels_out_of_range_are_refused(beta):
    with pytest.raises(ConfigurationError, match="beta"):
        CVaR(beta)
