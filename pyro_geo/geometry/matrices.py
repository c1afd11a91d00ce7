r"""Positive-definite matrices in forms that share one interface.

Each is a named tuple of tensors, so that it can be an input of a traced graph and be
stored as it is. A matrix `A` comes with a root `R`, :math:`A = R R^\top`. All products
take rows: `x` of `(..., dim)` holds one vector in each row.

- :class:`Diagonal`: `dim` numbers.
- :class:`LowRank`: a diagonal scale around a low-rank change of the identity.
- :class:`~pyro_geo.geometry.block_matrices.BlockLowRank`: small dense blocks around it.
- :class:`Dense`: the matrix, its root and the root's inverse at hand, for products by
  the thousand.
- :class:`Cholesky`: the root alone, with triangular solves; nothing is ever inverted.
- :class:`Spectral`: eigenvalues and vectors, where eigenvalues had to be repaired.
- :class:`~pyro_geo.geometry.kronecker.Kronecker` and
  :class:`~pyro_geo.geometry.kronecker.Block`: products and sums of the others.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pyro_geo.geometry._directions import stretched

__all__ = [
    "Cholesky",
    "Dense",
    "Diagonal",
    "LowRank",
    "PositiveDefinite",
    "Spectral",
]


class PositiveDefinite(Protocol):
    r"""What every positive-definite matrix :math:`A = R R^\top` can do."""

    @property
    def dim(self) -> int:
        """Number of rows."""
        ...

    def matvec(self, x: Tensor) -> Tensor:
        """Multiply, `A x`, `(..., dim)`."""
        ...

    def solve(self, x: Tensor) -> Tensor:
        r"""Multiply with the inverse, :math:`A^{-1} x`, `(..., dim)`."""
        ...

    def logdet(self) -> Tensor:
        """Logarithm of the determinant, `()`."""
        ...

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of covariance `A`: multiply with `R`."""
        ...

    def sample_inverse(self, noise: Tensor) -> Tensor:
        r"""Turn standard normal rows into rows of covariance :math:`A^{-1}`.

        This is :math:`R^{-\top} z`: draws from a precision without inverting it.
        """
        ...

    def root_solve(self, x: Tensor) -> Tensor:
        r"""Undo :meth:`sample`: :math:`R^{-1} x`, `(..., dim)`."""
        ...

    def norm(self, x: Tensor) -> Tensor:
        r"""Length of rows in this metric, :math:`\sqrt{x^\top A x}`, `(...)`."""
        ...

    def dense(self) -> Tensor:
        """The matrix written out, `(dim, dim)`."""
        ...


class Diagonal(NamedTuple):
    """The diagonal matrix `diag(scale ** 2)`.

    Attributes:
        scale: square roots of the diagonal, positive, `(dim,)`.

    Example:
        >>> Diagonal(torch.tensor([1.0, 3.0])).matvec(torch.ones(2)).tolist()
        [1.0, 9.0]
    """

    scale: Tensor

    @property
    def dim(self) -> int:
        """Number of rows."""
        return self.scale.shape[0]

    def matvec(self, x: Tensor) -> Tensor:
        """Multiply, `(..., dim)`."""
        return self.scale.square() * x

    def solve(self, x: Tensor) -> Tensor:
        """Multiply with the inverse, `(..., dim)`."""
        return x / self.scale.square()

    def logdet(self) -> Tensor:
        """Logarithm of the determinant, `()`."""
        return 2 * self.scale.log().sum()

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this covariance, `(..., dim)`."""
        return self.scale * noise

    def sample_inverse(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this precision, `(..., dim)`."""
        return noise / self.scale

    def root_solve(self, x: Tensor) -> Tensor:
        """Undo :meth:`sample`, `(..., dim)`."""
        return x / self.scale

    def norm(self, x: Tensor) -> Tensor:
        """Length of rows in this metric, `(...)`."""
        return _quadratic_norm(self, x)

    def dense(self) -> Tensor:
        """The matrix written out, `(dim, dim)`."""
        return self.scale.square().diag()


