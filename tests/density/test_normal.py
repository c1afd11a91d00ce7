"""The multivariate normal by its covariance: against torch's own, to every order."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from pyro_geo import Target
from pyro_geo.density import sites
from pyro_geo.density._normal import normal_log_prob

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


def covariance(a: Tensor) -> Tensor:
    return a @ a.mT + torch.eye(a.shape[-1], dtype=a.dtype)


def torchs(y: Tensor, sigma: Tensor) -> Tensor:
    normal = torch.distributions.MultivariateNormal(
        torch.zeros_like(y), sigma, validate_args=False
    )
    return normal.log_prob(y)


def ours(y: Tensor, a: Tensor) -> Tensor:
    return normal_log_prob(y, covariance(a))


def test_value_and_batches_that_broadcast() -> None:
    y, sigma = random(5, 3, 4), covariance(random(3, 4, 4))
    torch.testing.assert_close(normal_log_prob(y, sigma), torchs(y, sigma))


def test_ill_conditioned_covariance() -> None:
    x = torch.linspace(0, 1, 30, dtype=DOUBLE)
    sigma = (-30 * (x[:, None] - x).square()).exp() + 1e-6 * torch.eye(30, dtype=DOUBLE)
    y = (5 * x).sin()
    torch.testing.assert_close(normal_log_prob(y, sigma), torchs(y, sigma))


def test_two_derivatives_by_finite_differences() -> None:
    inputs = (random(2, 3).requires_grad_(), random(2, 3, 3, seed=1).requires_grad_())
    assert gradcheck(ours, inputs, check_forward_ad=True)
    assert gradgradcheck(ours, inputs)


@pytest.mark.parametrize("derivative", [torch.func.grad, torch.func.hessian])
def test_derivatives_under_vmap(derivative) -> None:
    y, a = random(6, 4), random(6, 4, 4, seed=1)
    for argument in (0, 1):
        mapped = [
            torch.func.vmap(derivative(fn, argnums=argument))(y, a)
            for fn in (ours, lambda u, b: torchs(u, covariance(b)))
        ]
        torch.testing.assert_close(*mapped)


def test_a_matrix_that_is_not_positive_definite_is_its_own_affair() -> None:
    sigma = torch.stack([torch.eye(3), -torch.eye(3)]).double()
    value = normal_log_prob(random(2, 3), sigma)
    assert value.isnan().tolist() == [False, True]


def process(x: Tensor, y: Tensor) -> None:
    scale = pyro.sample("scale", dist.LogNormal(torch.zeros(()), 1.0))
    noise = pyro.sample("noise", dist.LogNormal(torch.zeros(()), 1.0))
    kernel = (-(x[:, None] - x).square() / scale).exp()
    sigma = kernel + noise * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), sigma), obs=y)


@pytest.mark.parametrize(
    "rung", ["mapped", "traced", pytest.param("compiled", marks=pytest.mark.slow)]
)
def test_a_gaussian_process_uses_it_on_every_rung(rung, monkeypatch) -> None:
    x, y = random(8), random(8, seed=2)
    q = random(3, 2, seed=3)
    monkeypatch.setattr(sites, "_NORMALS", ())
    plain = Target.from_model(process, x, y, dtype=DOUBLE)
    value, grad = plain.value_and_grad(q)
    product = plain.hvp(q, q)
    monkeypatch.undo()
    calls = []
    original = sites.normal_log_prob
    monkeypatch.setattr(
        sites, "normal_log_prob", lambda *a: calls.append(1) or original(*a)
    )
    target = Target.from_model(process, x, y, dtype=DOUBLE).with_rung(rung)
    torch.testing.assert_close(target.value_and_grad(q), (value, grad))
    torch.testing.assert_close(target.hvp(q, q), product)
    assert calls
    assert target.rung == rung
