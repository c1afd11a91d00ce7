"""The numbered noise: its distribution, its independence, compiled and not."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_geo.optim.cem.noise import Drawn, Given, Stream, _normal

SEARCHES, SIZE, DIM = 64, 50, 7


def stream(seed: int, trunc: float = 2.0, *, compiled: bool = False) -> Stream:
    return Stream(torch.Generator().manual_seed(seed), trunc, compiled=compiled)


def noise(
    source: Stream,
    dtype: torch.dtype = torch.float64,
    iteration: int = 0,
    searches: int = SEARCHES,
    size: int = SIZE,
    dim: int = DIM,
) -> Drawn:
    like = torch.empty(1, dim, dtype=dtype)
    return Drawn(source, torch.arange(searches), iteration, size, like)


def quantiles(z: Tensor, trunc: float = 2.0) -> Tensor:
    """Where each draw is in its distribution; uniform if the noise is right."""
    edge = math.erf(trunc / math.sqrt(2.0))
    return 0.5 + 0.5 * torch.erf(z.double() / math.sqrt(2.0)) / edge


@pytest.mark.parametrize("trunc", [0.7, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_truncated_normal(trunc, dtype):
    z = noise(stream(1, trunc), dtype).standard()
    assert z.dtype == dtype
    # the last bits are what the cap on the standard deviation leaves room for
    assert float(z.abs().max()) <= trunc * (1 + 4 * torch.finfo(dtype).eps)
    assert bool(z.isfinite().all())
    p = stats.kstest(quantiles(z, trunc).flatten().numpy(), "uniform").pvalue
    assert p > 1e-5


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 5e-7), (torch.float64, 1e-11)]
)
def test_the_rational_function_is_the_inverse_up_to_the_edge(dtype, error):
    words = torch.linspace(-(2.0**31), 2.0**31, 20_001, dtype=torch.float64)
    u = words * (math.erf(math.sqrt(2.0)) * 2.0**-31)
    exact = math.sqrt(2.0) * torch.erfinv(u)
    rounded = words.to(dtype)
    z = _normal(rounded.clone(), 2.0)
    # what rounding a word does to a draw, beside the error of the fit
    slack = error + 10 * torch.finfo(dtype).eps
    assert float((z.double() - exact).abs().max()) < slack
    assert float(z.abs().max()) <= 2.0 * (1 + 6 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "dim"), [(50, 7), (1, 1), (3, 3), (16, 16)])
def test_compiled_loops_give_the_same_numbers(dtype, size, dim):
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(SEARCHES, dim, generator=generator, dtype=dtype)
    std = torch.rand(SEARCHES, dim, generator=generator, dtype=dtype)
    plain, loops = [
        noise(stream(5, compiled=c), dtype, 11, size=size, dim=dim)
        for c in (False, True)
    ]
    assert loops.stream.compiles(1)
    assert not plain.stream.compiles(1)
    assert torch.equal(plain.placed(mean, std), loops.placed(mean, std))
    assert torch.equal(plain.standard(), loops.standard())
    given = Given(plain.standard())
    assert torch.equal(given.placed(mean, std), plain.placed(mean, std))


def test_a_search_has_its_noise_wherever_it_stands():
    source = stream(7)
    whole = noise(source).standard()
    some = noise(source)._replace(home=torch.tensor([40, 3])).standard()
    assert torch.equal(some, whole[[40, 3]])


def test_searches_iterations_and_seeds_have_noise_of_their_own():
    parts = [noise(stream(0), iteration=i).standard().flatten(1) for i in range(3)]
    parts += [noise(stream(seed)).standard().flatten(1) for seed in (1, 2)]
    rows = torch.cat(parts)
    assert len(rows.flatten().unique()) == rows.numel()
    # correlations of all pairs of streams: normal with variance 1 / numbers
    standard = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
    pairs = torch.ones(len(rows), len(rows)).triu(1) > 0
    z = (standard @ standard.T)[pairs] / math.sqrt(rows.shape[1])
    assert float(z.abs().max()) < stats.norm.isf(1e-5 / len(z) / 2)
    assert stats.kstest(z[::100].numpy(), "norm").pvalue > 1e-5


@pytest.mark.parametrize("step", [1, 2, 4, 87, 88, 175])
def test_neighbouring_numbers_are_independent(step):
    # 350 numbers of a search are four planes of 88 words
    u = quantiles(noise(stream(4), torch.float32, searches=512).standard()).flatten(1)
    cell = (u * 16).long().clamp(max=15)
    pairs = (cell[:, :-step] * 16 + cell[:, step:]).flatten()
    counts = pairs.bincount(minlength=256)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-5


def test_places_within_searches_are_uniform():
    u = quantiles(noise(stream(6), torch.float32, searches=4096, size=3).standard())
    counts = torch.stack(
        [(u.flatten(1)[:, j] * 64).long().bincount(minlength=64) for j in range(21)]
    )
    p = stats.chisquare(counts.numpy(), axis=1).pvalue
    assert p.min() > 1e-5 / 21


def test_infinitely_wide_noise_is_normal():
    z = noise(stream(8, math.inf)).standard().flatten()
    assert float(z.abs().max()) > 3.5
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-5


def test_loops_are_used_where_they_pay(monkeypatch):
    from pyro_geo.optim.cem import noise as module

    monkeypatch.setattr(module, "_KERNEL", "not loaded")
    monkeypatch.setattr(module._Account, "spent", 0.0)
    generator = torch.Generator()
    assert Stream(generator, 2.0, 1e9).compiles(1)
    assert not Stream(generator, 3.0, 1e9).compiles(1)
    small = Stream(generator, 2.0)
    assert not small.compiles(1000)
    assert sum(small.compiles(1000) for _ in range(4000)) > 400
