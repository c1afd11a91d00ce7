"""The classical certificate of a guide."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from pyro.infer.autoguide import AutoIAFNormal, AutoNormal
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
    auto = AutoIAFNormal(GIBBS.pyro_model(1.0), hidden_dim=[3])
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


# -- the divergence of guides with sites of their own ----------------------------------


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


def normal_kl(mean: Tensor, covariance: Tensor) -> float:
    """Divergence from the prior of `model`, by the textbook."""
    trace = (covariance.trace() + mean @ mean) / 4
    log_det = torch.logdet(covariance) - 2 * math.log(4)
    return float(0.5 * (trace - 2 - log_det))


@pytest.mark.parametrize(
    "kind",
    [
        autoguide.AutoNormal,
        autoguide.AutoDiagonalNormal,
        autoguide.AutoMultivariateNormal,
        pytest.param(autoguide.AutoLowRankMultivariateNormal, marks=pytest.mark.slow),
    ],
)
def test_normal_guides_of_pyros_have_a_closed_form(double: None, kind: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        guide = kind(GIBBS.pyro_model(1.0))
        guide(X, Y)
        with torch.no_grad():
            for parameter in guide.parameters():
                parameter.add_(0.3 * torch.rand_like(parameter))
        found = certify_guide(GIBBS, guide, wrong, (X, Y), num_draws=400)
        draws = torch.stack([guide(X, Y)["w"].detach() for _ in range(4_000)])
    if kind is autoguide.AutoNormal:
        mean, covariance = guide.locs.w, guide.scales.w.square().diag()
    else:
        posterior = guide.get_posterior()
        mean = posterior.mean
        full = getattr(posterior, "covariance_matrix", None)
        covariance = posterior.variance.diag() if full is None else full
    expected = normal_kl(mean.detach(), covariance.detach())
    assert found.complexity == pytest.approx(expected, rel=1e-9)
    # the formula is that of the draws: four standard errors and more
    z = (draws.mean(0) - mean.detach()) / (
        covariance.diagonal().detach() / 4_000
    ).sqrt()
    assert z.abs().max() < 4.5


def auxiliary(name: str, fn: Any) -> Tensor:
    return pyro.sample(name, fn, infer={"is_auxiliary": True})


SHIFT = torch.tensor([[-1.5, 0.5], [0.2, 0.1], [1.0, -2.0]], dtype=DOUBLE)
SHARE = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)


def mixture(args: Any, targets: Any) -> None:
    k = auxiliary("k", dist.Categorical(SHARE))
    auxiliary("unused", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    pyro.sample("w", dist.Normal(SHIFT[k], SCALE).to_event(1))


def test_a_mixture_has_a_bound_of_its_divergence() -> None:
    found = certify_guide(GIBBS, mixture, wrong, (X, Y), num_draws=400)
    kls = [normal_kl(shift, SCALE.square().diag()) for shift in SHIFT]
    expected = float(SHARE @ torch.tensor(kls, dtype=DOUBLE))
    assert found.complexity == pytest.approx(expected, rel=1e-9)
    # by numerical integration the divergence itself is smaller, by at most log 3
    grid = torch.linspace(-5, 5, 401, dtype=DOUBLE)
    w = torch.cartesian_prod(grid, grid)
    parts = torch.distributions.Normal(SHIFT[:, None], SCALE).log_prob(w).sum(-1)
    log_q = (parts + SHARE.log()[:, None]).logsumexp(0)
    log_p = torch.distributions.Normal(0.0, 2.0).log_prob(w).sum(-1)
    exact = float((log_q.exp() * (log_q - log_p)).sum()) * float(grid[1] - grid[0]) ** 2
    assert exact < found.complexity < exact + math.log(3)


def peaked(loc: Tensor, width: float) -> Any:
    """A guide that hides how narrow it is behind an auxiliary site."""

    def guide(args: Any, targets: Any) -> None:
        k = auxiliary("k", dist.Categorical(torch.ones(len(loc))))
        pyro.sample("w", dist.Normal(loc[k], width).to_event(1))

    return guide


def test_the_divergence_of_a_mixture_does_not_hang_on_the_first_draw() -> None:
    loc = torch.tensor([[0.0, 0.0], [30.0, -30.0]], dtype=DOUBLE)
    values = {
        certify_guide(
            GIBBS, peaked(loc, 0.1), wrong, (X, Y), num_draws=9, seed=s
        ).complexity
        for s in range(4)
    }
    assert len(values) == 1
    parts = [normal_kl(one, 0.01 * torch.eye(2, dtype=DOUBLE)) for one in loc]
    assert values.pop() == pytest.approx(sum(parts) / 2, rel=1e-6)


def test_guides_without_a_density_certify_nothing() -> None:
    def point(args: Any, targets: Any) -> None:
        pyro.sample("w", dist.Delta(LOC).to_event(1))

    def by_name(args: Any, targets: Any) -> None:
        # named as in AutoNormal, but the map between the two is another one
        u = auxiliary("w_unconstrained", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("w", dist.Delta(1e-3 * u + LOC).to_event(1))

    def jumping(args: Any, targets: Any) -> None:
        u = auxiliary("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("w", dist.Normal(100 * u, SCALE).to_event(1))

    for guide, site in ((point, "'w'"), (by_name, "'w'"), (jumping, "'u'")):
        with pytest.raises(ConfigurationError, match=site):
            certify_guide(GIBBS, guide, wrong, (X, Y), num_draws=5)
