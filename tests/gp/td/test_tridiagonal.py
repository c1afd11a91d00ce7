"""The tridiagonal operator against its dense matrix."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_geo.errors import NotPositiveDefiniteError, ShapeError
from pyro_geo.gp import TridiagonalLinearOperator


def arrays(n, batch=(), seed=0):
    """A diagonal that outweighs what is beside it, and a right-hand side."""
    generator = torch.Generator().manual_seed(seed)
    main = 2.1 + torch.rand(*batch, n, generator=generator).double()
    side = 2 * torch.rand(*batch, n - 1, generator=generator).double() - 1
    rhs = torch.randn(*batch, n, 3, generator=generator).double()
    return main, side, rhs


def dense(main, side):
    return (
        torch.diag_embed(main) + torch.diag_embed(side, 1) + torch.diag_embed(side, -1)
    )


@given(st.integers(1, 12), st.sampled_from([(), (2,), (2, 3)]), st.integers(0, 99))
def test_products_solutions_and_determinants_are_those_of_the_matrix(n, batch, seed):
    main, side, rhs = arrays(n, batch, seed)
    a, matrix = TridiagonalLinearOperator(main, side), dense(main, side)
    torch.testing.assert_close(a.to_dense(), matrix)
    torch.testing.assert_close(a @ rhs, matrix @ rhs)
    torch.testing.assert_close(a.mT.to_dense(), matrix)
    torch.testing.assert_close(a.diagonal(dim1=-1, dim2=-2), main)
    solution = torch.linalg.solve(matrix, rhs)
    torch.testing.assert_close(a.solve(rhs), solution)
    torch.testing.assert_close(a.solve(rhs, rhs.mT), rhs.mT @ solution)
    torch.testing.assert_close(a.logdet(), torch.linalg.slogdet(matrix).logabsdet)
    form, logdet = a.inv_quad_logdet(rhs, logdet=True)
    torch.testing.assert_close(form, (rhs * solution).sum((-2, -1)))
    torch.testing.assert_close(logdet, a.logdet())
    each, nothing = a.inv_quad_logdet(rhs, reduce_inv_quad=False)
    torch.testing.assert_close(each, (rhs * solution).sum(-2))
    assert nothing is None


def test_vectors_batches_and_parts():
    main, side, rhs = arrays(6)
    a, matrix = TridiagonalLinearOperator(main, side), dense(main, side)
    torch.testing.assert_close(
        a.solve(rhs[:, 0]), torch.linalg.solve(matrix, rhs[:, 0])
    )
    torch.testing.assert_close(a @ rhs[:, 0], matrix @ rhs[:, 0])
    torch.testing.assert_close(
        a.inv_quad_logdet(rhs[:, 0])[0], rhs[:, 0] @ a.solve(rhs[:, 0])
    )
    torch.testing.assert_close(a[1:4, 2:].to_dense(), matrix[1:4, 2:])
    torch.testing.assert_close(a.expand(2, 6, 6).to_dense(), matrix.expand(2, 6, 6))
    wide = a.solve(rhs.expand(4, 6, 3))
    torch.testing.assert_close(wide[2], torch.linalg.solve(matrix, rhs))
    sum_of_both = a + torch.eye(6).double()
    torch.testing.assert_close(sum_of_both.to_dense(), matrix + torch.eye(6).double())
    stack = TridiagonalLinearOperator(*arrays(6, (2,))[:2])
    torch.testing.assert_close(stack[1].to_dense(), stack.to_dense()[1])


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_derivatives_are_those_of_differences(n, batch):
    leaves = tuple(x.requires_grad_() for x in arrays(n, batch))

    def product(main, side, rhs):
        return TridiagonalLinearOperator(main, side) @ rhs

    def solution(main, side, rhs):
        return TridiagonalLinearOperator(main, side).solve(rhs)

    def determinant(main, side, rhs):
        return TridiagonalLinearOperator(main, side).logdet()

    for function in (product, solution):
        assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradcheck(lambda a, b: determinant(a, b, None), leaves[:2])


def test_draws_have_the_covariance():
    main, side, _ = arrays(4)
    draws = TridiagonalLinearOperator(main, side).zero_mean_mvn_samples(40_000)
    assert draws.shape == (40_000, 4)
    matrix = dense(main, side)
    error = (draws.mT @ draws / 40_000 - matrix).abs()
    # deviation of a product of two normal numbers
    spread = (matrix.square() + main.outer(main)).sqrt() / 200
    assert bool((error < 5 * spread).all())


def test_no_dense_matrix_is_made():
    # a dense matrix of this size would take 320 gigabytes
    main, side, rhs = (x.requires_grad_() for x in arrays(200_000))
    a = TridiagonalLinearOperator(main, side)
    form: Any = a.inv_quad_logdet(rhs)[0]
    (form + a.logdet()).backward()
    assert main.grad is not None
    residual: Any = a @ a.solve(rhs) - rhs
    assert float(residual.detach().abs().max()) < 1e-12


def test_mistakes_are_named():
    with pytest.raises(ShapeError, match="argument side"):
        TridiagonalLinearOperator(torch.ones(3), torch.ones(3))
    with pytest.raises(NotPositiveDefiniteError, match="row 1"):
        TridiagonalLinearOperator(torch.ones(3), 2 * torch.ones(2)).logdet()
    with pytest.raises(NotPositiveDefiniteError):
        TridiagonalLinearOperator(-torch.ones(1), torch.ones(0)).logdet()
