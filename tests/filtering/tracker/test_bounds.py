"""The share of a Gaussian velocity whose speed lies in an interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from pyro_geo.filtering.tracker.bounds import log_speed_mass, velocity_moments

F64 = torch.float64


def by_quadrature(mean: np.ndarray, cov: np.ndarray, low: float, high: float) -> float:
    """Integrate the density of speed and direction."""
    inverse, norm = np.linalg.inv(cov), 2 * np.pi * math.sqrt(np.linalg.det(cov))
    towards = math.atan2(mean[1], mean[0])

    def density(angle: float, speed: float) -> float:
        gap = speed * np.array([math.cos(angle), math.sin(angle)]) - mean
        return speed * math.exp(-0.5 * gap @ inverse @ gap) / norm

    edges = np.unique(np.clip([low, np.hypot(*mean), high], low, high))
    parts = [
        integrate.dblquad(
            density,
            a,
            b,
            towards + turn,
            towards + turn + math.pi / 2,
            epsabs=1e-12,
            epsrel=1e-10,
        )[0]
        for a, b in zip(edges[:-1], edges[1:], strict=True)
        for turn in (-math.pi, -math.pi / 2, 0.0, math.pi / 2)
    ]
    return sum(parts)


@pytest.mark.parametrize(
    ("mean", "sd", "tilt", "exact"),
    [
        ((2.0, 1.0), (1.0, 1.0), 0.3, 1e-8),
        ((0.0, 0.0), (1.5, 1.0), 0.3, 1e-7),
        ((-3.0, 4.0), (2.0, 1.2), 1.1, 1e-6),
        ((0.4, 0.1), (0.3, 0.3), 0.0, 1e-8),
    ],
)
def test_the_mass_of_a_ring_is_that_of_quadrature(mean, sd, tilt, exact):
    turn = np.array(
        [[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]]
    )
    cov = turn @ np.diag(np.square(sd)) @ turn.T
    expected = by_quadrature(np.array(mean), cov, 1.0, 4.0)
    found = log_speed_mass(
        torch.tensor(mean, dtype=F64), torch.tensor(cov, dtype=F64), 1.0, 4.0
    )
    assert float(found) == pytest.approx(math.log(expected), abs=exact)


def test_a_round_velocity_has_a_speed_after_rice_far_into_the_tails():
    speed = torch.tensor([0.0, 5.0, 26.0, 60.0, 150.0, 320.0, 400.0], dtype=F64)
    for sd in (2.0, 10.0, 40.0):
        law = stats.rice(speed.numpy() / sd, scale=sd)
        cov = sd**2 * torch.eye(2, dtype=F64)[:, :, None].expand(2, 2, len(speed))
        mean = torch.stack([speed * 0.6, speed * 0.8])
        found = log_speed_mass(mean, cov, 60.0, 320.0).exp().numpy()
        expected = law.cdf(320.0) - law.cdf(60.0)
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)
    # 34 standard deviations out, where a difference of two distributions has no digits
    cov = torch.eye(2, dtype=F64)
    out = log_speed_mass(torch.tensor([26.0, 0.0], dtype=F64), cov, 60.0, 320.0)
    assert float(out) == pytest.approx(float(stats.norm.logsf(34.0)) + 0.42, abs=0.05)


def test_on_a_line_the_mass_is_that_of_two_intervals():
    mean, sd = torch.tensor([[0.5, -3.0, 40.0]], dtype=F64), 2.0
    cov = torch.full((1, 1, 3), sd**2, dtype=F64)
    found = log_speed_mass(mean, cov, 1.0, 4.0)
    law = stats.norm(mean[0].numpy(), sd)
    mass = law.cdf(4) - law.cdf(1) + law.cdf(-1) - law.cdf(-4)
    np.testing.assert_allclose(found[:2].exp().numpy(), mass[:2], rtol=1e-12)
    tail = stats.norm.logsf(18.0)  # the nearer edge, 36 below the mean
    assert float(found[2]) == pytest.approx(float(tail), abs=0.01)


def test_the_logarithm_is_smooth_in_both_moments():
    def mass(mean, root):
        return log_speed_mass(mean, root @ root.T, 1.0, 4.0)

    root = torch.tensor([[1.1, 0.0], [0.3, 0.7]], dtype=F64, requires_grad=True)
    for place in ((0.0, 0.0), (2.0, -1.0), (0.2, 0.1)):
        mean = torch.tensor(place, dtype=F64, requires_grad=True)
        assert torch.autograd.gradcheck(mass, (mean, root), rtol=1e-3, atol=1e-5)


def test_velocities_add_up_the_orders_that_move_the_target():
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(6, 6, dtype=F64, generator=generator)
    full = root @ root.T
    flat = torch.randn(6, dtype=F64, generator=generator)
    mean = tuple(flat.reshape(3, 2))
    blocks = full.reshape(3, 2, 3, 2)
    cov = tuple(blocks[a, :, b] for a in range(3) for b in range(a, 3))
    centre, spread = velocity_moments((0.0, 1.0, 0.5), mean, cov)
    rows = torch.kron(
        torch.tensor([[0.0, 1.0, 0.5]], dtype=F64), torch.eye(2, dtype=F64)
    )
    torch.testing.assert_close(centre, rows @ flat)
    torch.testing.assert_close(spread, rows @ full @ rows.T)
