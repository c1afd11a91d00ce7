"""Whole filters of two levels against a particle filter of the same model."""

import math

import torch
from _bench import Row
from torch import Tensor

from pyro_geo.filtering import hgf_filter

DOUBLE = torch.float64
METHODS = ("unbounded", "moment", "ehgf", "collapsed")


def simulate(
    omega: tuple[float, float], count: int, steps: int, generator: torch.Generator
) -> Tensor:
    """Draw series of the model; all initial precisions and that of the input are 1."""

    def normal() -> Tensor:
        return torch.randn(count, generator=generator, dtype=DOUBLE)

    low, high, inputs = normal(), normal(), []
    for _ in range(steps):
        high = high + math.exp(omega[1] / 2) * normal()
        low = low + torch.exp((high + omega[0]) / 2) * normal()
        inputs.append(low + normal())
    return torch.stack(inputs, -1)


def particles(
    u: Tensor, omega: tuple[float, float], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Filter by particles of level 2, each with the exact belief of level 1.

    Returns:
        Log-evidence of each input, and means of level 2, `(series, T)`.
    """
    series, steps = u.shape
    shape = (series, count)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=DOUBLE)

    high = normal()
    mean, variance = torch.zeros(shape, dtype=DOUBLE), torch.ones(shape, dtype=DOUBLE)
    evidence, levels = [], []
    for k in range(steps):
        high = high + math.exp(omega[1] / 2) * normal()
        variance = variance + torch.exp(high + omega[0])
        spread, error = variance + 1, u[:, k, None] - mean
        log_w = -0.5 * (torch.log(2 * math.pi * spread) + error**2 / spread)
        evidence.append(log_w.logsumexp(-1) - math.log(count))
        gain = variance / spread
        mean, variance = mean + gain * error, gain
        weights = torch.softmax(log_w, -1)
        levels.append((weights * high).sum(-1))
        # one uniform draw for all particles of a series
        start = torch.rand(series, 1, generator=generator, dtype=DOUBLE)
        at = (torch.arange(count, dtype=DOUBLE) + start) / count
        chosen = torch.searchsorted(weights.cumsum(-1), at).clamp(max=count - 1)
        high, mean, variance = (x.gather(1, chosen) for x in (high, mean, variance))
    return torch.stack(evidence, -1), torch.stack(levels, -1)


def filter_rows(omega: tuple[float, float], quick: bool) -> list[Row]:
    """Measure how much more surprised each filter is than the particles."""
    generator = torch.Generator().manual_seed(7)
    count, steps, size = (3, 30, 500) if quick else (60, 300, 4_000)
    u = simulate(omega, count, steps, generator)
    evidence, level = particles(u, omega, size, generator)
    rows: list[Row] = []
    for method in METHODS:
        path = hgf_filter(
            u, list(omega), 1.0, 0.0, [1.0, 1.0], 1.0, update=method, on_invalid="nan"
        )
        excess = (path.surprise + evidence).mean(-1)
        rmse = (path.mu[..., 1] - level).square().mean().sqrt()
        given = {"case": f"omega {omega[0]:g}, {omega[1]:g}", "method": method}
        rows += [
            given
            | {
                "metric": "excess surprise per input",
                "value": excess.mean().item(),
                "sd": (excess.std() / math.sqrt(count)).item(),
                "unit": "nat",
                "seeds": count,
            },
            given
            | {
                "metric": "rmse of level 2 to the particles",
                "value": rmse.item(),
                "unit": "",
                "seeds": count,
            },
        ]
    return rows
