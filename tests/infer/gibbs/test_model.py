"""A Pyro model with a loss, as a density and as a Pyro model."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_geo.errors import (
    BetaRangeError,
    DiscreteSiteError,
    PriorError,
    ShapeError,
)
from pyro_geo.infer.gibbs.model import GibbsModel

X = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.7, -1.1]], dtype=torch.float64)
Y = torch.tensor([0.2, -1.0, 0.5], dtype=torch.float64)


def linear(x: Tensor, y: Tensor | None = None) -> Tensor:
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]), 2.0).to_event(1))
    mean = pyro.deterministic("mean", x @ w)
    if y is not None:
        pyro.sample("y", dist.Normal(mean, 0.1).to_event(1), obs=y)
    return mean


def squared(prediction: Tensor, y: Tensor) -> Tensor:
    return (prediction - y) ** 2


def make(args: Any = (X,), beta: float = 1.0) -> tuple[GibbsModel, Any]:
    model = GibbsModel(linear, squared)
    return model, model.target(args, Y, beta=beta, dtype=torch.float64)


def test_density_by_hand() -> None:
    model, target = make(beta=0.7)
    q = torch.tensor([[0.3, -0.2], [1.0, 2.0]], dtype=torch.float64)
    loss = ((q @ X.mT - Y) ** 2).sum(1)
    prior = torch.distributions.Normal(0.0, 2.0).log_prob(q).sum(1)
    torch.testing.assert_close(target.log_prior(q), prior)
    torch.testing.assert_close(target.log_likelihood(q), -0.7 * loss)
    torch.testing.assert_close(model.losses(target, q).sum(1), loss)
    cold = target.tempered(0.0)
    assert cold.log_likelihood(q).abs().max() == 0


def test_observed_sites_are_left_out() -> None:
    _, plain = make()
    _, observed = make((X, Y))
    q = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    assert torch.equal(plain.log_prob(q), observed.log_prob(q))
    assert list(observed.layout.sites) == ["w"]
    torch.testing.assert_close(observed.deterministics(q)["mean"], q @ X.mT)


def test_pyro_model_has_the_same_density() -> None:
    model, target = make(beta=0.7)
    w = torch.tensor([0.3, -0.2], dtype=torch.float64)
    conditioned = poutine.condition(model.pyro_model(0.7), {"w": w})
    trace = poutine.trace(conditioned).get_trace(X, Y)
    torch.testing.assert_close(trace.log_prob_sum(), target.log_prob(w[None])[0])


def test_another_temperature_shares_the_compiled_step() -> None:
    model, target = make()
    q = torch.zeros(2, 2, dtype=torch.float64)
    target.value_and_grad(q)
    before = target.build_seconds
    target.tempered(0.25).value_and_grad(q)
    assert target.build_seconds == before


def test_prior_draws_come_from_the_prior() -> None:
    model, target = make()
    state = torch.get_rng_state()
    q = model.prior_draws(target, 4_000, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(q, model.prior_draws(target, 4_000, seed=3))
    assert not torch.equal(q, model.prior_draws(target, 4_000, seed=4))
    z = q.mean(0) / (2 / 4_000**0.5)
    assert z.abs().max() < 4.1  # false alarms: 1 in 10,000
    # 8,000 squares of standard normals
    chi = ((q / 2).square().sum() - q.numel()) / (2 * q.numel()) ** 0.5
    assert abs(float(chi)) < 4.1


def refused(site: str) -> Any:
    def model(x: Tensor) -> Tensor:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        if site == "factor":
            pyro.factor("extra", w.sum())
        elif site == "improper":
            real = dist.constraints.real
            pyro.sample("a", dist.ImproperUniform(real, torch.Size(), torch.Size()))
        elif site == "scale":
            with poutine.scale(scale=0.5):
                pyro.sample("a", dist.Normal(0.0, 1.0))
        elif site == "mask":
            with poutine.mask(mask=False):
                pyro.sample("a", dist.Normal(0.0, 1.0))
        elif site == "discrete":
            pyro.sample("a", dist.Bernoulli(0.5))
        return x @ w

    return model


@pytest.mark.parametrize("site", ["factor", "improper", "scale", "mask"])
def test_priors_that_certify_nothing(site: str) -> None:
    with pytest.raises(PriorError, match="extra|'a'"):
        GibbsModel(refused(site), squared).target(X, Y, dtype=torch.float64)


def test_discrete_site() -> None:
    with pytest.raises(DiscreteSiteError, match="'a'"):
        GibbsModel(refused("discrete"), squared).target(X, Y, dtype=torch.float64)


def test_reduced_loss() -> None:
    model = GibbsModel(linear, lambda f, y: squared(f, y).mean())
    with pytest.raises(ShapeError, match="loss"):
        model.target(X, Y, dtype=torch.float64)


def test_arguments_and_targets_of_different_lengths() -> None:
    model = GibbsModel(linear, squared)
    with pytest.raises(ShapeError, match=r"\(3,\), \(2,\)"):
        model.target(X, Y[:2], dtype=torch.float64)
    broadcast = GibbsModel(lambda x: linear(x)[:1], lambda f, y: f * y.sum())
    with pytest.raises(ShapeError, match=r"\(1,\), expected \(3,\)"):
        broadcast.target(X, Y, dtype=torch.float64)


@pytest.mark.parametrize("beta", [-0.1, float("nan"), float("inf")])
def test_temperature_out_of_range(beta: float) -> None:
    with pytest.raises(BetaRangeError, match="beta"):
        GibbsModel(linear, squared).pyro_model(beta)
