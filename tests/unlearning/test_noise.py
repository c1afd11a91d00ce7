"""Calibration of noise, against integrals, a grid of densities and a Renyi bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from pyro_geo.errors import ConfigurationError
from pyro_geo.unlearning.noise import (
    attack_auc,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_separation,
    noisy_steps_scale,
    noisy_steps_separation,
)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("separation", [0.2, 1.0, 3.0])
def test_delta_is_the_integral_over_the_worst_set(
    epsilon: float, separation: float
) -> None:
    # the worst set is a half-line, from where the ratio of densities is exp(epsilon)
    edge = epsilon / separation + separation / 2
    expected, _ = integrate.quad(
        lambda x: stats.norm.pdf(x, separation) - math.exp(epsilon) * stats.norm.pdf(x),
        edge,
        edge + 40,
        epsabs=1e-14,
    )
    assert gaussian_delta(epsilon, separation) == pytest.approx(
        expected, rel=1e-8, abs=1e-13
    )


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-9])
def test_calibration_is_tight_and_safe(epsilon: float, delta: float) -> None:
    separation = gaussian_separation(epsilon, delta)
    found = gaussian_delta(epsilon, separation)
    assert found <= delta
    assert found == pytest.approx(delta, rel=1e-6)
    assert gaussian_epsilon(delta, separation) == pytest.approx(epsilon, rel=1e-6)


def test_less_noise_than_the_classical_formula() -> None:
    # the textbook's sqrt(2 log(1.25 / delta)) / epsilon, valid up to epsilon 1
    for epsilon in (0.1, 0.5, 1.0):
        classical = math.sqrt(2 * math.log(1.25 / 1e-5)) / epsilon
        assert 0.6 < 1 / gaussian_separation(epsilon, 1e-5) / classical < 1


def test_the_attack_on_two_normals() -> None:
    generator = np.random.default_rng(0)
    separation, count = 0.8, 4000
    zeros = generator.normal(size=count)
    ones = generator.normal(size=count) + separation
    area = stats.mannwhitneyu(ones, zeros).statistic / count**2
    # four standard errors of the area, of at most 1 / sqrt(4 * min(n, m))
    assert abs(area - attack_auc(separation)) < 4 / math.sqrt(4 * count)


def worst_runs(
    scale: float, steps: int, radius: float, bound: float, contraction: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Densities of two runs on a grid, whose steps push them apart."""
    grid = np.linspace(-30, 30, 2001)
    width = grid[1] - grid[0]
    mapped = contraction * grid + bound * np.sign(grid)
    kernel = stats.norm.pdf(grid[:, None] - mapped[None], scale=scale) * width
    runs = []
    for start in (radius, -radius):
        first = contraction * start + bound * np.sign(start)
        density = stats.norm.pdf(grid, first, scale)
        for _ in range(steps - 1):
            density = kernel @ density
        runs.append(density)
    return runs[0], runs[1], width


def distinguished(p: np.ndarray, q: np.ndarray, width: float, epsilon: float) -> float:
    """Delta of two densities, by summing where one exceeds the other."""
    return float(np.clip(p - math.exp(epsilon) * q, 0, None).sum() * width)


CASES = [(1, 0.5, 0.3, 1.0), (3, 0.5, 0.2, 1.0), (6, 1.0, 0.0, 0.8), (4, 0.2, 0.5, 0.7)]


@pytest.mark.parametrize(("steps", "radius", "bound", "contraction"), CASES)
def test_no_two_runs_are_told_apart_beyond_the_bound(
    steps: int, radius: float, bound: float, contraction: float
) -> None:
    epsilon, delta = 0.7, 0.01
    scale = noisy_steps_scale(
        epsilon,
        delta,
        steps,
        radius=radius,
        step_bound=bound,
        contraction=contraction,
    )
    p, q, width = worst_runs(scale, steps, radius, bound, contraction)
    found = distinguished(p, q, width, epsilon)
    assert found <= delta * (1 + 1e-3)  # what sums of this width are off by
    if steps == 1 or bound == 0:  # the bound is attained
        assert found == pytest.approx(delta, rel=1e-3)
    # twin: noise that forgets what the gradients of each step bring
    less = noisy_steps_scale(
        epsilon, delta, steps, radius=radius, step_bound=0.0, contraction=contraction
    )
    if bound:
        p, q, width = worst_runs(less, steps, radius, bound, contraction)
        assert distinguished(p, q, width, epsilon) > delta


@pytest.mark.parametrize("contraction", [1.0, 0.9])
def test_the_renyi_bound_is_never_smaller(contraction: float) -> None:
    epsilon, delta, steps = 1.0, 1e-5, 20
    scale = noisy_steps_scale(
        epsilon, delta, steps, radius=0.3, step_bound=0.01, contraction=contraction
    )
    separation = noisy_steps_separation(
        scale, steps, radius=0.3, step_bound=0.01, contraction=contraction
    )
    # Renyi divergence of order a is a mu^2 / 2; Mironov's conversion to epsilon
    orders = 1 + np.logspace(-2, 3, 2000)
    renyi = orders * separation**2 / 2 + math.log(1 / delta) / (orders - 1)
    assert epsilon <= renyi.min() < 1.5 * epsilon


def test_the_published_noise_is_larger() -> None:
    # 2506.06985 without decay: sqrt(9 log(1 / delta) / T) (r + B T) / epsilon
    for steps in (1, 10, 100):
        published = math.sqrt(9 * math.log(1e5) / steps) * (0.3 + 0.01 * steps)
        ours = noisy_steps_scale(1.0, 1e-5, steps, radius=0.3, step_bound=0.01)
        assert 0.5 < ours / published < 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: gaussian_separation(0.0, 1e-5),
        lambda: gaussian_separation(1.0, 0.0),
        lambda: gaussian_separation(1.0, 1.0),
        lambda: gaussian_delta(float("nan"), 1.0),
        lambda: noisy_steps_separation(1.0, 0, radius=1.0, step_bound=0.0),
        lambda: noisy_steps_separation(
            1.0, 1, radius=1.0, step_bound=0.0, contraction=1.1
        ),
    ],
)
def test_mistakes_are_named(call) -> None:
    with pytest.raises(ConfigurationError):
        call()
