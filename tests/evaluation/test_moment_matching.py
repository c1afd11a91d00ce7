"""Moment matching against densities whose moments are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_geo import Target
from pyro_geo.errors import (
    NonFiniteDataError,
    ShapeError,
    UnreliableWeightsWarning,
)
from pyro_geo.evaluation.loo import loo
from pyro_geo.evaluation.moment_matching import (
    Affine,
    LogDensity,
    Matched,
    match_moments,
    split_match,
)
from pyro_geo.results import MemoryDraws, PosteriorDraws

DRAWS = 4000


def standard(count: int = DRAWS, dim: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64)


def to_normal(loc: Tensor, covariance: Tensor) -> tuple[LogDensity, LogDensity]:
    """Both log-densities: N(0, I) sampled, N(loc, covariance) wanted."""
    wanted = dist.MultivariateNormal(loc, covariance)
    return (lambda q: -0.5 * q.square().sum(1)), wanted.log_prob


def check_moments(found: Matched, loc: Tensor, covariance: Tensor) -> None:
    weights = found.log_weights.exp()
    mean = weights @ found.q
    spread = (weights[:, None] * (found.q - mean)).mT @ (found.q - mean)
    sd = covariance.diagonal().sqrt()
    assert float(((mean - loc) / sd).abs().max()) < 4 / math.sqrt(found.ess)
    scale = sd[:, None] * sd
    # the variance of a product of two standard normal numbers is at most 2
    bound = 4 * math.sqrt(2 / found.ess)
    assert float(((spread - covariance) / scale).abs().max()) < bound


CASES = {
    "mean": (torch.full((3,), 2.5), torch.eye(3)),
    "variances": (torch.ones(3), torch.diag(torch.tensor([9.0, 1.0, 0.25]))),
    "covariance": (
        torch.zeros(3),
        torch.tensor([[6.0, 5.0, 0.0], [5.0, 6.0, 0.0], [0.0, 0.0, 1.0]]),
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_every_map_reaches_its_normal(kind: str) -> None:
    loc, covariance = (x.double() for x in CASES[kind])
    terms = to_normal(loc, covariance)
    raw = match_moments(standard(), *terms, max_steps=0)
    found = match_moments(standard(), *terms)
    assert raw.khat > 0.7 > found.khat
    assert kind in found.steps
    assert found.ess > 2 * raw.ess
    check_moments(found, loc, covariance)
    torch.testing.assert_close(found.map(standard()), found.q)
    torch.testing.assert_close(found.map.inverse(found.q), standard())


def test_a_far_density_is_reached_through_powers() -> None:
    loc = torch.tensor([25.0, -10.0, 0.0], dtype=torch.float64)
    covariance = torch.diag(torch.tensor([9.0, 0.04, 1.0], dtype=torch.float64))
    terms = to_normal(loc, covariance)
    found = match_moments(standard(), *terms)
    assert found.khat < 0.7
    check_moments(found, loc, covariance)
    # weights for it rest on one draw, so that one map alone does not get there
    assert match_moments(standard(), *terms, max_steps=1).khat > 0.7


def test_light_tails_are_left_alone() -> None:
    found = match_moments(
        standard(), *to_normal(torch.full((3,), 0.1).double(), torch.eye(3).double())
    )
    assert found.steps == ()
    assert torch.equal(found.q, standard())


def test_maps_compose_with_their_volume() -> None:
    generator = torch.Generator().manual_seed(1)
    one, two = (
        Affine(
            *torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)[i].split(
                [3, 1]
            )
        )
        for i in range(2)
    )
    one, two = (m._replace(shift=m.shift[0]) for m in (one, two))
    q = standard(5)
    both = one.then(two)
    torch.testing.assert_close(both(q), two(one(q)))
    torch.testing.assert_close(both.log_det, one.log_det + two.log_det)


def test_half_of_the_draws_make_means_of_both_densities() -> None:
    loc, covariance = torch.full((3,), 2.0).double(), torch.eye(3).double()
    terms = to_normal(loc, covariance)
    found = match_moments(standard(), *terms)
    q = standard()
    at_draws = terms[0](q), terms[1](q)
    half, ratio = split_match(q, terms[0], found, at_draws)
    check_moments(half, loc, covariance)
    # E_wanted[1 / ratio] is the ratio of the normalisers: log (2 pi)^(3/2)
    normaliser = float((half.log_weights - ratio).logsumexp(0))
    assert abs(normaliser - 1.5 * math.log(2 * math.pi)) < 0.1
    # the twin: without the draws that stayed, the estimate is far off
    moved = float(
        (found.log_weights - (terms[1](found.q) - terms[0](found.q))).logsumexp(0)
    )
    assert abs(moved - 1.5 * math.log(2 * math.pi)) > 0.2


def test_positions_must_be_a_table() -> None:
    with pytest.raises(ShapeError):
        match_moments(torch.zeros(3), *to_normal(torch.zeros(3), torch.eye(3)))


# -- leave-one-out ------------------------------------------------------------------


def mean_model(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=y.dtype), 10.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def slopes(x: Tensor, y: Tensor) -> None:
    zero = torch.zeros(x.shape[1], dtype=x.dtype)
    w = pyro.sample("w", dist.Normal(zero, 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def regression() -> tuple[PosteriorDraws, Tensor]:
    """Draws of an exact posterior, and the exact elpd of each row."""
    x = standard(30, 3)
    y = x.sum(1) + 0.5 * standard(30, 1)[:, 0]
    x[0] *= 8
    y[0] = x[0].sum() + 1.5
    target = Target.from_model(slopes, x, y, dtype=torch.float64)

    def posterior(rows: Tensor) -> tuple[Tensor, Tensor]:
        precision = torch.eye(3).double() + x[rows].mT @ x[rows] / 0.25
        return torch.linalg.solve(precision, x[rows].mT @ y[rows] / 0.25), precision

    loc, precision = posterior(torch.arange(30))
    root = torch.linalg.cholesky(torch.linalg.inv(precision))
    q = loc + standard() @ root.mT
    exact = []
    for i in range(30):
        loc, precision = posterior(torch.tensor([j for j in range(30) if j != i]))
        variance = 0.25 + x[i] @ torch.linalg.solve(precision, x[i])
        exact.append(dist.Normal(x[i] @ loc, variance.sqrt()).log_prob(y[i]))
    fit = PosteriorDraws(target, MemoryDraws(target, q.unflatten(0, (4, -1))))
    return fit, torch.stack(exact)


def test_moments_make_an_outlier_exact() -> None:
    fit, exact = regression()
    with pytest.warns(UnreliableWeightsWarning, match="moment_match=True"):
        raw = loo(fit)
    found = loo(fit, moment_match=True)
    assert raw.bad.index.tolist() == [("y", (0,))]
    assert len(found.bad) == 0
    row = found.table.iloc[0]
    assert row["steps"]
    assert row["khat_before"] == raw.table["khat"].iloc[0]
    off = torch.tensor(found.table["elpd"].to_numpy()) - exact
    assert float(off.abs().max()) < 0.1
    assert abs(raw.table["elpd"].iloc[0] - float(exact[0])) > 0.3
    assert abs(found.elpd - float(exact.sum())) < 0.2


def test_leave_one_out_is_that_of_arviz_where_tails_are_light() -> None:
    from pyro_geo.evaluation.loo import loo_table

    y = standard(12, 1)[:, 0]
    target = Target.from_model(mean_model, y, dtype=torch.float64)
    q = y.mean() + standard(1000, 1) / math.sqrt(12)
    fit = PosteriorDraws(target, MemoryDraws(target, q.unflatten(0, (4, -1))))
    table = loo_table(fit.to_arviz()).loc["y"]
    found = loo(fit, moment_match=True)
    assert found.elpd == pytest.approx(table["elpd"], abs=1e-6)
    assert found.se == pytest.approx(table["se"], abs=1e-6)
    assert found.p_loo == pytest.approx(table["p_loo"], abs=1e-6)


def test_an_impossible_datum_is_named() -> None:
    def model(y: Tensor) -> None:
        top = pyro.sample("top", dist.Exponential(torch.ones((), dtype=y.dtype)))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Uniform(0, 1 + top), obs=y)

    y = torch.tensor([0.5, 1.5], dtype=torch.float64)
    target = Target.from_model(model, y, dtype=torch.float64)
    q = torch.ones(1, 50, 1, dtype=torch.float64)
    q[0, 3] = -5.0
    with pytest.raises(NonFiniteDataError, match=r"place \(1,\)"):
        loo(PosteriorDraws(target, MemoryDraws(target, q)))
