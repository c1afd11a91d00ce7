"""The update by several children against brute-force quadrature."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_geo.filtering.hgf.network.children import (
    Children,
    children_energy,
    children_update,
)
from pyro_geo.filtering.hgf.volatility import volatility_update

GRID = torch.linspace(-60.0, 60.0, 4001, dtype=torch.float64)

pytestmark = pytest.mark.usefixtures("double_precision")


def design(n: int, count: int = 400) -> tuple[Children, Tensor, Tensor]:
    """Children of random couplings, in the range of the published grid."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    alpha = torch.full((n, count), 0.005)
    beta = alpha * 200 ** uniform(n, count)
    kappa = 0.5 + uniform(n, count)
    mu_hat = 30 * uniform(count) - 15
    told = torch.ones(n, count, dtype=torch.bool)
    children = Children(alpha, beta, kappa, torch.zeros(n, count), told)
    return children, mu_hat, torch.full((count,), 0.5)


def exact(children: Children, mu_hat: Tensor, pi_hat: Tensor) -> tuple[Tensor, ...]:
    """Logarithm of exp I on the grid, normalised, with its mean and precision."""
    x = GRID.unsqueeze(-1)
    log_p = children_energy(x, children, mu_hat, pi_hat)
    log_p = log_p - torch.logsumexp(log_p, 0)
    mean = (log_p.exp() * x).sum(0)
    variance = (log_p.exp() * (x - mean) ** 2).sum(0)
    return log_p, mean, 1 / variance


def divergence(log_p: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    log_q = 0.5 * torch.log(precision / (2 * math.pi))
    log_q = log_q - 0.5 * precision * (GRID.unsqueeze(-1) - mean) ** 2
    log_q = log_q + math.log(float(GRID[1] - GRID[0]))
    return (log_p.exp() * (log_p - log_q)).sum(0)


@pytest.mark.parametrize(("n", "limit", "best"), [(2, 0.075, 0.025), (4, 0.11, 0.025)])
def test_the_belief_is_near_the_density_of_the_energy(
    n: int, limit: float, best: float
):
    problem = design(n)
    log_p, mean, precision = exact(*problem)
    found = divergence(log_p, *children_update("unbounded", *problem))
    optimum = divergence(log_p, mean, precision)
    assert optimum.mean() < 0.025
    assert optimum.mean() < found.mean() < limit
    assert found.max() < 4
    classic = children_update("classic", *problem)[1]
    assert 0.05 < float((classic <= 0).double().mean()) < 0.3


@pytest.mark.parametrize("n", [2, 4])
def test_moments_are_those_of_quadrature(n: int):
    problem = design(n)
    log_p, mean, precision = exact(*problem)
    m, p = children_update("moment", *problem)
    assert ((m - mean).abs() * precision.sqrt()).max() < 0.05
    assert (divergence(log_p, m, p) - divergence(log_p, mean, precision)).max() < 5e-3


@pytest.mark.parametrize("update", ["unbounded", "classic", "ehgf", "ehgf_pyhgf"])
def test_one_child_is_the_update_of_a_chain(update: Any):
    children, mu_hat, pi_hat = design(1)
    m, p = children_update(update, children, mu_hat, pi_hat)
    alpha, beta, kappa, offset, _ = (value[0] for value in children)
    one = torch.ones_like(alpha)
    mean, precision = volatility_update(
        update, alpha, beta, kappa, offset, one, mu_hat, pi_hat
    )
    good = p > 0
    torch.testing.assert_close(m[good], mean[good], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(p[good], precision[good], rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    "update", ["unbounded", "classic", "ehgf", "ehgf_pyhgf", "moment"]
)
def test_order_and_silent_children_make_no_difference(update: Any):
    children, mu_hat, pi_hat = design(3)
    m, p = children_update(update, children, mu_hat, pi_hat)
    turned = Children(*(value.flip(0) for value in children))
    for found, expected in zip(
        children_update(update, turned, mu_hat, pi_hat), (m, p), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    told = children.reported.clone()
    told[1] = False
    fewer = Children(*(value[[0, 2]] for value in children))
    for silent in (
        children._replace(reported=told),
        children._replace(kappa=children.kappa * told),
    ):
        for found, expected in zip(
            children_update(update, silent, mu_hat, pi_hat),
            children_update(update, fewer, mu_hat, pi_hat),
            strict=True,
        ):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_derivatives_are_finite_in_a_wide_box(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(1)
    n, count = 3, 2000

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    alpha = 10 ** between(-6, 3, n, count)
    children = Children(
        *(
            value.to(dtype).requires_grad_(True)
            for value in (
                alpha,
                alpha * 10 ** between(0, 14, n, count),
                between(-3, 3, n, count),
                between(-10, 10, n, count),
            )
        ),
        reported=between(0, 1, n, count) > 0.2,
    )
    mu_hat = between(-100, 60, count).to(dtype).requires_grad_(True)
    pi_hat = (10 ** between(-2, 3, count)).to(dtype).requires_grad_(True)
    mean, precision = children_update("unbounded", children, mu_hat, pi_hat)
    assert mean.isfinite().all()
    assert precision.isfinite().all()
    assert (precision > 0).all()
    for value in (mean, torch.log(precision)):
        slopes = torch.autograd.grad(
            value.sum(), [*children[:4], mu_hat, pi_hat], retain_graph=True
        )
        assert all(slope.isfinite().all() for slope in slopes)
