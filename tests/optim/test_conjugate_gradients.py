"""Conjugate gradients against direct solves."""

import pytest
import torch

from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.optim.conjugate_gradients import conjugate_gradients


def _system(condition: float = 100.0, dim: int = 12) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    vectors = torch.linalg.qr(noise).Q
    values = torch.logspace(0, 1, dim, base=condition, dtype=torch.float64)
    b = torch.randn(3, dim, generator=generator, dtype=torch.float64)
    return (vectors * values) @ vectors.T, b


@pytest.mark.parametrize("scaled", [False, True])
def test_solutions_are_those_of_a_direct_solve(scaled: bool) -> None:
    a, b = _system()
    b[1] = 0.0
    diagonal = a.diagonal() if scaled else None
    found = conjugate_gradients(lambda v: v @ a, b, diagonal=diagonal)
    torch.testing.assert_close(found.x, torch.linalg.solve(a, b.T).T)
    assert bool(found.positive.all())
    assert float(found.residual.max()) < 1e-9


def test_as_many_products_as_distinct_eigenvalues_do() -> None:
    scale = torch.tensor([1.0, 1.0, 5.0, 5.0, 5.0]).double()
    found = conjugate_gradients(lambda v: scale * v, torch.ones(1, 5).double())
    assert found.num_products == 2


def test_a_matrix_that_is_not_positive_is_told() -> None:
    scale = torch.tensor([1.0, -1.0]).double()
    b = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    found = conjugate_gradients(lambda v: scale * v, b)
    assert found.positive.tolist() == [False, True]
    assert found.residual.tolist() == [1.0, 0.0]


def test_too_few_products_show_in_the_residual() -> None:
    a, b = _system(condition=1e6)
    found = conjugate_gradients(lambda v: v @ a, b, max_steps=2)
    assert found.num_products == 2
    residual = (b - found.x @ a).norm(dim=1) / b.norm(dim=1)
    torch.testing.assert_close(found.residual, residual)


def test_mistakes_are_named() -> None:
    with pytest.raises(ShapeError):
        conjugate_gradients(lambda v: v, torch.ones(3))
    with pytest.raises(ConfigurationError, match="tolerance"):
        conjugate_gradients(lambda v: v, torch.ones(1, 3), tolerance=0.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_right_hand_side_that_is_not_finite_is_not_solved(value: float) -> None:
    a, b = _system()
    clean = conjugate_gradients(lambda v: v @ a, b)
    b[1, 3] = value
    found = conjugate_gradients(lambda v: v @ a, b)
    assert found.residual.isfinite().tolist() == [True, False, True]
    assert not bool(found.x[1].isfinite().all())
    torch.testing.assert_close(found.x[[0, 2]], clean.x[[0, 2]])
    alone = conjugate_gradients(lambda v: v @ a, b[1:2])
    assert bool(alone.residual.isnan().all())
