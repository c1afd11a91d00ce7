"""Leverage and predicted tails, against closed forms and the tails that come."""

from typing import Any

import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal
from torch import Tensor

from pyro_geo import Target
from pyro_geo.errors import ConfigurationError, LeverageError
from pyro_geo.ops.weights import khat
from pyro_geo.unlearning.tails import Leverage, leverage, predict_khat
from tests.unlearning.exact import (
    data,
    fit_of,
    linear,
    linear_fit,
    posterior,
)
from tests.unlearning.exact import leverage as exact_leverage


def influential(size: float) -> tuple[Tensor, Tensor]:
    x, y = data()
    x[0] = torch.tensor([size, 0.0, 0.0], dtype=x.dtype)
    y[0] = posterior(x[1:], y[1:]).loc @ x[0] + 0.4  # near what the others say
    return x, y


@pytest.mark.parametrize("size", [2.0, 8.0, 16.0])
def test_leverage_is_the_share_of_the_precision(size: float) -> None:
    x, y = influential(size)
    fit = linear_fit(x, y, draws=20_000)
    found = leverage(fit, [0])
    # the precision of draws is known to a few parts in a thousand
    assert found.leverage == pytest.approx(exact_leverage(x, y, [0]), abs=0.02)
    assert found.num_data == 1
    assert predict_khat(fit, [0]) == found.leverage


def test_guides_have_a_leverage_too() -> None:
    x, y = data()
    q = posterior(x, y)
    guide: Any = AutoDiagonalNormal(linear)
    guide(x, y)
    guide.double()
    with torch.no_grad():
        guide.loc.copy_(q.loc)
        guide.scale = q.precision.diagonal().rsqrt()
    target = Target.from_model(linear, x, y, dtype=torch.float64)
    found = leverage(guide, [0, 1], target=target)
    root = q.precision.diagonal().rsqrt()
    part = root[:, None] * (x[:2].mT @ x[:2] / 0.25) * root
    assert found.leverage == pytest.approx(float(torch.linalg.eigvalsh(part)[-1]))
    with pytest.raises(ConfigurationError, match="density of the model"):
        leverage(guide, [0, 1])


@pytest.mark.parametrize("size", [4.0, 8.0, 14.0])
def test_the_tail_that_comes_is_the_one_predicted(size: float) -> None:
    x, y = influential(size)
    fit = linear_fit(x, y, draws=4000)
    each = fit.target.pointwise_log_likelihood(fit.positions.flatten(0, 1))["y"]
    # the shape of 4000 weights has a standard deviation of about .04
    predicted = leverage(fit, [0]).khat(4000)
    assert predicted == pytest.approx(khat(-each[:, 0]), abs=0.16)


@pytest.mark.slow
@pytest.mark.parametrize("size", [3.0, 6.0, 10.0])
def test_the_law_of_the_tail(size: float) -> None:
    """The shape is the leverage, within .09 at 60 000 draws."""
    x, y = influential(size)
    y[0] -= 0.4  # no pull, so that the tail begins early
    h = exact_leverage(x, y, [0])
    target = Target.from_model(linear, x, y, dtype=torch.float64)
    shapes = []
    for seed in range(4):
        q = posterior(x, y).draws(60_000, seed)
        each = fit_of(target, q).target.pointwise_log_likelihood(q)["y"]
        shapes.append(khat(-each[:, 0]))
    assert sum(shapes) / 4 == pytest.approx(h, abs=0.09)


def test_more_than_all_is_refused() -> None:
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(LeverageError, match=r"leverage 1\.2"):
        Leverage(1.2, 1.2 * one, one, 1).check()
    with pytest.raises(LeverageError, match="nan"):
        Leverage(float("nan"), one, one, 1).check()
    Leverage(0.9, 0.9 * one, one, 1).check()
