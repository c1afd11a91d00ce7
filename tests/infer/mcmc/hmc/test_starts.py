"""Starts of the chains: scattered, and from Laplace approximations."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_geo import Target
from pyro_geo.errors import ConfigurationError
from pyro_geo.infer import HMC, MCMC
from pyro_geo.infer.mcmc.hmc.starts import laplace_starts

DOUBLE = torch.float64


def target_of(potential: Any, dim: int) -> Target:
    return Target.from_potential(potential, dim, dtype=DOUBLE)


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


def test_normal_density_has_its_own_mean_and_covariance() -> None:
    factor = random(5, 5)
    mean, covariance = random(5, seed=1), factor @ factor.mT
    precision = torch.linalg.inv(covariance)
    target = target_of(lambda q: 0.5 * (q - mean) @ precision @ (q - mean), 5)
    # the map is linear in the normal numbers: unit vectors show its matrix
    normals = torch.cat([torch.zeros(1, 5, dtype=DOUBLE), torch.eye(5, dtype=DOUBLE)])
    q = laplace_starts(target, random(6, 5, seed=2), normals[:, None])
    torch.testing.assert_close(q[0], mean)
    matrix = (q[1:] - mean).mT
    torch.testing.assert_close(matrix @ matrix.mT, covariance)


def test_each_start_finds_the_mode_next_to_it() -> None:
    # minima at -3 and 3, where the second derivative is 72
    target = target_of(lambda q: ((q**2 - 9) ** 2).sum(), 1)
    starts = torch.tensor([[-2.0], [2.0]], dtype=DOUBLE)
    normals = torch.ones(2, 1, 1, dtype=DOUBLE)
    q = laplace_starts(target, starts, normals)
    expected = starts.sign() * 3 + 72**-0.5
    torch.testing.assert_close(q, expected, atol=2e-3, rtol=0)


def test_flat_and_rising_directions_get_the_width_of_a_uniform_start() -> None:
    # flat along the second axis, a ridge at rest along the third
    target = target_of(lambda q: 50 * q[0] ** 2 - 0.5 * q[2] ** 2, 3)
    normals = torch.ones(1, 1, 3, dtype=DOUBLE)
    starts = torch.tensor([[0.0, 1.5, 0.0]], dtype=DOUBLE)
    q = laplace_starts(target, starts, normals)
    width = (q - starts).abs().flatten()
    expected = torch.tensor([0.1, 1.0, 1.0], dtype=DOUBLE)
    torch.testing.assert_close(width, expected)


def test_draws_of_infinite_density_are_drawn_again() -> None:
    target = target_of(lambda q: q[0] ** 2 / 2 + torch.where(q[0] > 1, torch.inf, 0), 1)
    normals = torch.tensor([2.0, 3.0, 0.5], dtype=DOUBLE).reshape(1, 3, 1)
    q = laplace_starts(target, torch.zeros(1, 1, dtype=DOUBLE), normals)
    assert q.abs().item() == pytest.approx(0.5)
    # with no finite draw at all, the mode is where the chain starts
    q = laplace_starts(target, torch.zeros(1, 1, dtype=DOUBLE), normals[:, :2])
    assert q.item() == 0.0


SCALES = torch.tensor([1e-4, 1.0, 1e4], dtype=DOUBLE)


def scaled(scales: Tensor) -> None:
    pyro.sample("z", dist.Normal(5 * scales, scales).to_event(1))


def test_a_run_from_such_starts_is_sound() -> None:
    options: dict[str, Any] = {"seed": 3, "progress_bar": False, "dtype": DOUBLE}
    kernel = HMC(scaled, init_strategy="laplace")
    fit = MCMC(kernel, 100, 60, 32, compile=False, **options).run(SCALES)
    again = MCMC(kernel, 100, 60, 32, compile=False, **options).run(SCALES)
    assert torch.equal(fit.positions, again.positions)
    z = fit.positions / SCALES - 5
    means = z.mean(1)
    t = means.mean(0) / (means.std(0) / 32**0.5)
    assert t.abs().max() < 5.2  # Student's t of 31 degrees: 1 in 30,000 for three
    assert max(fit.summary()["r_hat"]) < 1.05


def test_it_runs_in_pyro() -> None:
    from pyro.infer import MCMC as PyroMCMC

    pyro.set_rng_seed(0)
    with torch.random.fork_rng():
        kernel = HMC(scaled, init_strategy="laplace")
        run = PyroMCMC(kernel, 50, 60, disable_progbar=True)
        run.run(SCALES)
    z = run.get_samples()["z"].double() / SCALES - 5
    assert z.abs().max() < 6


def test_unknown_start_is_named() -> None:
    kernel: Any = HMC(scaled, init_strategy="lapace")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="lapace"):
        MCMC(kernel, 10, 10, 2, progress_bar=False).run(SCALES)
