"""Lanczos' method on many operators at once."""

import math

import pytest
import torch
from scipy.stats import binom

from pyro_geo.errors import ConfigurationError
from pyro_geo.geometry.lanczos import lanczos, num_steps

BOTH = [torch.float32, torch.float64]


def numbers(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def matrices(eigenvalues, count, seed=0, dtype=torch.float64):
    """Symmetric matrices of given eigenvalues, `(count, dim, dim)`."""
    basis = torch.linalg.qr(numbers(count, *2 * eigenvalues.shape, seed=seed)).Q
    return ((basis * eigenvalues) @ basis.mT).to(dtype)


def product(matrix):
    return lambda v: (matrix @ v[..., None])[..., 0]


@pytest.mark.parametrize("dtype", BOTH)
def test_as_many_steps_as_dimensions_give_every_eigenvalue(dtype):
    eigenvalues = torch.tensor([-3.0, -0.5, 0.1, 2.0, 7.0, 7.5]).double()
    matrix = matrices(eigenvalues, 4, dtype=dtype)
    ritz = lanczos(product(matrix), numbers(4, 6, seed=1, dtype=dtype), 6, 2)
    off = (ritz.values.double() - eigenvalues).abs().max()
    assert float(off) < float(ritz.rounding.max())
    rest = product(matrix)(ritz.vectors[:, 0]) + 3.0 * ritz.vectors[:, 0]
    assert float(rest.norm(dim=-1).max()) < float(ritz.rounding.max())
    torch.testing.assert_close(ritz.norm, torch.full_like(ritz.norm, 7.5))


@pytest.mark.parametrize("dtype", BOTH)
def test_a_ritz_value_is_never_below_the_smallest_eigenvalue(dtype):
    eigenvalues = numbers(40, seed=2).sort().values
    matrix = matrices(eigenvalues, 8, dtype=dtype)
    for steps in (1, 3, 12):
        ritz = lanczos(product(matrix), numbers(8, 40, seed=3, dtype=dtype), steps)
        assert bool((ritz.values[:, 0] > eigenvalues[0] - ritz.rounding).all())


@pytest.mark.parametrize("dtype", BOTH)
def test_flat_directions_stay_within_rounding_of_zero(dtype):
    """Thirty zeros beside large eigenvalues, as a set of minima has them."""
    eigenvalues = torch.cat([torch.zeros(30), torch.linspace(1e-2, 1e3, 20)]).double()
    matrix = matrices(eigenvalues, 16, dtype=dtype)
    for steps in (10, 50):
        start = numbers(16, 50, seed=4, dtype=dtype)
        ritz = lanczos(product(matrix), start, steps)
        assert bool((ritz.values[:, 0] > -ritz.rounding).all())


def test_a_space_that_ends_early_goes_on_with_another_direction():
    diagonal = torch.tensor([0.0, 0.0, 0.0, 5.0]).double()
    ritz = lanczos(lambda v: diagonal * v, numbers(3, 4), 4, 3)
    torch.testing.assert_close(ritz.values, diagonal.expand(3, 4), atol=1e-12, rtol=0)
    gram = ritz.vectors @ ritz.vectors.mT
    torch.testing.assert_close(gram, torch.eye(3).double().expand(3, 3, 3))
    assert float((ritz.vectors[..., 3]).abs().max()) < 1e-12


def test_the_steps_miss_a_negative_eigenvalue_as_seldom_as_they_say():
    """500 starts, a hundredth of the largest; a third of the steps misses more."""
    eigenvalues = torch.linspace(0.0, 1.0, 100).double()
    eigenvalues[0] = -0.01
    start = numbers(500, 100, seed=5)
    steps = num_steps(100, 0.01, 1e-3)

    def missed(steps):
        ritz = lanczos(lambda v: eigenvalues * v, start, steps)
        return int((ritz.values[:, 0] >= 0).sum())

    assert missed(steps) <= binom.isf(1e-6, 500, 1e-3)
    assert missed(steps // 3) > binom.isf(1e-6, 500, 1e-3)


def test_steps_grow_with_what_is_asked():
    assert num_steps(7) == 7
    assert num_steps(10_000) < num_steps(10_000, share=1e-3)
    assert num_steps(10_000) < num_steps(10_000, risk=1e-6)
    share, root = 0.1, math.sqrt(0.1 / 1.1)
    least = 0.5 + math.log(1.648 * 100 / 1e-3) / (2 * root)
    assert num_steps(10_000, share) == math.ceil(least)


def test_a_broken_lane_disturbs_no_other():
    matrix = matrices(numbers(9, seed=6), 4)
    start = numbers(4, 9, seed=7)
    sound = lanczos(product(matrix), start, 5)
    matrix[2] = torch.nan
    broken = lanczos(product(matrix), start, 5)
    others = torch.tensor([0, 1, 3])
    assert torch.equal(broken.values[others], sound.values[others])
    assert torch.equal(broken.vectors[others], sound.vectors[others])
    assert bool(broken.values[2].isnan().all())


def test_more_steps_than_dimensions_are_refused():
    with pytest.raises(ConfigurationError, match="steps.*dim = 3"):
        lanczos(lambda v: v, torch.ones(1, 3), 4)
