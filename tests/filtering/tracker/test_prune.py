"""What is read off at the end of a step, against small matrices of torch."""

import math

import pytest
import torch

from pyro_geo.filtering.tracker.mixing import pairs
from pyro_geo.filtering.tracker.prune import flat, unsound

F64 = torch.float64
TRACKS = 400


def blocks_of(cov, orders):
    """The kept blocks of `(n, n, tracks)`."""
    axes = cov.shape[0] // orders
    part = cov.unflatten(1, (orders, axes)).unflatten(0, (orders, axes))
    return tuple(part[a, :, b] for a, b in pairs(orders))


def symmetric(size):
    """Some are positive definite and some are not, in units far apart."""
    root = torch.randn(TRACKS, size, size, dtype=F64)
    scale = 10 ** torch.empty(TRACKS, size, dtype=F64).uniform_(-6, 6)
    square = root @ root.mT - 0.3 * torch.rand(TRACKS, 1, 1, dtype=F64)
    cov = square * (scale[:, None] * scale[:, :, None])
    return ((cov + cov.mT) / 2).movedim(0, -1)


@pytest.mark.parametrize(("orders", "axes"), [(1, 1), (1, 3), (2, 2), (3, 2), (2, 3)])
def test_a_covariance_is_unsound_where_it_has_no_factor(orders, axes):
    cov = symmetric(orders * axes)
    found = unsound(blocks_of(cov, orders), orders)
    lanes = cov.movedim(-1, 0)
    variance = lanes.diagonal(dim1=1, dim2=2)
    sd = variance.clamp(min=1e-300).sqrt()
    jitter = 1e-6 * torch.eye(orders * axes, dtype=F64)
    _, info = torch.linalg.cholesky_ex(lanes / (sd[:, None] * sd[:, :, None]) + jitter)
    expected = (info > 0) | (variance <= 0).any(1)
    assert torch.equal(found, expected)
    assert 0 < int(expected.sum()) < TRACKS


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 0.0])
def test_no_track_is_judged_by_another(bad):
    cov = torch.eye(4, dtype=F64)[..., None].repeat(1, 1, 3)
    cov[2, 2, 1] = bad
    assert unsound(blocks_of(cov, 2), 2).tolist() == [False, True, False]


def test_blocks_are_put_together_and_the_lower_ones_are_transposed():
    cov = symmetric(6)
    mean = tuple(torch.randn(3, 2, TRACKS, dtype=F64))
    together, whole = flat(mean, blocks_of(cov, 3))
    assert torch.equal(together, torch.cat(mean))
    assert torch.equal(whole, cov)
    assert whole.is_contiguous()
