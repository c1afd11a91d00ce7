"""The classical certificate of a guide."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor

from pyro_geo.errors import ConfigurationError, LossRangeError, UnsupportedError
from pyro_geo.infer import GibbsModel
from pyro_geo.infer.certificates import bounds, certify_guide

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


X = random(150, 2)
Y = (X @ torch.tensor([2.0, -1.0], dtype=DOUBLE) + random(150, seed=1)).sign()
LOC = torch.tensor([1.5, -0.8], dtype=DOUBLE)
SCALE = torch.tensor([0.3, 0.4], dtype=DOUBLE)


def model(x: Tensor) -> Tensor:
    w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=x.dtype), 2.0).to_event(1))
    return x @ w


def wrong(f: Tensor, y: Tensor) -> Tensor:
    return (f * y <= 0).to(f)


def guide(args: Any, targets: Any) -> None:
    pyro.sample("w", dist.Normal(LOC, SCALE).to_event(1))


GIBBS = GibbsModel(model, lambda f, y: torch.nn.functional.softplus(-f * y))


def test_divergence_and_bound_by_hand() -> None:
    state = torch.get_rng_state()
    found = certify_guide(GIBBS, guide, wrong, (X, Y), num_draws=400, seed=2)
    assert torch.equal(state, torch.get_rng_state())
    ratio = (SCALE / 2).square()
    kl = 0.5 * (ratio + (LOC / 2).square() - 1 - ratio.log()).sum()
    assert found.complexity == pytest.approx(float(kl), rel=1e-12)
    inner = bounds.kl_inverse(found.empirical_risk, math.log(2 / 0.005) / 400)
    expected = bounds.seeger(inner, kl, 150, 0.045)
    assert found.value == pytest.approx(float(expected), rel=1e-12)
    # the mean risk of the guide, by many draws of its own
    draws = LOC + SCALE * random(20_000, 2, seed=5)
    mean = float((draws @ X.mT * Y <= 0).double().mean())
    assert found.empirical_risk == pytest.approx(mean, abs=0.01)
    assert found.status == "finite_sample"


def test_an_autoguide_on_real_sites() -> None:
    auto = AutoNormal(GIBBS.pyro_model(1.0), init_scale=0.2)
    with torch.random.fork_rng():
        auto((X,), (Y,))
    found = certify_guide(GIBBS, auto, wrong, (X, Y), num_draws=20)
    locs, scales = auto.locs.w.double(), auto.scales.w.double()
    prior = torch.distributions.Normal(0.0, 2.0)
    normal = torch.distributions.Normal(locs, scales)
    kl = torch.distributions.kl_divergence(normal, prior).sum().detach()
    assert found.complexity == pytest.approx(float(kl), rel=1e-6)


def test_guides_without_a_closed_form_are_refused_with_advice() -> None:
    auto = AutoMultivariateNormal(GIBBS.pyro_model(1.0))
    with torch.random.fork_rng():
        auto((X,), (Y,))
    with pytest.raises(UnsupportedError, match="GibbsPosterior"):
        certify_guide(GIBBS, auto, wrong, (X, Y), num_draws=2)

    def two(x: Tensor) -> Tensor:
        a = pyro.sample("a", dist.Normal(torch.zeros(()).to(x), 1.0))
        b = pyro.sample("b", dist.Normal(a, 1.0))
        return x[:, 0] * b

    def independent(args: Any, targets: Any) -> None:
        pyro.sample("a", dist.Normal(torch.zeros(()).to(X), 0.5))
        pyro.sample("b", dist.Normal(torch.zeros(()).to(X), 0.5))

    hierarchical = GibbsModel(two, GIBBS.loss)
    with pytest.raises(UnsupportedError, match="depend"):
        certify_guide(hierarchical, independent, wrong, (X, Y), num_draws=3)


def test_bad_input() -> None:
    with pytest.raises(ConfigurationError, match="num_draws"):
        certify_guide(GIBBS, guide, wrong, (X, Y), num_draws=0)
    with pytest.raises(LossRangeError):
        certify_guide(GIBBS, guide, GIBBS.loss, (X, Y), num_draws=5)
