"""Flat densities on ellipsoids, and their beta laws."""

import math

import pytest
import scipy.stats
import torch

from pyro_geo.distributions import BoundedFlat

TRIL = torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=torch.float64)
LOC = torch.tensor([3.0, -1.0], dtype=torch.float64)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0, 7.0])
def test_it_is_the_pearson_law_of_the_second_type(kappa):
    ours = BoundedFlat(LOC, TRIL, radius=1.5, kappa=kappa)
    u = torch.tensor([[0.0, 0.0], [0.3, -0.2], [0.6, 0.7], [0.8, 0.7]]).double()
    x = LOC + 1.5 * u @ TRIL.mT
    s = u.square().sum(-1)
    # Gamma(d/2 + kappa + 1) / (pi^(d/2) Gamma(kappa + 1) rho^d |L|), d = 2
    front = (kappa + 1) / (math.pi * 1.5**2 * 2.0)
    expected = torch.where(s <= 1, front * (1 - s).clamp(min=0) ** kappa, 0.0)
    torch.testing.assert_close(ours.log_prob(x).exp(), expected)
    factor = 1.5**2 / (2 + 2 * kappa + 2)
    torch.testing.assert_close(ours.covariance_matrix, factor * TRIL @ TRIL.mT)
    # E log(1 - s) with s ~ Beta(1, kappa + 1) is -1 / (kappa + 1)
    field = -kappa / (kappa + 1)
    entropy = -math.log(front) - field
    assert float(ours.entropy()) == pytest.approx(entropy, abs=1e-12)
    # the base is uniform on the ball: log Z = -log(kappa + 1)
    divergence = math.log(kappa + 1) + field
    assert float(ours.kl_to_base()) == pytest.approx(divergence, abs=1e-12)
    assert float(ours.log_mass) == 0


@pytest.mark.parametrize("dim", [1, 3, 20])
@pytest.mark.parametrize("kappa", [0.0, 2.0])
def test_squared_lengths_of_samples_have_a_beta_law(dim, kappa):
    torch.manual_seed(dim)
    eye = torch.eye(dim, dtype=torch.float64)
    x = BoundedFlat(torch.zeros_like(eye[0]), eye, radius=2.0, kappa=kappa).sample(
        (2000,)
    )
    s = (x.norm(dim=-1) / 2).square().numpy()
    law = scipy.stats.beta(dim / 2, kappa + 1)
    assert scipy.stats.kstest(s, law.cdf).pvalue > 1e-6


def test_nats_are_half_of_the_squared_radius_and_samples_scale_with_it():
    nats = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    ours = BoundedFlat(LOC, TRIL, nats=nats)
    assert float(ours.radius.detach()) == pytest.approx(2.0)
    x = ours.rsample()
    (slope,) = torch.autograd.grad(x.sum(), nats)
    # r = sqrt(2 nats), hence dx / d nats = (x - loc) / (2 nats)
    torch.testing.assert_close(slope, (x - LOC).sum().detach() / 4)
