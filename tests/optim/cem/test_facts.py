"""What theory says of a search, and what was published."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_geo.errors import EliteCollapseWarning
from pyro_geo.optim.cem import CEM, DecentCEM, truncated_normal

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore::pyro_geo.errors.EliteCollapseWarning"),
]

LOWEST = -1.8995993491521487  # of sin x + sin(10 x / 3), at 5.1457353


def wave(x: Tensor) -> Tensor:
    return (x.sin() + (10 / 3 * x).sin()).sum(-1)


def reach(rho: float, alpha: float, trunc: float) -> float:
    """Distance that an infinite population travels down a slope, in first spreads."""
    normal = stats.norm
    mass = normal.cdf(trunc) - normal.cdf(-trunc)
    t = normal.ppf(normal.cdf(-trunc) + rho * mass)
    edge = 0.0 if math.isinf(trunc) else trunc * normal.pdf(trunc)
    shift = (normal.pdf(trunc) - normal.pdf(t)) / (rho * mass)
    ratio = 1.0 + (-edge - t * normal.pdf(t)) / (rho * mass) - shift**2
    kept = math.sqrt(alpha + (1.0 - alpha) * ratio)
    return float((1.0 - alpha) * abs(shift) / (1.0 - kept))


def travelled(trunc: float, elite_frac: float, alpha: float) -> Tensor:
    search = CEM(
        pop_size=4000,
        elite_frac=elite_frac,
        alpha=alpha,
        trunc=trunc,
        min_var=1e-14,
        max_iters=80,
    )
    zero = torch.zeros(1)
    found = search.minimize(lambda x: x.sum(-1), mean=zero, std=1.0, batch_shape=(20,))
    return -found.means.flatten()


@pytest.mark.parametrize(
    ("trunc", "elite_frac", "alpha", "known"),
    [(2.0, 0.1, 0.1, 2.192), (math.inf, 0.1, 0.1, 3.173), (2.0, 0.2, 0.3, None)],
)
def test_a_search_cannot_leave_a_ball(trunc, elite_frac, alpha, known):
    limit = reach(elite_frac, alpha, trunc)
    ours = CEM(elite_frac=elite_frac, alpha=alpha, trunc=trunc).reach
    assert ours == pytest.approx(limit, abs=1e-8)
    if known is not None:
        assert limit == pytest.approx(known, abs=1e-3)
    way = travelled(trunc, elite_frac, alpha)
    # 4.5 standard errors, and a population of 4000 in place of infinity: its quantile
    # has a bias of the order of 1 / elites
    error = 4.5 * float(way.std()) / len(way) ** 0.5 + limit / (elite_frac * 4000)
    assert float(way.mean()) == pytest.approx(limit, abs=error)


def success(found: Tensor) -> float:
    return float((wave(found) < LOWEST + 0.01).any(-1).double().mean())


@pytest.mark.parametrize(
    ("num_instances", "known"), [(1, 0.3433), (5, 0.878), (10, 0.985)]
)
def test_chance_of_the_lowest_basin(num_instances, known):
    runs = 4000
    search = DecentCEM(
        num_instances, pop_size=20 * num_instances, layout="uniform", restart=False
    )
    generator = torch.Generator().manual_seed(num_instances)
    means = torch.empty(runs, num_instances, 1)
    means = 3.7499 * truncated_normal(means, 2.0, generator)
    found = search.minimize(
        wave,
        lower=torch.tensor([-7.5]),
        upper=7.5,
        mean=means,
        batch_shape=(runs,),
        generator=generator,
    )
    # 4 standard errors of ours, and the rounding of what is known
    error = 4 * math.sqrt(known * (1 - known) / runs) + 1e-3
    assert success(found.means) == pytest.approx(known, abs=error)


def test_splitting_helps_where_basins_mislead_and_populations_make_it_worse():
    box = {"lower": torch.tensor([-7.5]), "upper": 7.5, "batch_shape": (500,)}
    single = [CEM(pop_size=n).minimize(wave, **box) for n in (100, 1000)]
    split = DecentCEM(10, pop_size=1000, layout="uniform", restart=False)
    many = split.minimize(wave, **box)
    # published: a large population ends in the second-best basin, at -1.728
    assert success(single[0].means) > success(single[1].means)
    assert success(single[1].means) < 0.02
    middle = wave(single[1].means).median()
    assert float(middle) == pytest.approx(-1.7283, abs=1e-3)
    assert success(many.means) > 0.93
    # the best candidate is a better answer than a centre
    assert float((many.fun < LOWEST + 0.01).double().mean()) > 0.99


def test_selecting_all_contracts_by_the_variance_of_the_noise_alone():
    def spread(**options):
        search = CEM(
            pop_size=20_000,
            elite_frac=1.0,
            alpha=0.0,
            min_var=0.0,
            max_iters=6,
            **options,
        )
        found = search.minimize(lambda x: x.sum(-1), mean=torch.zeros(1), std=1.0)
        return float(found.stds)

    # the variance of six samples multiplied, each with a relative error of 1/sqrt(n)
    error = 4.5 * math.sqrt(6 / 20_000)
    assert spread() == pytest.approx(0.7737**3, rel=error)
    assert spread(variance_correction=True) == pytest.approx(1.0, rel=error)


def test_one_elite_loses_its_spread_by_alpha_at_every_step():
    with pytest.warns(EliteCollapseWarning, match="one elite"):
        search = CEM(pop_size=10, alpha=0.1, min_var=0.0, max_iters=5)
    found = search.minimize(lambda x: x.sum(-1), mean=torch.zeros(2), std=1.0)
    expected = torch.full((1, 2), math.sqrt(0.1**5))
    torch.testing.assert_close(found.stds, expected, rtol=1e-12, atol=0)
