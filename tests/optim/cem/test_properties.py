"""Symmetries that hold for any function, space and noise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyro_geo.optim.cem import CEMResult, DecentCEM, truncated_normal

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.filterwarnings("ignore::pyro_geo.errors.EliteCollapseWarning"),
]
SEEDS = st.integers(0, 2**31 - 1)
ITERATIONS, INSTANCES, EACH, DIM = 6, 3, 12, 2


def rough(x: Tensor) -> Tensor:
    return (x.square() + 3 * (4 * x).sin()).sum(-1)


def draws(seed: int) -> tuple[Tensor, Tensor]:
    """Noise and first centres."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.empty(ITERATIONS, INSTANCES, EACH, DIM, dtype=torch.float64)
    noise = truncated_normal(noise, 2.0, generator)
    return noise, torch.randn(INSTANCES, DIM, generator=generator, dtype=torch.float64)


def search(f, noise: Tensor, mean: Tensor, std: Tensor, **box) -> CEMResult:
    options = {"layout": "uniform", "restart": False, "min_var": 0.0}
    optimiser = DecentCEM(INSTANCES, pop_size=INSTANCES * EACH, **options)
    return optimiser.minimize(f, mean=mean, std=std, noise=noise, **box)


@given(
    SEEDS,
    st.lists(st.sampled_from([0.25, 0.5, 2.0, 8.0]), min_size=DIM, max_size=DIM),
    st.lists(st.floats(-5, 5), min_size=DIM, max_size=DIM),
)
def test_scaled_and_shifted_axes_give_the_mapped_search(seed, scales, shifts):
    noise, mean = draws(seed)
    scale, shift = torch.tensor([scales, shifts], dtype=torch.float64)
    std = torch.ones(DIM, dtype=torch.float64)
    mapped = search(
        lambda y: rough(y * scale + shift), noise, (mean - shift) / scale, std / scale
    )
    plain = search(rough, noise, mean, std)
    torch.testing.assert_close(
        mapped.means * scale + shift, plain.means, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(mapped.stds * scale, plain.stds, rtol=1e-8, atol=1e-9)


@given(SEEDS, st.sampled_from(["exp", "cube", "half", "large"]))
def test_increasing_transforms_of_the_cost_change_nothing_else(seed, kind):
    transforms = {
        "exp": lambda c: (c / 10).exp(),
        "cube": lambda c: c**3 + c,
        "half": lambda c: c / 2,
        "large": lambda c: c * 1024 + 7,
    }
    noise, mean = draws(seed)
    std = torch.ones(DIM, dtype=torch.float64)
    plain = search(rough, noise, mean, std)
    other = search(lambda x: transforms[kind](rough(x)), noise, mean, std)
    assert torch.equal(other.means, plain.means)
    assert torch.equal(other.stds, plain.stds)
    assert torch.equal(other.x, plain.x)
    assert torch.equal(other.fun, transforms[kind](plain.fun))


@given(SEEDS, st.permutations(range(INSTANCES)))
def test_instances_may_be_numbered_in_any_order(seed, order):
    noise, mean = draws(seed)
    std = torch.ones(DIM, dtype=torch.float64)
    plain = search(rough, noise, mean, std)
    permuted = search(rough, noise[:, order], mean[order], std)
    for name in ("means", "stds", "best_x", "best_fun", "elites"):
        assert torch.equal(getattr(permuted, name), getattr(plain, name)[order])
    assert torch.equal(permuted.fun, plain.fun)
    assert torch.equal(permuted.history, plain.history[:, order])


@given(SEEDS, st.integers(1, 4), st.floats(1e-3, 1e3))
def test_problems_side_by_side_are_problems_one_by_one(seed, problems, size):
    generator = torch.Generator().manual_seed(seed)
    centre = size * torch.randn(problems, DIM, generator=generator, dtype=torch.float64)
    noise = torch.empty(4, problems, INSTANCES * EACH, DIM, dtype=torch.float64)
    noise = truncated_normal(noise, 2.0, generator)
    lower, upper = centre - 3 * size, centre + 2 * size
    optimiser = DecentCEM(INSTANCES, pop_size=INSTANCES * EACH, min_var=1e-2 * size**2)
    box = {"lower": lower, "upper": upper, "batch_shape": (problems,)}
    # starts at random depend on the seed, so they are given
    first = optimiser.start(**box).result().means
    whole = optimiser.minimize(
        lambda x: rough((x - centre[:, None]) / size), **box, mean=first, noise=noise
    )
    for b in range(problems):
        one = optimiser.minimize(
            lambda x, b=b: rough((x - centre[b]) / size),
            lower=lower[b],
            upper=upper[b],
            mean=first[b],
            noise=noise[:, b],
        )
        if int(whole.n_restarts.sum()) == 0:
            assert torch.equal(one.x, whole.x[b])
            assert torch.equal(one.history, whole.history[:, b])
        assert torch.equal(one.history[0], whole.history[0, b])
