"""One block of trajectories: lanes do not see each other or their own place."""

from typing import Any

import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.trajectories import run_trajectories
from tests.cases import numbers, regression

LANES = 64
OPTIONS: dict[str, Any] = {"explore_time": 0.3, "settle_time": 0.3, "polish": False}


def run(target, q, v, **options):
    chosen: dict[str, Any] = OPTIONS | {"num_lanes": LANES} | options
    settings = DIMSOptions(**chosen)
    theta, stats, _, rung = run_trajectories(
        target, Objective(), settings, q, v, settings.lanes(len(q), target.dim)
    )
    return theta, stats, rung


@pytest.fixture(scope="module")
def target():
    """Six rows of data that all lanes share in one product, in float32."""
    return Target.from_model(
        regression, numbers(6, 10), numbers(6, seed=1), dtype=torch.float32
    )


@pytest.mark.slow
@pytest.mark.parametrize("rung", ["traced", "compiled"])
def test_lanes_depend_neither_on_their_place_nor_on_each_other(target, rung):
    target = target.with_rung(rung)
    q = 0.1 * numbers(LANES, target.dim, seed=2).float()
    v = numbers(LANES, target.dim, seed=3).float()
    theta, stats, reached = run(target, q, v, alpha=0.0)
    assert reached == rung
    order = torch.randperm(LANES, generator=torch.Generator().manual_seed(0))
    permuted, permuted_stats, _ = run(target, q[order], v[order], alpha=0.0)
    assert torch.equal(permuted, theta[order])
    for name, value in stats.items():
        assert torch.equal(permuted_stats[name], value[order]), name

    bad = v.clone()
    bad[17] = torch.nan
    others = torch.arange(LANES) != 17
    poisoned, poisoned_stats, _ = run(target, q, bad, alpha=0.0)
    assert torch.equal(poisoned[others], theta[others])
    assert bool(poisoned_stats["diverging"][17])
    for name, value in stats.items():
        assert torch.equal(poisoned_stats[name][others], value[others]), name


def test_a_diverging_trajectory_is_not_polished(target):
    q, v = numbers(4, target.dim).float(), numbers(4, target.dim, seed=5).float()
    v[2] = torch.inf
    theta, stats, _ = run(target, q, v, alpha=0.0, polish=True)
    assert stats["diverging"].tolist() == [False, False, True, False]
    assert torch.equal(theta[2], q[2])
    assert stats["polish_displacement"][2] == 0
    assert not bool(stats["converged"][2])


@pytest.mark.slow
def test_the_ledger_works_where_kinetic_energy_and_loss_cancel():
    """In float32 the energy's parts round, however small their sum is."""

    def loss(q):
        return 0.5 * q.square().sum() - 2000.0

    target = Target.from_potential(loss, 2, dtype=torch.float32)
    q = torch.zeros(8, 2, dtype=torch.float32)
    v = numbers(8, 2, seed=6).float()
    v = v / v.norm(dim=-1, keepdim=True) * 4000**0.5  # kinetic energy 2000
    _, stats, _ = run(target, q, v, alpha=0.0, friction=0.01, num_lanes=8)
    assert bool((stats["energy_initial"].abs() < 1e-2).all())
    shifted = Target.from_potential(
        lambda q: 0.5 * q.square().sum(), 2, dtype=torch.float64
    )
    _, exact, _ = run(
        shifted, q.double(), v.double(), alpha=0.0, friction=0.01, num_lanes=8
    )
    # as many steps as without rounding, give or take a third
    ratio = stats["n_steps"].double().mean() / exact["n_steps"].double().mean()
    assert 0.6 < float(ratio) < 1.4
