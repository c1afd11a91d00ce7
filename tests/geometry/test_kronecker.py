"""Kronecker products and blocks do what their written-out matrices do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo.geometry.kronecker import Block, Kronecker
from pyro_geo.geometry.matrices import Cholesky, Dense, Diagonal, LowRank, Spectral
from tests.cases import numbers
from tests.geometry.test_matrices import assert_close, positive_definite


def kronecker(seed: int = 0) -> tuple[Kronecker, torch.Tensor]:
    parts = [positive_definite(n, seed + n) for n in (2, 3)]
    scale = (0.3 * numbers(2, seed=seed)).exp()
    factors = (
        Dense.from_matrix(parts[0]),
        Diagonal(scale),
        Spectral(*torch.linalg.eigh(parts[1])),
    )
    return Kronecker(factors), torch.kron(
        torch.kron(parts[0], scale.square().diag()), parts[1]
    )


def block(seed: int = 0) -> tuple[Block, torch.Tensor]:
    inner, dense = kronecker(seed)
    second = positive_definite(3, seed + 9)
    axis = torch.linalg.qr(numbers(4, 1, seed=seed)).Q
    low = LowRank(torch.ones(4).double(), axis, torch.tensor([5.0]).double())
    parts = {"k": inner, "c": Cholesky(torch.linalg.cholesky(second)), "l": low}
    third = torch.eye(4).double() + 4 * axis @ axis.mT
    return Block(parts), torch.block_diag(dense, second, third)


@pytest.mark.parametrize("make", [kronecker, block])
@given(seed=st.integers(0, 1000))
def test_products_are_those_of_the_dense_matrix(make, seed):
    matrix, dense = make(seed)
    rows = numbers(2, 3, matrix.dim, seed=seed + 3)
    assert matrix.dim == len(dense)
    assert_close(matrix.dense(), dense)
    assert_close(matrix.matvec(rows), rows @ dense)
    assert_close(matrix.solve(rows), rows @ torch.linalg.inv(dense))
    assert_close(matrix.logdet(), torch.linalg.slogdet(dense).logabsdet)
    assert_close(matrix.norm(rows), (rows @ dense * rows).sum(-1).sqrt())
    eye = torch.eye(matrix.dim).double()
    root = matrix.sample(eye)
    assert_close(root.mT @ root, dense)
    assert_close(matrix.root_solve(matrix.sample(rows)), rows)
    inverse = matrix.sample_inverse(eye)
    assert_close(inverse.mT @ inverse, torch.linalg.inv(dense))


def test_two_factors_multiply_a_matrix_from_both_sides():
    left, right = positive_definite(3), positive_definite(4, 1)
    g = numbers(3, 4)
    matrix = Kronecker((Dense.from_matrix(left), Dense.from_matrix(right)))
    found = matrix.matvec(g.flatten()).reshape(3, 4)
    torch.testing.assert_close(found, left @ g @ right)


def test_blocks_keep_their_order():
    matrix, _ = block()
    rows = matrix.split(torch.arange(matrix.dim))
    assert [len(part) for part in rows.values()] == [12, 3, 4]
    assert torch.equal(torch.cat(list(rows.values())), torch.arange(matrix.dim))
