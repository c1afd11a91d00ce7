"""Positive-definite matrices: every product is that of the dense matrix."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo.geometry.block_matrices import BlockLowRank
from pyro_geo.geometry.matrices import (
    Cholesky,
    Dense,
    Diagonal,
    LowRank,
    PositiveDefinite,
    Spectral,
)
from tests.cases import numbers

FORMS: Any = ("diagonal", "low_rank", "blocks", "dense", "cholesky", "spectral")
EVERY_FORM = pytest.mark.parametrize("form", FORMS)


def positive_definite(dim: int, seed: int = 0, ridge: float = 0.3) -> torch.Tensor:
    """A positive-definite matrix."""
    factor = numbers(dim, dim, seed=seed)
    return factor @ factor.mT / dim + ridge * torch.eye(dim, dtype=torch.float64)


def example(form: str, dim: int, seed: int = 0) -> tuple[Any, torch.Tensor]:
    """A matrix, and the same written down from its definition."""
    scale = (0.3 * numbers(dim, seed=seed)).exp()
    if form == "diagonal":
        return Diagonal(scale), scale.square().diag()
    if form in ("dense", "cholesky", "spectral"):
        matrix = positive_definite(dim, seed)
        if form == "spectral":
            return Spectral(*torch.linalg.eigh(matrix)), matrix
        if form == "dense":
            return Dense.from_matrix(matrix), matrix
        return Cholesky(torch.linalg.cholesky(matrix)), matrix
    rank = min(2, dim)
    vectors = torch.linalg.qr(numbers(dim, rank, seed=seed + 1)).Q
    values = (0.5 * numbers(rank, seed=seed + 2)).exp()
    middle = torch.eye(dim).double() + vectors @ (values - 1).diag() @ vectors.mT
    if form == "low_rank":
        return LowRank(scale, vectors, values), scale.diag() @ middle @ scale.diag()
    # blocks of the coordinates 0, 2, 4, ... in pairs, and of each other one alone
    even, odd = list(range(0, dim, 2)), list(range(1, dim, 2))
    blocks = [even[i : i + 2] for i in range(0, len(even), 2)] + [[i] for i in odd]
    members = torch.tensor([block + [-1] * (2 - len(block)) for block in blocks])
    roots = torch.eye(2, dtype=torch.float64).repeat(len(blocks), 1, 1)
    root = torch.zeros(dim, dim, dtype=torch.float64)
    for i, block in enumerate(blocks):
        size = len(block)
        roots[i, :size, :size] = positive_definite(2, seed + 5 + i)[:size, :size]
        index = torch.tensor(block)
        root[index[:, None], index] = roots[i, :size, :size]
    matrix = BlockLowRank.from_blocks(members, roots, vectors, values)
    return matrix, root @ middle @ root


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    size = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8 * size)


@EVERY_FORM
@given(dim=st.integers(1, 6), seed=st.integers(0, 1000))
def test_products_are_those_of_the_dense_matrix(form, dim, seed):
    matrix, dense = example(form, dim, seed)
    rows = numbers(5, dim, seed=seed + 3)
    assert matrix.dim == dim
    assert_close(matrix.dense(), dense)
    assert_close(matrix.matvec(rows), rows @ dense)
    assert_close(matrix.solve(rows), rows @ torch.linalg.inv(dense))
    assert_close(matrix.logdet(), torch.linalg.slogdet(dense).logabsdet)
    assert_close(matrix.norm(rows), (rows @ dense * rows).sum(-1).sqrt())


@EVERY_FORM
@given(dim=st.integers(1, 6), seed=st.integers(0, 1000))
def test_the_roots_are_roots_of_the_matrix_and_of_its_inverse(form, dim, seed):
    matrix, dense = example(form, dim, seed)
    # the products are linear: the rows of their matrices give the covariances
    root = matrix.sample(torch.eye(dim, dtype=torch.float64))
    assert_close(root.mT @ root, dense)
    inverse_root = matrix.sample_inverse(torch.eye(dim, dtype=torch.float64))
    assert_close(inverse_root.mT @ inverse_root, torch.linalg.inv(dense))
    rows = numbers(5, dim, seed=seed + 3)
    assert_close(matrix.root_solve(matrix.sample(rows)), rows)


@EVERY_FORM
def test_rows_may_have_any_leading_axes_and_matrices_are_trees(form):
    matrix, _ = example(form, 3)
    matrix = type(matrix)(*(part.clone() for part in matrix))
    rows = numbers(2, 4, 3)
    for name in ("matvec", "solve", "sample", "sample_inverse", "root_solve"):
        product = getattr(matrix, name)
        assert_close(product(rows)[1, 2], product(rows[1, 2]))
    assert matrix.norm(rows).shape == (2, 4)


def test_directions_of_zeros_count_for_nothing():
    scale, axis = (
        numbers(3).exp(),
        torch.tensor([[0.6], [0.8], [0.0]], dtype=torch.float64),
    )
    value = torch.tensor([5.0], dtype=torch.float64)
    zero, one = torch.zeros(3, 1).double(), torch.ones(1).double()
    padded = LowRank(scale, torch.cat([axis, zero], 1), torch.cat([value, one]))
    assert_close(padded.dense(), LowRank(scale, axis, value).dense())
    assert_close(padded.logdet(), torch.logdet(padded.dense()))


def test_every_form_has_the_one_interface():
    def takes(matrix: PositiveDefinite) -> int:
        return matrix.dim

    names = {n for n in vars(PositiveDefinite) if not n.startswith("_")}
    forms = (Diagonal, LowRank, BlockLowRank, Dense, Cholesky, Spectral)
    assert all(hasattr(form, name) for form in forms for name in names)
    one = torch.ones(2)
    assert takes(Diagonal(one)) + takes(Cholesky(one.diag())) == 4


def test_spectral_matrices_side_by_side_each_have_their_own_row():
    each = torch.stack([positive_definite(3, seed) for seed in (1, 2)])
    matrix = Spectral(*torch.linalg.eigh(each))
    rows = numbers(2, 3)
    assert_close(matrix.dense(), each)
    assert_close(matrix.logdet(), torch.logdet(each))
    expected = torch.linalg.solve(each, rows.unsqueeze(-1)).squeeze(-1)
    assert_close(matrix.solve(rows), expected)
    assert_close(matrix.solve(matrix.matvec(rows)), rows)