class LowRank(NamedTuple):
    r"""A floor and a few directions: :math:`S (I + U (D - I) U^\top) S`.

    `S` is `diag(scale)`, `D` is `diag(values)`. In units of the scale the matrix is 1
    everywhere but along the columns of `U`: that 1 is the floor, which keeps it
    positive definite at any rank.

    Attributes:
        scale: positive, `(dim,)`.
        vectors: orthonormal columns `U`, `(dim, rank)`; a column of zeros, with value
            1, changes nothing.
        values: positive eigenvalues along them, `(rank,)`.

    Example:
        >>> axis = torch.tensor([[1.0], [0.0]])
        >>> LowRank(torch.ones(2), axis, torch.tensor([4.0])).dense().tolist()
        [[4.0, 0.0], [0.0, 1.0]]
    """

    scale: Tensor
    vectors: Tensor
    values: Tensor

    @property
    def dim(self) -> int:
        """Number of rows."""
        return self.scale.shape[0]

    def matvec(self, x: Tensor) -> Tensor:
        """Multiply, `(..., dim)`."""
        return self.scale * stretched(self.scale * x, self.vectors, self.values)

    def solve(self, x: Tensor) -> Tensor:
        """Multiply with the inverse, `(..., dim)`."""
        inverse = self.values.reciprocal()
        return stretched(x / self.scale, self.vectors, inverse) / self.scale

    def logdet(self) -> Tensor:
        """Logarithm of the determinant, `()`."""
        # I + U (D - I) U' has the eigenvalues D, and 1 in all other directions
        return 2 * self.scale.log().sum() + self.values.log().sum()

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this covariance, `(..., dim)`."""
        # the symmetric root of the middle, scaled from the left alone
        return self.scale * stretched(noise, self.vectors, self.values.sqrt())

    def sample_inverse(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this precision, `(..., dim)`."""
        return stretched(noise, self.vectors, self.values.rsqrt()) / self.scale

    def root_solve(self, x: Tensor) -> Tensor:
        """Undo :meth:`sample`, `(..., dim)`."""
        return stretched(x / self.scale, self.vectors, self.values.rsqrt())

    def norm(self, x: Tensor) -> Tensor:
        """Length of rows in this metric, `(...)`."""
        return _quadratic_norm(self, x)

    def dense(self) -> Tensor:
        """The matrix written out, `(dim, dim)`."""
        return self.matvec(torch.eye(self.dim).to(self.scale))


class Dense(NamedTuple):
    """A matrix with its root and the root's inverse: each product is a matrix product.

    Attributes:
        matrix: `A`, symmetric, `(dim, dim)`.
        root: `R`, lower triangular, `(dim, dim)`.
        root_inverse: inverse of the root, `(dim, dim)`.

    Example:
        >>> a = torch.tensor([[4.0, 0.0], [0.0, 9.0]])
        >>> dense = Dense.from_matrix(a)
        >>> dense.sample(torch.ones(2)).tolist(), round(float(dense.logdet()), 4)
        ([2.0, 3.0], 3.5835)
    """

    matrix: Tensor
    root: Tensor
    root_inverse: Tensor

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> Dense:
        """Factor a matrix.

        Args:
            matrix: positive definite, `(dim, dim)`.

        Returns:
            The matrix with its Cholesky root; one that is not positive definite is an
            error of :func:`torch.linalg.cholesky`.
        """
        root = torch.linalg.cholesky(matrix)
        return cls(matrix, root, torch.linalg.inv(root))

    @property
    def dim(self) -> int:
        """Number of rows."""
        return self.matrix.shape[0]

    def matvec(self, x: Tensor) -> Tensor:
        """Multiply, `(..., dim)`."""
        return x @ self.matrix

    def solve(self, x: Tensor) -> Tensor:
        """Multiply with the inverse, `(..., dim)`."""
        # A^-1 = R'^-1 R^-1, on rows from the right
        return (x @ self.root_inverse.mT) @ self.root_inverse

    def logdet(self) -> Tensor:
        """Logarithm of the determinant, `()`."""
        return 2 * self.root.diagonal().log().sum()

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this covariance, `(..., dim)`."""
        return noise @ self.root.mT

    def sample_inverse(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this precision, `(..., dim)`."""
        return noise @ self.root_inverse

    def root_solve(self, x: Tensor) -> Tensor:
        """Undo :meth:`sample`, `(..., dim)`."""
        return x @ self.root_inverse.mT

    def norm(self, x: Tensor) -> Tensor:
        """Length of rows in this metric, `(...)`."""
        return _quadratic_norm(self, x)

    def dense(self) -> Tensor:
        """The matrix itself, `(dim, dim)`."""
        return self.matrix


