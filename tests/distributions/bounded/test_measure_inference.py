"""Bounded priors of all families in models: the ladder, samplers, guides, Pyro."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions
import pyro.optim
import pytest
import torch
from pyro.infer import MCMC as PyroMCMC
from pyro.infer import NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from scipy import stats
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_geo import Target
from pyro_geo.distributions import (
    BoundedMeasure,
    BoundedMultivariateStudentT,
    BoundedStudentT,
)
from pyro_geo.infer import HMC, MCMC

dist: Any = pyro.distributions
PRIORS: dict[str, Callable[[], Any]] = {
    "student": lambda: BoundedStudentT(3.0, 1.0, 1.0, mass=0.9),
    "student base": lambda: BoundedMeasure(dist.StudentT(3.0, 1.0, 1.0), radius=2.0),
    "laplace": lambda: BoundedMeasure(dist.Laplace(1.0, 1.0), nats=3.0, kappa=1.0),
    "gamma": lambda: BoundedMeasure(dist.Gamma(2.0, 1.0), mass=0.9),
    "beta": lambda: BoundedMeasure(dist.Beta(2.0, 3.0), mass=0.9, kappa=1.0),
    "inverse gamma": lambda: BoundedMeasure(dist.InverseGamma(3.0, 2.0), mass=0.9),
    "log-normal": lambda: BoundedMeasure(dist.LogNormal(0.0, 0.5), nats=2.0),
    "exponential": lambda: BoundedMeasure(dist.Exponential(1.0), mass=0.9, kappa=2.0),
}
SLOW = pytest.mark.slow
FAST = ("student", "laplace")
NAMES = [x if x in FAST else pytest.param(x, marks=SLOW) for x in PRIORS]


@pytest.mark.parametrize("name", NAMES)
def test_density_under_trace_map_and_gradient(name: str) -> None:
    fn = PRIORS[name]()
    x = fn.icdf(torch.tensor([0.2, 0.4, 0.9]))

    def log_prob(x: Tensor) -> Tensor:
        return PRIORS[name]().log_prob(x)

    expected = fn.log_prob(x)
    mapped = torch.func.vmap(torch.func.grad_and_value(log_prob))
    with pyro.validation_enabled(False):
        graph = make_fx(mapped)(x)
    grad, value = graph(x)
    torch.testing.assert_close(value, expected)
    step = 1e-2
    slope = (fn.log_prob(x + step) - fn.log_prob(x - step)) / (2 * step)
    torch.testing.assert_close(grad, slope, rtol=0.02, atol=0.02)
    far = fn.support.upper_bound + 1
    assert graph(far.expand(3))[1].tolist() == [-math.inf] * 3


@pytest.mark.parametrize("name", NAMES)
def test_prior_of_a_model_is_sampled(name: str) -> None:
    def model() -> None:
        with pyro.plate("entries", 3):
            pyro.sample("x", PRIORS[name]())

    fit = MCMC(HMC(model), 40, 60, 16, seed=3, progress_bar=False, compile=False)
    draws = fit.run().get_samples()["x"]
    fn = PRIORS[name]()
    assert fn.support.check(draws).all()
    share = fn.cdf(draws[:, 0])[::3]
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-3
    assert fit.notes == ["No site is observed: these are draws of the prior."]


@pytest.mark.slow
def test_independent_boxes_and_vectors_in_one_model() -> None:
    def model(y: Tensor) -> None:
        box = BoundedMeasure(dist.Normal(torch.zeros(2), 1.0).to_event(1), mass=0.9)
        shift = pyro.sample("shift", box)
        scale = pyro.sample("scale", BoundedMeasure(dist.HalfCauchy(1.0), mass=0.9))
        ball = BoundedMultivariateStudentT(2.0, torch.zeros(2), torch.eye(2), mass=0.9)
        weight = pyro.sample("weight", ball)
        with pyro.plate("data", len(y)):
            mean = (shift + weight).sum()
            pyro.sample("y", dist.Normal(mean, scale), obs=y)

    y = torch.tensor([0.4, 1.3, 0.1])
    target = Target.from_model(model, y, compile=False)
    q = 0.3 * torch.randn(3, target.dim)
    value, grad = target.value_and_grad(q)
    assert (target.rung, value.shape) == ("traced", (3,))
    assert grad.isfinite().all()
    values = target.constrain(q)
    torch.testing.assert_close(target.unconstrain(values), q, rtol=1e-3, atol=1e-3)
    assert values["weight"].norm(dim=-1).max() < 4.4


def learned(y: Tensor) -> None:
    rate = pyro.sample("rate", BoundedMeasure(dist.Gamma(2.0, 1.0), mass=0.95))
    shift = pyro.sample("shift", BoundedMeasure(dist.Laplace(0.0, 1.0), nats=3.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(shift, rate), obs=y)


def test_pyros_nuts_and_guides_work() -> None:
    y = 0.5 + 1.5 * torch.randn(30, generator=torch.Generator().manual_seed(0))
    run = PyroMCMC(NUTS(learned), 8, 8, disable_progbar=True)
    run.run(y)
    assert all(x.isfinite().all() for x in run.get_samples().values())
    adam: Any = pyro.optim
    for guide in (AutoDelta(learned), AutoNormal(learned)):
        pyro.clear_param_store()
        svi = SVI(learned, guide, adam.Adam({"lr": 0.05}), Trace_ELBO())
        losses: Any = [svi.step(y) for _ in range(25)]
        assert math.isfinite(sum(losses))
        assert losses[-1] < losses[0]
        assert 0.2 < float(guide.median()["rate"]) < 4.8
