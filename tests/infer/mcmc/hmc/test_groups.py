"""Warm-up of chains in several modes at once."""

import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.engine.noise import Noise
from pyro_geo.engine.schedule import warm_up
from pyro_geo.infer import HMC
from pyro_geo.infer.mcmc.hmc.groups import ModeGroups, group_means

F64 = torch.float64
DIM, CHAINS = 6, 16


def tuned(gap: float, scale: float, in_second: torch.Tensor, known: bool):
    """Warm chains up, some of them in a mode of another place and width."""

    def potential(q):
        first = -0.5 * (q - gap).square().sum()
        second = -0.5 * ((q + gap) / scale).square().sum()
        return -torch.stack([first, second]).logsumexp(0)

    target = Target.from_potential(potential, DIM, dtype=F64)
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(CHAINS, DIM, generator=generator, dtype=F64)
    q = torch.where(in_second[:, None], scale * q - gap, q + gap)
    kernel = HMC(target, metric="diagonal", max_leapfrog=16)
    *_, warmup = warm_up(
        kernel,
        lambda: target,
        range(CHAINS),
        num_samples=10,
        num_chains=CHAINS,
        warmup_steps=100,
        noise=Noise(1),
        initial=q,
        modes=in_second.long() if known else None,
    )
    return kernel, target, warmup.state


def test_the_metric_measures_widths_not_distances():
    half = torch.arange(CHAINS) % 2 == 1
    scale = tuned(20.0, 1.0, half, known=True)[2].tuning.metric.scale
    assert ((scale - 1).abs() < 0.25).all()
    scale = tuned(20.0, 1.0, half, known=False)[2].tuning.metric.scale
    assert (scale > 3).all()  # it measures the distance


def test_a_narrow_mode_of_one_chain_is_accepted_as_often_as_others():
    alone = torch.arange(CHAINS) == 1
    rates = []
    for known in (True, False):
        kernel, target, state = tuned(10.0, 0.05, alone, known)
        streams = Noise(4).block(range(CHAINS), 0)
        block = kernel.block(target, state, range(CHAINS), 40, streams)
        rates.append(float(block.stats["acceptance_rate"][1].mean()))
    assert rates[0] > 0.6
    assert rates[1] < 0.5


def test_groups_of_one_mode_are_none():
    q = torch.zeros(4, 2)
    assert ModeGroups.of(None, q) is None
    assert ModeGroups.of(torch.full((4,), 3), q) is None


def test_statistics_within_groups():
    index = torch.tensor([0, 0, 1, 1])
    q = torch.tensor([[1.0], [3.0], [10.0], [torch.nan]])
    assert group_means(q, index, 2).flatten().tolist() == [2.0, 10.0]
    groups = ModeGroups.of(torch.tensor([5, 5, 9, 9]), q)
    assert groups is not None
    assert groups.within(q[:3], index[:3]).flatten().tolist() == [-1.0, 1.0, 0.0]
    everyone = torch.ones(4, dtype=torch.bool)
    acceptance = torch.tensor([1.0, 0.9, 0.3, 0.5])
    groups, rate = groups.accepted(acceptance, everyone)
    assert rate == pytest.approx(0.4)  # of the mode that accepts least
    # the other mode has lost its chains: it is remembered, and no longer followed
    groups, rate = groups.accepted(acceptance, torch.tensor([True, True, False, False]))
    assert groups.rates.tolist() == pytest.approx([0.95, 0.4])
    assert rate == pytest.approx(0.95)
