"""Weights of particles: effective numbers, resampling, temperatures."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_geo.ops.weights import ess, khat, log_mean, next_temperature, systematic

LOGS = st.lists(st.floats(-30, 30), min_size=1, max_size=40)


@given(LOGS)
@settings(max_examples=50, deadline=None)
def test_effective_number_is_between_one_and_all(logs: list[float]) -> None:
    found = float(ess(torch.tensor(logs, dtype=torch.float64)))
    assert 1 - 1e-9 <= found <= len(logs) + 1e-9


def test_effective_number_by_hand() -> None:
    w = torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=torch.float64)
    assert float(ess(w.log())) == pytest.approx(36 / 14)
    assert float(log_mean(w.log())) == pytest.approx(math.log(6 / 4))


@given(LOGS, st.floats(0, 1, exclude_max=True))
@settings(max_examples=50, deadline=None)
def test_each_particle_has_its_share_rounded(logs: list[float], u: float) -> None:
    log_weights = torch.tensor(logs, dtype=torch.float64)
    taken = systematic(log_weights, torch.tensor(u, dtype=torch.float64))
    counts = torch.bincount(taken, minlength=len(logs))
    share = len(logs) * log_weights.softmax(0)
    assert len(taken) == len(logs)
    assert ((counts - share).abs() < 1 + 1e-6).all()


def test_resampling_is_unbiased() -> None:
    log_weights = torch.tensor([0.1, 0.0, 0.55, 0.35], dtype=torch.float64).log()
    ticks = (torch.arange(2_000, dtype=torch.float64) + 0.5) / 2_000
    counts = torch.zeros(4)
    for u in ticks:
        counts += torch.bincount(systematic(log_weights, u), minlength=4)
    mean = counts.double() / 2_000
    torch.testing.assert_close(mean, 4 * log_weights.exp(), atol=2e-3, rtol=0)
    assert counts[1] == 0


def test_next_temperature_has_the_share_asked_for() -> None:
    loss = torch.linspace(0, 5, 30, dtype=torch.float64)
    beta = next_temperature(torch.zeros(30), loss, 0.3, 9.0, 0.8)
    u = (-(beta - 0.3) * loss).exp()
    assert float(u.mean().square() / u.square().mean()) == pytest.approx(0.8, rel=1e-9)
    assert next_temperature(torch.zeros(30), loss, 0.3, 0.31, 0.8) == 0.31
    # particles without a weight say nothing
    weights = torch.zeros(31)
    weights[30] = -math.inf
    more = torch.cat([loss, torch.tensor([1e9]).double()])
    assert next_temperature(weights, more, 0.3, 9.0, 0.8) == pytest.approx(beta)


def test_tail_of_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    heavy = 3 * torch.randn(1_000, generator=generator).abs().exp()
    assert khat(heavy) > 0.7
    assert math.isnan(khat(torch.zeros(10)))