class Cholesky(NamedTuple):
    """A dense matrix known by its root alone, solved with and never inverted.

    A third of the memory of :class:`Dense`, and accurate where the matrix is close to
    singular; products cost two triangular ones.

    Attributes:
        root: `R`, lower triangular, `(dim, dim)`.

    Example:
        >>> factor = Cholesky(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
        >>> factor.solve(torch.ones(2)).tolist()
        [0.25, 0.0625]
    """

    root: Tensor

    @property
    def dim(self) -> int:
        """Number of rows."""
        return self.root.shape[0]

    def matvec(self, x: Tensor) -> Tensor:
        """Multiply, `(..., dim)`."""
        return (x @ self.root) @ self.root.mT  # A = R R', on rows from the right

    def solve(self, x: Tensor) -> Tensor:
        """Multiply with the inverse, `(..., dim)`."""
        return self.sample_inverse(self.root_solve(x))

    def logdet(self) -> Tensor:
        """Logarithm of the determinant, `()`."""
        return 2 * self.root.diagonal().log().sum()

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this covariance, `(..., dim)`."""
        return noise @ self.root.mT

    def sample_inverse(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this precision, `(..., dim)`."""
        # the triangular solve takes columns
        rows = noise.reshape(-1, self.dim)
        solved = torch.linalg.solve_triangular(self.root.T, rows.T, upper=True).T
        return solved.reshape(noise.shape)

    def root_solve(self, x: Tensor) -> Tensor:
        """Undo :meth:`sample`, `(..., dim)`."""
        rows = x.reshape(-1, self.dim)
        solved = torch.linalg.solve_triangular(self.root, rows.T, upper=False).T
        return solved.reshape(x.shape)

    def norm(self, x: Tensor) -> Tensor:
        """Length of rows in this metric, `(...)`."""
        return (x @ self.root).norm(dim=-1)

    def dense(self) -> Tensor:
        """The matrix written out, `(dim, dim)`."""
        return self.root @ self.root.mT


class Spectral(NamedTuple):
    r"""A matrix by its eigenvalues and vectors, :math:`V \,\mathrm{diag}(d)\, V^\top`.

    Parts with a leading axis are that many matrices, each for its own row.

    Attributes:
        values: positive eigenvalues `d`, `(dim,)` or `(n, dim)`.
        vectors: orthonormal columns `V`, `(dim, dim)` or `(n, dim, dim)`.

    Example:
        >>> matrix = Spectral(torch.tensor([1.0, 4.0]), torch.eye(2))
        >>> matrix.sample_inverse(torch.ones(2)).tolist()
        [1.0, 0.5]
    """

    values: Tensor
    vectors: Tensor

    @property
    def dim(self) -> int:
        """Number of rows."""
        return self.values.shape[-1]

    def matvec(self, x: Tensor) -> Tensor:
        """Multiply, `(..., dim)`."""
        return self.sample(self.values.sqrt() * self._turn(x))  # V d V' x

    def solve(self, x: Tensor) -> Tensor:
        """Multiply with the inverse, `(..., dim)`."""
        return self.sample_inverse(self.values.rsqrt() * self._turn(x))

    def logdet(self) -> Tensor:
        """Logarithm of the determinant, `()` or `(n,)`."""
        return self.values.log().sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this covariance, `(..., dim)`."""
        return _columns(self.vectors, self.values.sqrt() * noise)

    def sample_inverse(self, noise: Tensor) -> Tensor:
        """Turn standard normal rows into rows of this precision, `(..., dim)`."""
        return _columns(self.vectors, self.values.rsqrt() * noise)

    def root_solve(self, x: Tensor) -> Tensor:
        """Undo :meth:`sample`, `(..., dim)`."""
        return self.values.rsqrt() * self._turn(x)

    def norm(self, x: Tensor) -> Tensor:
        """Length of rows in this metric, `(...)`."""
        return (self.values.sqrt() * self._turn(x)).norm(dim=-1)

    def dense(self) -> Tensor:
        """The matrix written out, `(dim, dim)` or `(n, dim, dim)`."""
        return (self.vectors * self.values.unsqueeze(-2)) @ self.vectors.mT

    def _turn(self, x: Tensor) -> Tensor:
        """Coordinates of rows along the eigenvectors."""
        return _columns(self.vectors.mT, x)


def _columns(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply each row, as a column, with its matrix."""
    if matrix.ndim == 2:  # one for all rows: a single product
        return x @ matrix.mT
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)


def _quadratic_norm(matrix: PositiveDefinite, x: Tensor) -> Tensor:
    # rounding can leave a tiny negative square
    return (x * matrix.matvec(x)).sum(-1).clamp(min=0).sqrt()
