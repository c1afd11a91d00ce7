"""Starts in the mode of the majority, for any regression in Pyro."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions
import pytest
import torch
from pyro.infer import MCMC as PyroMCMC
from pyro.infer import NUTS
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pyro_geo import Target
from pyro_geo.distributions import BoundedLikelihood
from pyro_geo.errors import ConfigurationError, ModelError
from pyro_geo.infer import HMC, MCMC, RobustInit, robust_init

dist: Any = pyro.distributions
mask: Any = pyro.poutine.mask
SLOW = pytest.mark.slow


def leverage(seed: int, n: int = 100) -> tuple[Tensor, Tensor]:
    """A line of slope two, and fifteen percent of the data far off it together."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=generator)
    y = 1 + 2 * x + 0.3 * torch.randn(n, generator=generator)
    bad = n * 15 // 100
    x[:bad] = 6 + 0.1 * torch.randn(bad, generator=generator)
    y[:bad] = -10 + 0.3 * torch.randn(bad, generator=generator)
    return x, y


def regression(x: Tensor, y: Tensor, kind: str = "bounded") -> None:
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("data", len(y)):
        mean = a + b * x
        fn: Any = dist.StudentT(3.0, mean, scale)
        if kind == "bounded":
            wide = dist.Uniform(-50.0, 50.0)
            fn = BoundedLikelihood(dist.Normal(mean, scale), wide, 0.1)
        pyro.sample("y", fn, obs=y)


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("bounded", 0),
        pytest.param("bounded", 1, marks=SLOW),
        pytest.param("bounded", 2, marks=SLOW),
        pytest.param("student", 0, marks=SLOW),
        pytest.param("student", 1, marks=SLOW),
        pytest.param("student", 2, marks=SLOW),
    ],
)
def test_right_mode_under_leverage(seed: int, kind: str) -> None:
    x, y = leverage(seed)
    start = robust_init(regression, x, y, kind=kind, seed=seed)
    assert abs(float(start.values["b"]) - 2) < 0.2
    assert abs(float(start.values["a"]) - 1) < 0.2
    assert 0.15 < float(start.values["scale"]) < 0.5
    assert not start.inliers[:15].any()
    assert int(start.inliers.sum()) >= 80
    if kind == "bounded":  # the masked mode, where a plain fit starts, is far below
        target = Target.from_model(regression, x, y, kind=kind, compile=False)
        design = torch.stack((torch.ones_like(x), x), -1)
        a, b = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
        masked = {"a": a, "b": b, "scale": torch.tensor(2.5)}
        heights = [
            float(target.log_prob(target.unconstrain(values)[None]))
            for values in (start.values, masked)
        ]
        assert heights[0] - heights[1] > 60


@pytest.mark.slow
def test_start_serves_guides_kernels_and_runners(tmp_path: Any) -> None:
    x, y = leverage(0)
    start = robust_init(regression, x, y)
    guide = AutoNormal(regression, init_loc_fn=start)
    guide(x, y)
    assert abs(float(guide.median()["b"]) - float(start.values["b"])) < 1e-4
    kernel = NUTS(regression, init_strategy=start)
    run = PyroMCMC(kernel, 3, 3, disable_progbar=True)
    run.run(x, y)
    assert (run.get_samples()["b"] - 2).abs().max() < 0.5
    kernel = HMC(regression, init_strategy=start, step_size=0.01)
    fit = MCMC(kernel, 2, 2, 2, seed=1, store=tmp_path, progress_bar=False)
    assert (fit.run(x, y).get_samples()["b"] - 2).abs().max() < 0.5
    text = repr(start)
    assert "a, b, scale" in text
    assert "of 100" in text


@SLOW
def test_scales_masks_several_sites_and_vectors() -> None:
    generator = torch.Generator().manual_seed(4)
    n = 40
    x = torch.linspace(-1, 1, n)
    noise = torch.randn(n, generator=generator)
    size = torch.linspace(0.1, 1.0, n)
    y = 3 * x + 0.1 * size * noise
    pair = torch.stack((3 * x, -3 * x), -1)
    pair = pair + 0.1 * torch.randn(n, 2, generator=generator)
    positive = torch.exp(3 * x + 0.1 * noise)
    y[:5], pair[:5], positive[:5] = 30.0, 30.0, 1e6
    seen = torch.ones(n, dtype=torch.bool)
    seen[10:15] = False
    y[10:15] = -1e3

    def model(x: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(0.0, 10.0))
        scale = pyro.sample("scale", dist.HalfCauchy(1.0))
        with pyro.plate("data", n):
            with mask(mask=seen):
                pyro.sample("y", dist.Normal(b * x, scale * size), obs=y)
            vector = dist.Normal(torch.stack((b * x, -b * x), -1), scale)
            pyro.sample("pair", vector.to_event(1), obs=pair)
            pyro.sample("positive", dist.LogNormal(b * x, scale), obs=positive)

    start = robust_init(model, x)
    assert abs(float(start.values["b"]) - 3) < 0.2
    assert not start.inliers[:5].any()
    assert start.inliers.shape == (n,)

    def hidden(x: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(0.0, 10.0))
        with pyro.plate("data", n), mask(mask=seen):
            pyro.sample("y", dist.Normal(b * x, size), obs=y)

    start = robust_init(hidden, x)
    assert abs(float(start.values["b"]) - 3) < 0.5
    assert not start.inliers[10:15].any()


@SLOW
def test_a_score_of_ones_own() -> None:
    x, y = leverage(1, 40)
    target = Target.from_model(regression, x, y, compile=False)
    first, again = (robust_init(target, num_subsets=5) for _ in range(2))
    assert all(torch.equal(first.values[k], again.values[k]) for k in first.values)
    assert (first.scores.diff() >= 0).all()
    assert len(first.scores) == 5
    seen: list[torch.Size] = []

    def mean_of_squares(residuals: Tensor) -> Tensor:
        seen.append(residuals.shape)
        return (residuals**2).mean((-2, -1))

    state = torch.random.get_rng_state()
    worse = robust_init(target, score=mean_of_squares, num_subsets=5)
    assert seen == [torch.Size([5, 1, 40])]
    assert isinstance(worse, RobustInit)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bad_arguments_and_models_are_refused() -> None:
    x, y = leverage(0, 20)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"num_subsets": 0}, "num_subsets"),
        ({"subset_size": 0}, "subset_size"),
        ({"subset_size": 21}, "at most 20"),
        ({"score": "best"}, "score"),
        ({"score": 3}, "score"),
    ]
    for options, name in bad:
        with pytest.raises(ConfigurationError, match=name):
            robust_init(regression, x, y, **options)

    def coins(y: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    with pytest.raises(ModelError, match="no regression"):
        robust_init(coins, torch.ones(4))

    def no_plate(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mean, torch.ones(4)).to_event(1), obs=y)

    with pytest.raises(ModelError, match="in a plate"):
        robust_init(no_plate, torch.ones(4))
    with pytest.raises(ModelError, match="no Pyro model"):
        robust_init(Target.from_potential(lambda q: (q * q).sum(), 2))
